"""An HTTP request in the form of a gRPC call, for the checks in ``hub/api/guards.py``."""

from collections.abc import Iterable

from aiohttp import web


async def body_of(request: web.Request) -> bytes:
    """The body of a request.

    Raises:
        HTTPBadRequest: it did not arrive as its headers announce it.
        HTTPRequestEntityTooLarge: it is too large.
    """
    try:
        return await request.read()
    except (web.RequestPayloadError, ConnectionError):
        raise web.HTTPBadRequest(text="the body did not arrive as its headers announce it\n") from None


class HttpCall:
    """The caller of a request, by its connection and its headers."""

    def __init__(self, request: web.Request) -> None:
        self._request = request

    def peer(self) -> str:
        """The other end of the connection, as gRPC writes it."""
        named = self._request.transport.get_extra_info("peername") if self._request.transport is not None else None
        if not isinstance(named, tuple):
            return "unknown:"
        host, port = named[:2]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    def invocation_metadata(self) -> Iterable[tuple[str, str]]:
        """The headers, with lower-case names; characters that are not ASCII become question marks, which no key has."""
        return [
            (name.lower(), value.encode("ascii", "replace").decode()) for name, value in self._request.headers.items()
        ]
