"""One request to a receiver: the only place where the hub dials out.

It resolves a name, checks its addresses, connects, sends the request, and returns its outcome. The address that is
dialled is the address that was checked: the request goes to an address, and the name travels beside it, for TLS and in
the header ``host``. It does not know what a request holds, nor what follows from its outcome.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesPayload
from yarl import URL

from hub import metrics
from hub.clock import Clock
from hub.config import Settings, version
from hub.errors import InvalidRequest
from hub.webhooks.destinations import Address, Policy, Target, target_of
from hub.webhooks.lanes import Lanes
from hub.webhooks.resolver import Resolver
from hub.webhooks.schedule import MAY_ASK, Failure, Outcome, Pace, failure_of, retry_after

CONNECT_TIMEOUT = 5.0
REQUEST_TIMEOUT = 15.0
REST_TIMEOUT = 1.0
"""Seconds for the body of an answer of which the status is all that counts."""

MAX_ANSWER = 4_096
"""Bytes of an answer that are read."""

PER_ADDRESS = 10
"""Requests of one integration to one address at a time."""

KNOWN = 4_096
"""How many parsed and checked URLs are cached; they stay valid because the policy does not change."""

MAX_ADDRESSES = 3
"""Addresses of a name that are tried."""

NOBODYS = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
"""Addresses of documentation, by the version of IP: no machine has them."""


class Outdated(Exception):
    """The request may no longer be sent; nothing of it was."""


class Refused(OSError):
    """The hub does not dial this address."""


class Request(NamedTuple):
    """What is sent.

    Attributes:
        headers: makes them once the request has its place, without those of HTTP itself: signatures hold a time.
        holder: the integration, for the limit on one address.
        pace: of its endpoint; it chooses the lane in which the request waits and names are resolved.
        is_current: asked right before the first byte of the body leaves.
        wants_answer: the body of the answer matters; otherwise its status does.
    """

    url: str
    headers: Callable[[], Mapping[str, str]]
    body: bytes
    holder: str
    pace: Pace
    is_current: Callable[[], bool]
    wants_answer: bool = False


class GuardedBody(BytesPayload):
    """A body that is checked right before it is written: a grant may have ended while the connection was made."""

    def __init__(self, body: bytes, is_current: Callable[[], bool]) -> None:
        super().__init__(body)
        self.is_outdated = False
        self._is_current = is_current

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write the body; there is no await between the check and the write."""
        if not self._is_current():
            self.is_outdated = True
            raise Outdated
        await super().write_with_length(writer, content_length)


class Sender:
    """Sends requests, within the limits."""

    def __init__(self, settings: Settings, policy: Policy, clock: Clock) -> None:
        self.policy = policy
        self._clock = clock
        self._agent = f"Tickets-Hub/{version()}"
        self._proxy = settings.webhook_proxy or None
        self._lanes = Lanes(settings.webhook_requests, clock)
        self._at: WeakValueDictionary[tuple[str, Address], asyncio.Semaphore] = WeakValueDictionary()
        self._target = lru_cache(KNOWN)(partial(target_of, policy=policy))
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """End; requests that are in flight fail."""
        if self._session is not None:
            await self._session.close()

    async def post(self, request: Request) -> Outcome:
        """Send a request and return its outcome; waits for a place.

        Raises:
            Outdated: nothing was sent, because it may not be sent any more.
        """
        ended, seconds = await self._lanes.run(request.pace, partial(self._outcome, request))
        outcome = ended or Outcome(Failure.TIMEOUT)
        category = outcome.failure.name if outcome.failure is not None else "OK"
        metrics.WEBHOOK_REQUESTS.add(seconds, category)
        return outcome._replace(seconds=seconds)

    async def _outcome(self, request: Request, resolver: Resolver) -> Outcome:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                target = self._target(request.url)
                return await self._first_answer(request, target, await self._addresses(target, resolver))
        except (Refused, InvalidRequest):
            return Outcome(Failure.ADDRESS_REFUSED)
        except TimeoutError:  # also aiohttp's
            return Outcome(Failure.TIMEOUT)
        except socket.gaierror:
            return Outcome(Failure.DNS)
        except (aiohttp.ClientSSLError, ssl.SSLError):
            return Outcome(Failure.TLS)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(Failure.ADDRESS_REFUSED if _was_refused(error) else Failure.CONNECT)

    async def _addresses(self, target: Target, resolver: Resolver) -> list[Address]:
        """Where to go: those addresses of the host that may be dialled.

        Raises:
            gaierror: the name leads nowhere.
            Refused: none of them may be.
        """
        if target.address is not None:
            found = [target.address]
        else:
            infos = await resolver.look_up(target.host, target.port)
            found = list(dict.fromkeys(ip_address(info[4][0].partition("%")[0]) for info in infos))
        allowed = [one for one in found if self._may_dial(target, one)]
        if not allowed:
            raise Refused
        return allowed[:MAX_ADDRESSES]

    def _may_dial(self, target: Target, address: Address) -> bool:
        """Whether a target may be reached at one of its addresses."""
        if self.policy.why_refused(target.scheme, address, target.port):
            return False
        return self.policy.is_exempt(address) or not is_own(address)

    async def _first_answer(self, request: Request, target: Target, addresses: list[Address]) -> Outcome:
        """The answer of the first address to which there is a connection.

        Raises:
            What aiohttp raises; of the last address, if none connects.
        """
        *others, last = addresses
        for address in others:
            try:
                return await self._answer(request, target, address)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                continue
        return await self._answer(request, target, last)

    async def _answer(self, request: Request, target: Target, address: Address) -> Outcome:
        body = GuardedBody(request.body, request.is_current)
        session = self._session or await self._open()
        try:
            async with (
                self._places_at(request.holder, address),
                session.post(
                    url_at(request.url, address),
                    data=body,
                    headers={"host": host_of(target), "user-agent": self._agent, **request.headers()},
                    allow_redirects=False,
                    server_hostname=target.host if target.scheme == "https" else None,
                    proxy=self._proxy,
                ) as response,
            ):
                answer = await read_answer(response, wants_all=request.wants_answer)
                asked = retry_after(response.headers.get("retry-after", ""), self._clock.now() / 1e6)
                is_obeyed = response.status in MAY_ASK
                failure = failure_of(response.status)
                return Outcome(failure, response.status, asked if is_obeyed else 0.0, answer=answer)
        except aiohttp.ClientError:
            if body.is_outdated:
                raise Outdated from None
            raise

    def _places_at(self, holder: str, address: Address) -> asyncio.Semaphore:
        """The slots of an integration at an address; they exist while a request has or awaits one."""
        key = (holder, address)
        places = self._at.get(key)
        if places is None:
            places = self._at[key] = asyncio.Semaphore(PER_ADDRESS)
        return places

    async def _open(self) -> aiohttp.ClientSession:
        """The session: made at the first request; a thread reads the system's certificates, which takes 30 ms."""
        async with self._opening:
            if self._session is None:
                tls = await asyncio.to_thread(ssl.create_default_context)
                made_by = None if self._proxy else self._socket
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0, ssl=tls, socket_factory=made_by, happy_eyeballs_delay=None),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    trust_env=False,
                    auto_decompress=False,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),  # `_outcome` has the whole
                )
            return self._session

    def _socket(self, info: Any) -> socket.socket:  # noqa: ANN401  aiohttp's
        """A socket for an address that is about to be dialled, which is checked once more.

        Raises:
            Refused: it must not be dialled.
        """
        family, kind, protocol, _, (host, port, *_) = info
        address = ip_address(host.partition("%")[0])
        if self.policy.why_refused("https", address, port):
            raise Refused
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)  # noqa: FBT003  its only argument
        return made


async def read_answer(response: aiohttp.ClientResponse, *, wants_all: bool) -> bytes:
    """The first bytes of an answer; the connection is used again only if that is all of it."""
    answer, content = b"", response.content
    if content.at_eof():
        return answer
    with suppress(TimeoutError):
        async with asyncio.timeout(None if wants_all else REST_TIMEOUT):
            while len(answer) < MAX_ANSWER and (more := await content.read(MAX_ANSWER - len(answer))):
                answer += more
    if not content.at_eof():
        response.close()
    return answer


def is_own(address: Address) -> bool:
    """Whether an address is one of this machine's: then, and only then, a socket can be bound to it.

    Where the system lets sockets be bound to any address, this tells nothing: False.
    """
    return can_bind(address) and not can_bind(NOBODYS[address.version])


def can_bind(address: Address) -> bool:
    """Whether a socket can be bound to an address now; sends nothing."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


@lru_cache(KNOWN)
def url_at(url: str, address: Address) -> URL:
    """A URL with an address in place of its host."""
    return URL(url).with_host(str(address))


def host_of(target: Target) -> str:
    """The header ``host``."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    return host if target.port == {"https": 443, "http": 80}[target.scheme] else f"{host}:{target.port}"


def _was_refused(error: BaseException) -> bool:
    """Whether a failed connection was refused by the hub itself, however the error is wrapped."""
    cause = getattr(error, "os_error", None) or error.__cause__
    return isinstance(error, Refused) or isinstance(cause, Refused)
