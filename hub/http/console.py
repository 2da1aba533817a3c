"""The operators' console: a static shell, and calls of the contract's methods as JSON, by the admin's own key.

The shell holds no data and needs no key. Everything else is `hub.api.json_calls`: this module refuses
requests that a browser sends for another site's page.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import web

from hub.api.json_calls import JsonCalls
from hub.http.assets import Asset, read_assets
from hub.http.guard import Handler
from hub.http.requests import HttpCall, body_of

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
            *(f"{what} 'none'" for what in ("base-uri", "form-action", "frame-ancestors")),
            "require-trusted-types-for 'script'",
        )
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Headers of the console's answers, in addition to those of every answer."""

SCRIPTS = (
    *("api", "applications", "audit", "chart", "console", "decision", "dom", "findings", "integrations", "lists"),
    *("overview", "scopes", "suspension"),
)
FILES = ("console.html", "console.css", "icon.svg", *(f"{name}.js" for name in SCRIPTS))

OURS = frozenset({"same-origin", "none"})
"""The Sec-Fetch-Site of a request that our own page or its user makes."""


class Console:
    """Serves the console."""

    def __init__(self, calls: JsonCalls) -> None:
        self._calls = calls
        self._files = read_assets(FILES)

    def routes(self) -> list[web.RouteDef]:
        """The routes of the console."""
        shell = web.get("/console", self._served(self._files["console.html"]))
        files = [
            web.get(f"/console/{name}", self._served(file))
            for name, file in self._files.items()
            if name != "console.html"
        ]
        calls = [web.post(f"/console/api/{name}", self._called(name)) for name in self._calls.names]
        return [shell, *files, *calls]

    def _served(self, file: Asset) -> Handler:
        async def serve(request: web.Request) -> web.Response:
            require_own_page(request)
            return web.Response(body=file.body, content_type=file.kind, charset="utf-8", headers=HEADERS)

        return serve

    def _called(self, name: str) -> Handler:
        async def serve(request: web.Request) -> web.Response:
            require_own_page(request)
            if request.content_type != "application/json":  # a form of another page cannot send this
                raise web.HTTPUnsupportedMediaType(text="send JSON, with 'Content-Type: application/json'\n")
            reply = await self._calls.serve(name, HttpCall(request), await body_of(request))
            return web.Response(body=reply.body, status=reply.status, content_type="application/json", headers=HEADERS)

        return serve


def require_own_page(request: web.Request) -> None:
    """Refuse requests that a browser sends for another site's page; following a link to the console is allowed.

    Raises:
        HTTPForbidden: another page asks.
    """
    headers = request.headers
    site, origin = headers.get("Sec-Fetch-Site", "none"), headers.get("Origin")
    is_visit = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest") == "document"
    if site not in OURS and not (is_visit and request.method == "GET"):
        raise web.HTTPForbidden(text="the console accepts requests only from its own page, not from another site\n")
    if origin is not None and not is_origin(origin, headers.get("Host", "")):
        raise web.HTTPForbidden(text="the console accepts requests only from its own page, not from another origin\n")


def is_origin(origin: str, host: str) -> bool:
    """Whether an Origin header names this host."""
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # it is no URL
        return False
