"""A connection to a NATS cluster: requests, pages of replies, subscriptions. The only file that imports nats."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, Self, cast
from urllib.parse import urlsplit

import nats.errors
import structlog
from nats.aio.client import Client

from hub.config import Settings
from hub.errors import StartError
from hub.storage.jetstream.background import cancel
from hub.storage.jetstream.credentials import Credentials
from hub.text_files import read_text, without_mark

CONNECT_TIME = 15.0
"""Seconds that a start waits for the cluster."""
_CLOSE_TIME = 2.0
"""Seconds that a server may take to read the last messages."""
_RECONNECT_WAIT = 0.25
_PING_INTERVAL = 1
_UNANSWERED_PINGS = 2
"""A frozen server is abandoned after about 3 s, before the hub becomes stale."""
_BUFFER = 8 * 1024 * 1024
_FLUSH_TIME = 2.0
"""Seconds that a full buffer may hold a sender up; the library's default is forever."""
_INBOX = 64 * 1024
"""Messages that may wait for one subscription; beyond them some are dropped, which a follower notices."""
_NO_RESPONDERS = "503"

log = structlog.get_logger(__name__)


class NoReply(Exception):
    """No reply came in time: the request may have been carried out or not."""


class Message(Protocol):
    """A received message. `headers` hold "Status" in messages of the server itself."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None


Take = Callable[[Message], None]
Stop = Callable[[], Awaitable[None]]


class _Client(Client):
    """The library's client, which aborts a broken connection: closing it waits until the server takes what was sent."""

    async def _attempt_reconnect(self) -> None:
        self.abort()
        await super()._attempt_reconnect()

    async def _connect_to_server(self, s: Any) -> None:  # noqa: ANN401  the library's own
        self.abort()
        await super()._connect_to_server(s)

    async def stop_reconnecting(self) -> None:
        """End the task that reconnects: the library cancels it once, which its wait for a connection may swallow."""
        if self._reconnection_task is not None:
            await cancel([self._reconnection_task])

    def abort(self) -> None:
        """End the connection at once; what was not sent is lost. Idempotent."""
        if self._transport:
            writer: asyncio.StreamWriter | None = self._transport._io_writer  # type: ignore[attr-defined]  # noqa: SLF001  it has no abort
            if writer is not None:
                writer.transport.abort()


class NatsConnection:
    """A connection that reconnects by itself until it is closed.

    Attributes:
        on_restart: called after a reconnect or a change of leader: pending requests and deliveries are lost.
        server: host and port of the current, or the last, server.
    """

    def __init__(self) -> None:
        self.on_restart: set[Callable[[], None]] = set()
        self.server = ""
        self._waiting: set[asyncio.Timeout] = set()
        self._is_closing = False
        self._client = _Client()
        self._pages: dict[str, Take] = {}
        self._inbox = ""
        self._requests = 0
        self._trouble = ""

    @classmethod
    async def connect(cls, settings: Settings) -> Self:
        """Connect to the cluster that the settings name.

        Raises:
            StartError: it cannot be reached, or refuses the login.
        """
        connection = cls()
        options = _options(settings)
        try:
            async with asyncio.timeout(CONNECT_TIME):
                await connection._client.connect(
                    error_cb=connection._note,
                    disconnected_cb=connection._broke,
                    reconnected_cb=connection._came_back,
                    **options,
                )
                connection.server = connection._address()
                await connection._open_inbox()
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await connection.close()
            why = connection._trouble or str(error) or "no answer"
            raise StartError(f"the NATS cluster {cluster_name(settings)} cannot be reached: {why}") from None
        except BaseException:
            await connection.close()
            raise
        return connection

    @property
    def max_payload(self) -> int:
        """The largest message, headers included, that the cluster accepts, in bytes."""
        return self._client.max_payload

    async def request(
        self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, time_limit: float
    ) -> Message:
        """Send a request, and wait for its one reply.

        Raises:
            NoReply: there was none within `time_limit` seconds, or there is no responder.
        """
        try:
            async with self._limit(time_limit):
                answer = await self._client.request(
                    subject, body, timeout=time_limit, headers=dict(headers or {}) or None
                )
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise NoReply(str(error)) from None
        return cast("Message", answer)

    async def send(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None, reply: str = "") -> None:
        """Send without waiting for a reply.

        Raises:
            NoReply: there is no connection, and no room to keep it until there is one.
        """
        try:
            await self._client.publish(subject, body, reply, headers=dict(headers or {}) or None)
        except (nats.errors.Error, OSError) as error:
            raise NoReply(str(error)) from None

    async def page(self, subject: str, body: bytes, *, time_limit: float) -> list[Message]:
        """Send a request, and collect the replies up to the one with a status, which ends the page.

        Raises:
            NoReply: nothing came for `time_limit` seconds.
        """
        self._requests += 1
        token = f"{self._requests}"
        answers: list[Message] = []
        done = asyncio.Event()

        def take(message: Message) -> None:
            answers.append(message)
            if not message.headers or "Status" in message.headers:
                done.set()

        self._pages[token] = take
        try:
            await self.send(subject, body, reply=f"{self._inbox}.{token}")
            while not done.is_set():
                seen = len(answers)
                try:
                    async with self._limit(time_limit):
                        await done.wait()
                except TimeoutError:
                    if len(answers) == seen:
                        raise NoReply("a page was not completed") from None
        finally:
            del self._pages[token]
        if (answers[-1].headers or {}).get("Status") == _NO_RESPONDERS:
            raise NoReply("no server replies to page requests")
        return answers

    async def subscribe(self, take: Take) -> tuple[str, Stop]:
        """Subscribe `take` to a new subject; returns the subject, and a function that ends the subscription."""
        subject = self._client.new_inbox()
        return subject, await self.listen(subject, take)

    async def listen(self, subject: str, take: Take) -> Stop:
        """Subscribe `take` to a subject; returns a function that ends the subscription.

        Raises:
            NoReply: there is no connection.
        """

        async def pass_on(message: Any) -> None:  # noqa: ANN401  the library's own message
            take(message)

        try:
            subscription = await self._client.subscribe(subject, cb=pass_on, pending_msgs_limit=_INBOX)
        except (nats.errors.Error, OSError) as error:
            raise NoReply(str(error)) from None

        async def stop() -> None:
            try:
                await subscription.unsubscribe()
            except (nats.errors.Error, OSError):
                return  # the connection is gone, and the subscription with it

        return stop

    async def close(self) -> None:
        """Close the connection, within `_CLOSE_TIME`. Idempotent."""
        self._is_closing = True
        limit = asyncio.get_running_loop().call_later(_CLOSE_TIME, self._client.abort)
        try:
            await self._client.close()
        except (nats.errors.Error, OSError) as error:
            log.debug("closing the connection to NATS", error=str(error))
        finally:
            limit.cancel()
            await self._client.stop_reconnecting()

    async def _open_inbox(self) -> None:
        """One subscription for all pages: each page has its own token in the subject."""

        async def pass_on(message: Any) -> None:  # noqa: ANN401  the library's own message
            take = self._pages.get(message.subject.rpartition(".")[2])
            if take is not None:
                take(message)

        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=pass_on, pending_msgs_limit=_INBOX)

    async def _note(self, error: Exception) -> None:
        """Remember the cause. A refusal is kept: later errors only describe the disconnect."""
        log.debug("NATS", error=_plain(error))
        if "authorization" not in self._trouble.lower():
            self._trouble = _plain(error)

    async def _broke(self) -> None:
        if not self._is_closing:
            log.warning("the connection to a NATS server broke", server=self.server)
        self.start_over()

    async def _came_back(self) -> None:
        self.server = self._address()
        log.info("connected to NATS again", server=self.server)
        self.start_over()

    def start_over(self) -> None:
        """End every pending request and delivery: the server may be gone, and a repeat is safe."""
        now = asyncio.get_running_loop().time()
        for limit in self._waiting:
            if not limit.expired():
                limit.reschedule(now)
        for callback in list(self.on_restart):
            callback()

    @asynccontextmanager
    async def _limit(self, time_limit: float) -> AsyncIterator[None]:
        """A time limit that `start_over` ends at once."""
        async with asyncio.timeout(time_limit) as limit:
            self._waiting.add(limit)
            try:
                yield
            finally:
                self._waiting.discard(limit)

    def _address(self) -> str:
        url = self._client.connected_url
        return url.netloc.rpartition("@")[2] if url is not None else ""


def servers(settings: Settings) -> list[str]:
    """The addresses in ``settings.storage``, each with its scheme."""
    scheme, _, rest = settings.storage.partition("://")
    return [f"{scheme}://{part.rpartition('://')[2]}" for part in rest.split(",") if part]


def cluster_name(settings: Settings) -> str:
    """The servers of the cluster for messages, without credentials."""
    return ",".join(urlsplit(server).netloc.rpartition("@")[2] for server in servers(settings))


def _options(settings: Settings) -> dict[str, Any]:
    addresses = servers(settings)
    random.shuffle(addresses)  # hubs spread; afterwards in turn, so that a frozen server comes last
    options: dict[str, Any] = {
        "servers": addresses,
        "dont_randomize": True,
        "name": "tickets-hub",
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": _RECONNECT_WAIT,
        "connect_timeout": 2,
        "ping_interval": _PING_INTERVAL,
        "max_outstanding_pings": _UNANSWERED_PINGS,
        "pending_size": _BUFFER,
        "flush_timeout": _FLUSH_TIME,
    }
    if settings.nats_user is not None:
        options["user"] = settings.nats_user
    if settings.nats_password is not None:
        options["password"] = settings.nats_password.get_secret_value()
    if settings.nats_token is not None:
        options["token"] = settings.nats_token.get_secret_value()
    if settings.nats_credentials is not None:
        credentials = Credentials(settings.nats_credentials)
        options |= {"user_jwt_cb": credentials.jwt, "signature_cb": credentials.sign}
    if settings.nats_tls_ca is not None or settings.storage.startswith("tls:"):
        options["tls"] = _tls(settings)
    return options


def _tls(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=read_text(settings.nats_tls_ca) if settings.nats_tls_ca else None)
        if settings.nats_tls_certificate is not None and settings.nats_tls_key is not None:
            with without_mark(settings.nats_tls_certificate) as certificate, without_mark(settings.nats_tls_key) as key:
                context.load_cert_chain(certificate, key)
    except (ssl.SSLError, ValueError) as error:
        raise StartError(f"TLS to NATS: the files are not a certificate and its key in PEM: {error}") from None
    except OSError as error:
        raise StartError(f"TLS to NATS: {error.filename}: {error.strerror}") from None
    return context


def _plain(error: Exception) -> str:
    """A line about an error, without the library's prefix."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).removeprefix("nats: ") or type(error).__name__
