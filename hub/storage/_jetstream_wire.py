"""One connection to a NATS cluster: requests, pages of answers, deliveries. The only file that knows nats.

Lives here: how to reach the cluster and how its silence is told. Must not know JetStream, streams or entries.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, Self, cast
from urllib.parse import urlsplit

import nats.errors
import structlog
from nats.aio.client import Client

from hub.config import Settings
from hub.errors import StartError
from hub.storage._nats_credentials import Credentials

CONNECT_TIME = 15.0
"""Seconds that a start waits for the cluster."""
_RECONNECT_WAIT = 0.25
_PING_INTERVAL = 2
_UNANSWERED_PINGS = 2
_BUFFER = 8 * 1024 * 1024
_INBOX = 64 * 1024
"""Messages that may wait for one subscription; beyond it some are dropped, which whoever follows a stream sees."""
_NO_RESPONDERS = "503"

log = structlog.get_logger(__name__)


class NoAnswer(Exception):
    """Nothing came back in time: what was asked for may have happened or not."""


class Message(Protocol):
    """What arrives. `headers` hold "Status" where the server itself speaks."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None


Take = Callable[[Message], None]
Stop = Callable[[], Awaitable[None]]


class _Client(Client):
    """The library's, but that it lets go of a connection on which a server said nothing before it opens another."""

    async def _connect_to_server(self, s: Any) -> None:  # noqa: ANN401  the library's own
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]  # the library
        await super()._connect_to_server(s)


class Wire:
    """A connection that comes back by itself for as long as it is not closed.

    Attributes:
        on_reconnect: called each time it came back; what was delivered meanwhile is lost.
    """

    def __init__(self) -> None:
        self.on_reconnect: set[Callable[[], None]] = set()
        self._client = _Client()
        self._pages: dict[str, Take] = {}
        self._inbox = ""
        self._requests = 0
        self._trouble = ""

    @classmethod
    async def connect(cls, settings: Settings) -> Self:
        """Connect to the cluster that the settings name.

        Raises:
            StartError: it cannot be reached or does not let us in.
        """
        wire = cls()
        options = _options(settings)
        try:
            async with asyncio.timeout(CONNECT_TIME):
                await wire._client.connect(
                    error_cb=wire._note, reconnected_cb=wire._came_back, closed_cb=None, **options
                )
                await wire._open_inbox()
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await wire.close()
            why = wire._trouble or str(error) or "no answer"
            raise StartError(f"the NATS cluster {shown(settings)} cannot be reached: {why}") from None
        except BaseException:
            await wire.close()
            raise
        return wire

    @property
    def max_payload(self) -> int:
        """The largest message, headers included, that the cluster takes, in bytes."""
        return self._client.max_payload

    async def request(
        self, subject: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, patience: float
    ) -> Message:
        """Ask, and wait for the one answer.

        Raises:
            NoAnswer: there was none within `patience` seconds, or nobody is there to give one.
        """
        try:
            answer = await self._client.request(subject, body, timeout=patience, headers=dict(headers or {}) or None)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise NoAnswer(str(error)) from None
        return cast("Message", answer)

    async def send(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None, reply: str = "") -> None:
        """Send, and wait for nothing.

        Raises:
            NoAnswer: there is no connection, and no room to keep it until there is one.
        """
        try:
            await self._client.publish(subject, body, reply, headers=dict(headers or {}) or None)
        except (nats.errors.Error, OSError) as error:
            raise NoAnswer(str(error)) from None

    async def page(self, subject: str, body: bytes, *, patience: float) -> list[Message]:
        """Ask, and collect the answers up to the one with a status, which is the last of the list.

        Raises:
            NoAnswer: nothing came for `patience` seconds.
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
                    async with asyncio.timeout(patience):
                        await done.wait()
                except TimeoutError:
                    if len(answers) == seen:
                        raise NoAnswer("a page did not come to its end") from None
        finally:
            del self._pages[token]
        if (answers[-1].headers or {}).get("Status") == _NO_RESPONDERS:
            raise NoAnswer("nobody serves pages")
        return answers

    async def subscribe(self, take: Take) -> tuple[str, Stop]:
        """A fresh subject on which `take` gets what arrives, and how to end that."""

        async def pass_on(message: Any) -> None:  # noqa: ANN401  the library's own message
            take(message)

        subject = self._client.new_inbox()
        try:
            subscription = await self._client.subscribe(subject, cb=pass_on, pending_msgs_limit=_INBOX)
        except (nats.errors.Error, OSError) as error:
            raise NoAnswer(str(error)) from None

        async def stop() -> None:
            try:
                await subscription.unsubscribe()
            except (nats.errors.Error, OSError):
                return  # the connection is gone, and the subscription with it

        return subject, stop

    async def close(self) -> None:
        """Let go of the connection. Idempotent."""
        try:
            await self._client.close()
        except (nats.errors.Error, OSError) as error:
            log.debug("closing the connection to NATS", error=str(error))

    async def _open_inbox(self) -> None:
        """One subscription for all pages: each has a token of its own in the subject."""

        async def pass_on(message: Any) -> None:  # noqa: ANN401  the library's own message
            take = self._pages.get(message.subject.rpartition(".")[2])
            if take is not None:
                take(message)

        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=pass_on, pending_msgs_limit=_INBOX)

    async def _note(self, error: Exception) -> None:
        """Keep why. A refusal stays: what comes after it is only how the server broke off."""
        log.debug("NATS", error=_plain(error))
        if "authorization" not in self._trouble.lower():
            self._trouble = _plain(error)

    async def _came_back(self) -> None:
        log.info("connected to NATS again")
        for callback in list(self.on_reconnect):
            callback()


def servers(settings: Settings) -> list[str]:
    """The addresses in ``settings.storage``, each with its scheme."""
    scheme, _, rest = settings.storage.partition("://")
    return [f"{scheme}://{part.rpartition('://')[2]}" for part in rest.split(",") if part]


def shown(settings: Settings) -> str:
    """The cluster, in words for people: without what is secret."""
    return ",".join(urlsplit(server).netloc.rpartition("@")[2] for server in servers(settings))


def _options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "servers": servers(settings),
        "name": "tickets-hub",
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": _RECONNECT_WAIT,
        "connect_timeout": 2,
        "ping_interval": _PING_INTERVAL,
        "max_outstanding_pings": _UNANSWERED_PINGS,
        "pending_size": _BUFFER,
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
        context = ssl.create_default_context(cafile=settings.nats_tls_ca)
        if settings.nats_tls_certificate is not None:
            context.load_cert_chain(settings.nats_tls_certificate, settings.nats_tls_key)
    except ssl.SSLError as error:
        raise StartError(f"TLS towards NATS: these are no PEM files of a certificate and its key: {error}") from None
    except OSError as error:
        raise StartError(f"TLS towards NATS: {error.filename}: {error.strerror}") from None
    return context


def _plain(error: Exception) -> str:
    """One line about an error; the library's own begin with its name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).removeprefix("nats: ") or type(error).__name__
