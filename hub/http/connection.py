"""One connection of the HTTP listener: its TLS, and its end."""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from aiohttp import web

from hub.api.peers import IPAddress, parsed

LIFETIME = 10.0
"""Seconds from its first packet after which a connection is closed: no scraper waits longer."""


class Connection(asyncio.Protocol):
    """Passes a peer's bytes to aiohttp, for a limited time.

    Args:
        admits: whether there is room for a connection of its host.
        ended: is called at the end, perhaps more than once.

    Attributes:
        host: where the peer is; None until it is known.
    """

    def __init__(
        self,
        handler: web.RequestHandler,
        tls: ssl.SSLContext | None,
        admits: Callable[["Connection"], bool],
        ended: Callable[["Connection"], None],
    ) -> None:
        """Start the time limit."""
        self.host: IPAddress | None = None
        self._handler = handler
        self._tls = tls
        self._admits = admits
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._securing: asyncio.Task[None] | None = None
        self._early = b""
        self._timer = asyncio.get_running_loop().call_later(LIFETIME, self.cut)

    def cut(self) -> None:
        """Close the connection at once, even if the peer has more to read."""
        if self._transport is not None:
            self._transport.abort()
            self._end()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The peer has connected."""
        self._transport = plain = cast("asyncio.Transport", transport)
        self.host = parsed(str((plain.get_extra_info("peername") or ("",))[0]))
        if not self._admits(self):
            self.cut()
            return
        if self._tls is None:
            self._handler.connection_made(plain)
            return
        plain.pause_reading()  # what comes is for `start_tls`
        self._securing = asyncio.create_task(self._secure(plain, self._tls))

    async def _secure(self, plain: asyncio.Transport, tls: ssl.SSLContext) -> None:
        """Perform the TLS handshake; aiohttp gets the connection after it."""
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(plain, self, tls, server_side=True, ssl_handshake_timeout=LIFETIME)
        except OSError:  # those of TLS and of time are among them
            secured = None
        if secured is None:  # a peer that went in the middle of it
            self.cut()
            return
        self._transport = secured
        self._handler.connection_made(secured)
        self._securing = None
        if self._early:
            self._handler.data_received(self._early)

    def data_received(self, data: bytes) -> None:
        """Pass data on; it may come together with the end of the handshake, before `start_tls` returns."""
        if self._securing is not None:
            self._early += data
        else:
            self._handler.data_received(data)

    def eof_received(self) -> None:
        """The peer has finished sending: asyncio then closes the connection."""

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._handler.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended."""
        self._handler.connection_lost(error)
        self._end()

    def _end(self) -> None:
        self._timer.cancel()
        self._ended(self)
