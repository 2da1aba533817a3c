"""The pages of the operators' listener: metrics, probes and the console."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web

from hub.delivery.overview import Observer
from hub.http import exposition
from hub.http.authorization import Access, HostNames
from hub.http.console import Console
from hub.http.gauges import Parts, set_own, set_seen
from hub.http.guard import guard
from hub.http.listener import MAX_BODY
from hub.storage import STALE_AFTER

TIMEOUT = 0.8
"""Seconds that a scrape waits for the overview; after that the gauges keep their former values."""


class Pages:
    """The pages for operators.

    Args:
        is_serving: whether calls are served now.
    """

    def __init__(
        self, parts: Parts, observer: Observer, access: Access, console: Console, is_serving: Callable[[], bool]
    ) -> None:
        self._parts = parts
        self._console = console
        self._observer = observer
        self._access = access
        self._is_serving = is_serving
        self._hosts = HostNames(parts.settings, "http_listen")

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(middlewares=[guard(self._hosts)], client_max_size=MAX_BODY)
        application.add_routes(
            [
                web.get("/metrics", self.metrics),
                web.get("/healthz", self.healthz),
                web.get("/readyz", self.readyz),
                *self._console.routes(),
            ]
        )
        return application

    async def metrics(self, request: web.Request) -> web.Response:
        """All metrics, in the format of Prometheus or OpenMetrics."""
        self._access.require(request)
        with suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT):
                seen = await self._observer.overview()
            set_seen(self._parts.settings, seen)
        silence = self._parts.log.silence()  # once, so that no gauge disagrees with another
        set_own(self._parts, silence, serving=not self._not_ready(silence))
        found = exposition.families()
        text, content_type = await asyncio.to_thread(exposition.written, found, request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def healthz(self, _request: web.Request) -> web.Response:
        """200 while the event loop runs."""
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        """200 while calls are served and the store is current; otherwise 503 with the reason."""
        reason = self._not_ready(self._parts.log.silence())
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    def _not_ready(self, silence: float) -> str:
        if not self._is_serving():
            return "the hub does not serve calls"
        if self._parts.log.failed:
            return "the store has failed: a restart is needed"
        return "" if silence < STALE_AFTER else "the store is silent: no events are sent"
