"""The middleware of every HTTP listener: host names, headers, faults, counting, closing the connection."""

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web, web_response
from aiohttp.typedefs import Middleware

from hub import metrics
from hub.http.authorization import HostNames

HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
"""Headers of every answer, unless it sets them itself."""

log = structlog.get_logger()

logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL + 1)
"""It logs bytes that are not HTTP, as errors that may quote a token; faults of ours are `guard`'s."""

web_response.SERVER_SOFTWARE = "tickets-hub"  # type: ignore[attr-defined]  # it would tell everybody its versions

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guard(hosts: HostNames, headers: Mapping[str, str] = HEADERS) -> Middleware:
    """The middleware of a listener: one request for each connection, so that its time is that of the connection."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            require_host(hosts, request)
            response = await handler(request)
        except web.HTTPException as refused:
            _finish(request, refused, headers)
            raise
        except Exception as error:  # noqa: BLE001  the last place where a fault is still ours to tell
            response = _fault(error)
        _finish(request, response, headers)
        return response

    return guarded


def require_host(hosts: HostNames, request: web.Request) -> None:
    """Refuse a Host that does not name this hub.

    Raises:
        HTTPMisdirectedRequest: it is not.
    """
    if not hosts.has(request.headers.get("Host", "")):
        raise web.HTTPMisdirectedRequest(text="unknown host name: add the hub's names to the setting http_hosts\n")


def _finish(request: web.Request, response: web.StreamResponse, headers: Mapping[str, str]) -> None:
    resource = request.match_info.route.resource
    metrics.HTTP_REQUESTS.add(1, resource.canonical if resource is not None else "other", str(response.status))
    for name, value in headers.items():
        response.headers.setdefault(name, value)
    response.force_close()


def _fault(error: Exception) -> web.Response:
    """The answer after a fault of the hub, which is logged under the incident's id."""
    incident = secrets.token_hex(6)
    log.error("incident", incident=incident, exc_info=error)
    return web.Response(text=f"internal error; the hub's log has it as incident {incident}\n", status=500)
