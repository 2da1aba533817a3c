"""The public directory: pages, JSON and a feed, without cookies, scripts or a log of its readers."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Middleware

from hub.api.guards import Guards
from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.control.token_buckets import TokenBuckets
from hub.errors import HubError
from hub.http.assets import Asset, asset, read_assets
from hub.http.authorization import HostNames
from hub.http.directory.cache import Cache
from hub.http.directory.changes import BY_NAME, ScopeChange, history
from hub.http.directory.entries import ENVELOPE, as_json, changes_as_json, entry_of
from hub.http.directory.forgetting import ForgettingCounts
from hub.http.directory.pace import paced
from hub.http.directory.rendering import Renderer
from hub.http.directory.snapshot import Listed, Snapshot, Snapshots, words_of
from hub.http.guard import Handler, guard
from hub.http.requests import HttpCall
from hub.permissions import SCOPES
from hub.storage import Log

PAGE_SIZE = 30
FEED_SIZE = 50
MAX_QUERY = 100
"""Characters, as of FindIntegrations."""

PERIOD = 10.0
PER_ADDRESS = 50
IN_ALL = 200
"""Requests within `PERIOD` seconds; a client with more waits up to `MAX_WAIT` seconds for a turn, or is refused."""

MAX_WAIT = 2.0

HEADERS: Mapping[str, str] = {
    "Cache-Control": "public, no-cache",  # kept, and revalidated each time: what is enforced changes at once
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
STYLE = "directory.css"
ICON = "icon.svg"


class Query(NamedTuple):
    """The query of a list."""

    text: str
    scope: str
    page: int


class Directory:
    """The directory of one hub."""

    def __init__(self, log: Log, registry: Registry, settings: Settings, guards: Guards, clock: Clock) -> None:
        self._log = log
        self._hosts = HostNames(settings, "directory_listen")
        self._guards = guards
        self._addresses = TokenBuckets(PER_ADDRESS, PERIOD, clock)
        self._all = TokenBuckets(IN_ALL, PERIOD, clock)
        self._snapshots = Snapshots(registry, clock)
        self._forgetting = ForgettingCounts(registry, clock)
        self._cache = Cache()
        self._files = read_assets((STYLE, ICON))
        self._renderer = Renderer(scopes=list(SCOPES.values()), envelope=ENVELOPE, style=self._files[STYLE].tag)
        self._working = asyncio.Lock()  # one page is made at a time

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(middlewares=[guard(self._hosts, HEADERS), self._turns()], client_max_size=1)
        application.add_routes(
            [
                web.get("/", self.list),
                web.get("/integrations.json", self.list_json),
                web.get(r"/integrations/{id:[0-9A-Za-z]{1,40}}", self.one),
                web.get(r"/integrations/{id:[0-9A-Za-z]{1,40}}.json", self.one_json),
                web.get("/feed.atom", self.feed),
                web.get(f"/{STYLE}", self.file),
                web.get(f"/{ICON}", self.file),
                web.get("/robots.txt", self.robots),
            ]
        )
        return application

    def _turns(self) -> Middleware:
        """The middleware that delays clients with too many requests, and renders refusals as pages."""

        @web.middleware
        async def turns(request: web.Request, handler: Handler) -> web.StreamResponse:
            await self._turn(request)
            try:
                return await handler(request)
            except web.HTTPClientError as refused:
                if refused.status == 405 or request.path.endswith((".json", ".atom")):
                    raise
                return await self._refusal(refused)
            except HubError as error:
                return web.Response(text=f"{error.message}\n", status=503, headers={"Retry-After": "5"})

        return turns

    async def _turn(self, request: web.Request) -> None:
        """Wait for a turn.

        Raises:
            HTTPTooManyRequests: the wait would be too long.
        """
        address = self._guards.addresses.of(HttpCall(request)).address
        for buckets, name in ((self._addresses, address), (self._all, "")):
            if wait := buckets.take(name):
                await asyncio.sleep(min(wait, MAX_WAIT))
                if wait := buckets.take(name):
                    raise web.HTTPTooManyRequests(
                        text="too many requests: wait\n", headers={"Retry-After": str(int(wait) + 1)}
                    )

    async def list(self, request: web.Request) -> web.Response:
        """A page of the list, or of a search."""
        query, snapshot = _query(request), await self._snapshots.newest()

        async def make() -> bytes:
            found, pages = await _page(snapshot, query)
            return await self._renderer.page(
                "list.html",
                integrations=[entry_of(one) for one in found.page],
                total=found.total,
                pages=pages,
                query=query,
            )

        return await self._answer(request, ("list", query, snapshot.position), make, "list.html")

    async def list_json(self, request: web.Request) -> web.Response:
        """The same page as JSON."""
        query, snapshot = _query(request), await self._snapshots.newest()

        async def make() -> bytes:
            found, pages = await _page(snapshot, query)
            return await asyncio.to_thread(_listing, found, query.page, pages)

        return await self._answer(request, ("json", query, snapshot.position), make, "list.json")

    async def one(self, request: web.Request) -> web.Response:
        """One integration, with every change of its scopes."""
        one = self._listed(request, await self._snapshots.newest())
        forgetting = self._forgetting.of(one.record.integration_id)

        async def make() -> bytes:
            changes = await history(self._log, one.record.integration_id)
            return await self._renderer.page(
                "integration.html", one=entry_of(one), history=changes, forgetting=forgetting
            )

        return await self._answer(request, ("one", *_version(one), forgetting), make, "one.html")

    async def one_json(self, request: web.Request) -> web.Response:
        """The same page as JSON."""
        one = self._listed(request, await self._snapshots.newest())
        forgetting = self._forgetting.of(one.record.integration_id)

        async def make() -> bytes:
            changes = await history(self._log, one.record.integration_id)
            erasures = forgetting._asdict()
            return _json({"integration": as_json(one), **changes_as_json(changes), "erasures": erasures})

        return await self._answer(request, ("one.json", *_version(one), forgetting), make, "one.json")

    async def feed(self, request: web.Request) -> web.Response:
        """The newest changes of scopes of listed integrations, for feed readers."""
        snapshot = await self._snapshots.newest()

        async def make() -> bytes:
            changes = (await history(self._log, most=FEED_SIZE * 4)).changes
            entries = _entries(snapshot, changes)
            return await self._renderer.page("feed.atom", entries=entries[:FEED_SIZE])

        return await self._answer(request, ("feed", snapshot.position), make, "feed.atom")

    async def file(self, request: web.Request) -> web.Response:
        """A style sheet or the icon."""
        return _served(request, self._files[request.path.removeprefix("/")])

    async def robots(self, _request: web.Request) -> web.Response:
        """Everything may be indexed, page by page."""
        return web.Response(text="User-agent: *\nAllow: /\nCrawl-delay: 1\n")

    def _listed(self, request: web.Request, snapshot: Snapshot) -> Listed:
        """The integration that a path names.

        Raises:
            HTTPNotFound: it is not listed.
        """
        found = snapshot.by_id.get(request.match_info["id"])
        if found is None:
            raise web.HTTPNotFound(text="no such integration is listed\n")
        return found

    async def _answer(
        self, request: web.Request, key: Hashable, make: Callable[[], Awaitable[bytes]], name: str
    ) -> web.Response:
        return _served(request, await self._cached(key, make, name))

    async def _cached(self, key: Hashable, make: Callable[[], Awaitable[bytes]], name: str) -> Asset:
        """A page from the cache, or a new one."""
        page = self._cache.get(key)
        if page is None:
            async with self._working:
                page = self._cache.get(key)  # another request may have rendered it meanwhile
                if page is None:
                    page = asset(await make(), name)
                    self._cache.put(key, page)
        return page

    async def _refusal(self, refused: web.HTTPException) -> web.Response:
        """The page that says why; from the cache: a crawler that does not wait gets it as often as it asks."""
        why = (refused.text or "").strip()
        if refused.status == 404 and why.startswith("404"):  # nothing of ours said what is missing
            why = "there is no such page"

        async def make() -> bytes:
            return await self._renderer.page("refusal.html", status=refused.status, why=why)

        page = await self._cached(("refusal", refused.status, why), make, "refusal.html")
        return web.Response(body=page.body, status=refused.status, content_type=page.kind, charset="utf-8")


class Found(NamedTuple):
    """The integrations of one page, and how many there are in all."""

    page: Sequence[Listed]
    total: int


async def _page(snapshot: Snapshot, query: Query) -> tuple[Found, int]:
    """The integrations of a page, and the number of pages.

    Raises:
        HTTPNotFound: there is no such page.
    """
    words, scope = words_of(query.text), BY_NAME[query.scope].number if query.scope else 0
    every = snapshot.listed
    if words or scope:
        every = await asyncio.to_thread(snapshot.found, words, scope)
    pages = max(1, -(-len(every) // PAGE_SIZE))
    if query.page > pages:
        raise web.HTTPNotFound(text=f"the last page is page {pages}\n")
    return Found(every[(query.page - 1) * PAGE_SIZE : query.page * PAGE_SIZE], len(every)), pages


def _query(request: web.Request) -> Query:
    """The query in a request's URL.

    Raises:
        HTTPBadRequest: it cannot be read; the text says why.
    """
    query, scope, page = (request.query.get(name, "").strip() for name in ("q", "scope", "page"))
    if len(query) > MAX_QUERY:
        raise web.HTTPBadRequest(text=f"a search can have at most {MAX_QUERY} characters\n")
    if scope and scope not in BY_NAME:
        raise web.HTTPBadRequest(text=f"there is no such scope: use {', '.join(BY_NAME)}\n")
    if page and not (page.isascii() and page.isdigit() and int(page[:9]) > 0 and len(page) < 9):
        raise web.HTTPBadRequest(text="a page is a number, from 1\n")
    return Query(query, scope, int(page or 1))


def _served(request: web.Request, page: Asset) -> web.Response:
    """A page, or 304 if the client has it."""
    etag = f'"{page.tag}"'
    if etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers={"ETag": etag})
    return web.Response(body=page.body, content_type=page.kind, charset="utf-8", headers={"ETag": etag})


def _version(one: Listed) -> tuple[Hashable, ...]:
    return one.record.integration_id, one.position, one.guild_count


def _listing(found: Found, page: int, pages: int) -> bytes:
    content = [as_json(one) for one in paced(found.page)]
    return _json({"integrations": content, "page": page, "pages": pages, "total": found.total})


def _json(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def _entries(snapshot: Snapshot, changes: Sequence[ScopeChange]) -> list[tuple[Listed, ScopeChange]]:
    """Changes with their integrations, of listed integrations only."""
    return [(snapshot.by_id[one.integration_id], one) for one in changes if one.integration_id in snapshot.by_id]
