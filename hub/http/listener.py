"""The TCP side of the HTTP listener: its port, its certificate, and the limit of connections."""

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import cast

from aiohttp import web

from hub.addresses import OFF
from hub.api.peers import counted
from hub.config import Settings
from hub.errors import StartError
from hub.http.connection import Connection

MAX_CONNECTIONS = 100
"""Open connections; further ones are closed at once. Scrapers and probes need few."""

MAX_PEER_SHARE = 5
"""One address may hold 1/5 of them: it must not shut out probes. A trusted proxy may hold all."""

STOP_TIME = 1.0
"""Seconds that a stop waits for answers in progress."""

MAX_HEADER = 8 * 1024
"""Bytes of the longest line and of the longest header."""

MAX_BODY = 64 * 1024


class Listener:
    """Listens on the address of a setting, and serves an application.

    Args:
        name: of the setting.
        is_public: for everybody, without a client certificate.

    Attributes:
        port: where it listens; 0 = nowhere.
    """

    def __init__(self, settings: Settings, name: str, *, is_public: bool = False) -> None:
        self.port = 0
        self._name = name
        self._is_public = is_public
        self._address: str = getattr(settings, name)
        self._settings = settings
        self._proxies = settings.proxies
        self._tls: ssl.SSLContext | None = None
        self._server: asyncio.Server | None = None
        self._runner: web.AppRunner | None = None
        self._open: set[Connection] = set()

    async def bind(self) -> None:
        """Read the files of TLS and take the address; connections wait until `start`.

        Raises:
            StartError: a file is wrong, or the address cannot be bound.
        """
        if self._address == OFF:
            return
        self._tls = self._context(self._settings)
        host, _, port = self._address.rpartition(":")
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._accept, host.strip("[]"), int(port), start_serving=False
            )
        except OSError as error:
            why = (error.strerror or str(error)).rpartition(": ")[2]
            raise StartError(
                f"{self._name}: cannot listen on {self._address}: {why}: set another address, or 'off'"
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def start(self, application: web.Application) -> None:
        """Serve an application."""
        if self._server is None:
            return
        self._runner = web.AppRunner(
            application,
            access_log=None,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            shutdown_timeout=STOP_TIME,
        )
        await self._runner.setup()
        await self._server.start_serving()

    async def stop(self) -> None:
        """Close the port and what is open. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        for connection in list(self._open):
            connection.cut()

    def read_again(self, settings: Settings) -> Callable[[], None]:
        """Read the files of TLS again; returns what gives them to new connections. Blocks.

        Raises:
            StartError: a file is wrong.
        """
        return partial(self._replace, self._context(settings) if self._tls is not None else None)

    def _replace(self, context: ssl.SSLContext | None) -> None:
        self._tls = context or self._tls  # a fresh one: a context that has an authority trusts it for ever

    def _context(self, settings: Settings) -> ssl.SSLContext | None:
        try:
            return tls_context(settings, asks_clients=not self._is_public)
        except (OSError, ssl.SSLError) as error:
            raise StartError(f"TLS: {settings.tls_certificate} cannot be used for {self._name}: {error}") from None

    def _accept(self) -> asyncio.BaseProtocol:
        """The protocol of a new connection."""
        server = self._runner.server if self._runner is not None else None
        if server is None or len(self._open) >= MAX_CONNECTIONS:
            return _Closing()
        connection = Connection(server(), self._tls, self._admits, self._open.discard)
        self._open.add(connection)
        return connection

    def _admits(self, connection: Connection) -> bool:
        """Whether the address of an open connection holds no more than its share."""
        host = connection.host
        if host is None or any(host in network for network in self._proxies):
            return True
        same = sum(one.host is not None and counted(one.host) == counted(host) for one in self._open)
        return same <= max(1, MAX_CONNECTIONS // MAX_PEER_SHARE)


class _Closing(asyncio.Protocol):
    """Closes a connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        cast("asyncio.Transport", transport).abort()


def tls_context(settings: Settings, *, asks_clients: bool) -> ssl.SSLContext | None:
    """The TLS context of the settings, the same as for gRPC; None for plaintext.

    Raises:
        OSError, SSLError: a file does not hold what it should.
    """
    if settings.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(str(settings.tls_certificate), str(settings.tls_key), password="")  # asks nobody
    if asks_clients and settings.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(str(settings.tls_client_ca))
    return context
