"""A hub, integrations and readers that a schedule plays with, and what each reader received."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration
from tickets.hub.v1 import admin_service_pb2, event_pb2, event_service_pb2, permissions_pb2, privacy_service_pb2

from tests.support.calls import commit, reason_of, set_scopes, steer
from tests.support.hubs import PATIENCE, Caller, RunningHub, Subscriber, emit
from tests.support.schedule_endpoints import Endpoint
from tests.support.streams import ALMOST_CLOSED

SCOPES = ("TICKET_CREATED", "DROP_CLAIMED", "MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY")
ALWAYS = "TICKET_STATS"
"""What every integration has when a schedule ends: the last event of it is one that all see."""


USERS = ("7", "8", "70", "71")
"""What the ids of users end with: some ids are prefixes of others."""


class Received(NamedTuple):
    """A frame with events, or the one that says what the scopes are now.

    `since`: how many erasures had been answered when its stream was opened.
    """

    cursor: str
    events: tuple[event_pb2.Event, ...]
    since: int = 0


class Erased(NamedTuple):
    """A user who was forgotten, and the events that had been emitted before."""

    erasure_id: str
    user_id: str
    names: frozenset[str]


class Reader:
    """One that follows a subscription from its last cursor, however often it is cut off, taken over, or thrown out.

    Attributes:
        received: all that came, over all its streams, in order.
    """

    def __init__(self, name: str, key: str, erasures: list[Erased]) -> None:
        self.name = name
        self.erasures = erasures
        self.key = key
        self.cursor = ""
        self.received: list[Received] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.failures: list[grpc.aio.AioRpcError] = []
        self._task: asyncio.Task[None] | None = None
        self._streams: list[Subscriber] = []

    def connect(self, channel: grpc.aio.Channel, batch: int, linger: int = 0) -> None:
        """Open a stream; one that is still open is left to the hub to end, and no more is heard from it.

        Args:
            channel: the connection.
            batch: events in a frame at most.
            linger: milliseconds.
        """
        if self._task is not None:
            self._task.cancel()
        asked = {"max_batch_size": batch, "linger": timedelta(milliseconds=linger)}
        self._task = asyncio.create_task(self._follow(channel, asked))

    async def _follow(self, channel: grpc.aio.Channel, asked: dict[str, Any]) -> None:
        since = len(self.erasures)
        start: dict[str, Any] = {"cursor": self.cursor} if self.cursor else {"earliest": {}}
        stream = Caller(channel, self.key).open(subscription_id=self.name, **asked, **start)
        self._streams.append(stream)  # nobody reads an earlier one any more, and nobody ends it: a ghost
        with suppress(asyncio.CancelledError):
            try:
                while (frame := await stream.call.read()) is not grpc.aio.EOF:
                    await self.reads.wait()
                    assert isinstance(frame, event_service_pb2.SubscribeResponse)
                    self.cursor = frame.cursor
                    self.received.append(Received(frame.cursor, tuple(frame.events), since))
            except grpc.aio.AioRpcError as error:
                self.failures.append(error)

    async def leave(self) -> None:
        """End the stream from this side."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for stream in self._streams:
            stream.call.cancel()

    @property
    def is_open(self) -> bool:
        """Whether a stream is open, for all that is known here."""
        return self._task is not None and not self._task.done()

    def events(self) -> list[event_pb2.Event]:
        """All events so far."""
        return [event for one in self.received for event in one.events]


class World:
    """What a schedule acts upon. Every action leaves the world such that any other may follow."""

    def __init__(self, hub: RunningHub, restart: Callable[[], Awaitable[RunningHub]], rng: random.Random) -> None:
        self.hub = hub
        self.rng = rng
        self.acknowledged: dict[str, event_pb2.Event] = {}
        self.erasures: list[Erased] = []
        self.notices: dict[str, set[str]] = {}
        self.disclosures: dict[str, list[privacy_service_pb2.Disclosure]] = {}
        self.integrations: list[Any] = []
        self.readers: dict[str, list[Reader]] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self._restart = restart
        base = rng.randrange(10**8, 10**9)
        self.users = [f"{base}{end}" for end in USERS]  # a hub keeps what it found out about a user for some seconds
        self._prefix = f"{rng.getrandbits(48):x}-"
        self._slow: grpc.aio.Channel

    async def begin(self) -> None:
        """Two integrations with two readers and an endpoint each."""
        self._slow = grpc.aio.insecure_channel(self.hub.address, options=ALMOST_CLOSED)
        for _ in range(2):
            scopes = self._some_scopes() or SCOPES[:1]
            integration, caller = await self.hub.register(*scopes)
            self.integrations.append(integration)
            endpoint = self.endpoints[integration.integration_id] = Endpoint(self.rng, numbers(scopes))
            await endpoint.begin(caller)
            self.readers[integration.integration_id] = [Reader(name, caller.key, self.erasures) for name in ("a", "b")]
            for reader in self.readers[integration.integration_id]:
                reader.connect(self.hub.channel, 10)

    async def act(self) -> None:
        """Do something, chosen at random."""
        actions = [self.emit] * 6 + [
            self.many,
            self.repeat,
            self.grant,
            self.grant,
            self.suspend,
            self.resume,
            self.grant_beside_events,
            self.erase,
        ]
        actions += [self.reconnect, self.reconnect, self.disconnect, self.pause, self.commit, self.rotate]
        await self.rng.choice(actions)()

    async def emit(self) -> None:
        """Some events, beside each other."""
        await asyncio.gather(*(self._emit([self._event()]) for _ in range(self.rng.randrange(1, 5))))

    async def many(self) -> None:
        """A list of events."""
        await self._emit([self._event() for _ in range(self.rng.randrange(1, 60))])

    async def repeat(self) -> None:
        """Events that were acknowledged already."""
        if self.acknowledged:
            names = self.rng.sample(sorted(self.acknowledged), min(5, len(self.acknowledged)))
            results = await emit(self.hub, names, lambda name: self.acknowledged[name])
            assert all(result.duplicate for result in results)

    async def grant(self) -> None:
        """Other scopes."""
        await self._set_scopes(self._one(), *self._some_scopes())

    async def _set_scopes(self, integration: Any, *scopes: str) -> None:  # noqa: ANN401  an Integration
        endpoint = self.endpoints[integration.integration_id]
        endpoint.widen(numbers(scopes))
        await set_scopes(self.hub, integration, *scopes)
        endpoint.narrow(scopes=numbers(scopes))

    async def grant_beside_events(self) -> None:
        """Other scopes while events flow."""
        await asyncio.gather(self.emit(), self.grant(), self.many())

    async def erase(self) -> None:
        """A user is forgotten; readers that had asked for frames before the answer may still get them."""
        user, names = self.rng.choice(self.users), frozenset(self.acknowledged)
        mine = frozenset(name for name in names if user_of(self.acknowledged[name]) == user)
        request = privacy_service_pb2.EraseUserRequest(user_id=user)
        reply = await self.hub.admin.call("PrivacyService/EraseUser", request)
        self.erasures.append(Erased(reply.erasure.erasure_id, user, mine))
        for endpoint in self.endpoints.values():
            endpoint.forget(mine)

    async def suspend(self) -> None:
        """An integration is closed, if it is open."""
        integration = self._one()
        with suppress(grpc.aio.AioRpcError):
            await steer(self.hub, "Suspend", integration)
        self.endpoints[integration.integration_id].narrow(is_open=False)

    async def resume(self) -> None:
        """An integration is opened, if it is closed."""
        await self._resume(self._one())

    async def _resume(self, integration: Any) -> None:  # noqa: ANN401  an Integration
        self.endpoints[integration.integration_id].reopen()
        with suppress(grpc.aio.AioRpcError):
            await steer(self.hub, "Resume", integration)

    async def reconnect(self) -> None:
        """A reader comes back, or takes over from itself."""
        channel = self.rng.choice([self.hub.channel, self.hub.channel, self._slow])
        self._reader().connect(channel, self.rng.choice([1, 3, 100]), self.rng.choice([0, 0, 5, 50, 5_000]))
        await asyncio.sleep(0)  # opened before a restart closes its channel: a call on a closed one ends the process

    async def disconnect(self) -> None:
        """A reader goes."""
        await self._reader().leave()

    async def pause(self) -> None:
        """A reader stands still, or reads on."""
        reader = self._reader()
        if reader.reads.is_set():
            reader.reads.clear()
        else:
            reader.reads.set()

    async def commit(self) -> None:
        """A reader has its place kept."""
        reader = self._reader()
        if reader.cursor:
            with suppress(grpc.aio.AioRpcError):
                await commit(Caller(self.hub.channel, reader.key), reader.cursor, subscription_id=reader.name)

    async def rotate(self) -> None:
        """An integration gets a new key, and the old one ends at once."""
        integration = self._one()
        request = admin_service_pb2.RotateKeyRequest(integration_id=integration.integration_id, overlap=Duration())
        reply = await self.hub.admin.call("AdminService/RotateKey", request)
        for reader in self.readers[integration.integration_id]:
            reader.key = reply.key.secret

    async def restart(self) -> None:
        """The hub is stopped and started again."""
        await self._slow.close()
        self.hub = await self._restart()
        self._slow = grpc.aio.insecure_channel(self.hub.address, options=ALMOST_CLOSED)

    async def settle(self) -> None:
        """Open everything, let every reader catch up, and replay everything to a reader of its own."""
        last = event_pb2.Event(
            id=f"{self._prefix}last", guild_id="41", ticket_closed=event_pb2.TicketClosed(message_count=1)
        )
        for integration in self.integrations:
            await self._resume(integration)
            await self._set_scopes(integration, *self._some_scopes(), ALWAYS)
            self.endpoints[integration.integration_id].is_well = True
            replay = Reader("replay", self.readers[integration.integration_id][0].key, self.erasures)
            self.readers[integration.integration_id].append(replay)
        await self._emit([last])
        for reader in self.all_readers():
            reader.reads.set()
            reader.connect(self.hub.channel, self.rng.choice([1, 7, 100]), self.rng.choice([0, 20]))
        async with asyncio.timeout(PATIENCE):
            while not self._have(last.id):
                assert all(reader.is_open for reader in self.all_readers()), [r.failures for r in self.all_readers()]
                await asyncio.sleep(0.001)
        for integration_id, endpoint in self.endpoints.items():
            await endpoint.end(Caller(self.hub.channel, self.readers[integration_id][0].key))
        for reader in self.all_readers():
            await reader.leave()
        await self._slow.close()
        self.notices = {erased.erasure_id: await self._told(erased.erasure_id) for erased in self.erasures}
        self.disclosures = {user: await self._disclosed(user) for user in self.users}

    async def _disclosed(self, user: str) -> list[privacy_service_pb2.Disclosure]:
        """The disclosures about a user, over all pages."""
        request, found = privacy_service_pb2.ListDisclosuresRequest(user_id=user), []
        while True:
            try:
                reply = await self.hub.admin.call("PrivacyService/ListDisclosures", request)
            except grpc.aio.AioRpcError as error:
                assert reason_of(error) == "DISCLOSURES_NOT_READY"  # noqa: PT017  all else would be a fault
                continue
            found += reply.disclosures
            request.page_token = reply.next_page_token
            if not request.page_token:
                return found

    async def _told(self, erasure_id: str) -> set[str]:
        """The integrations that an erasure tells to forget, once it is done."""
        request = privacy_service_pb2.GetErasureRequest(erasure_id=erasure_id)
        async with asyncio.timeout(3 * PATIENCE):
            while True:
                erasure = (await self.hub.admin.call("PrivacyService/GetErasure", request)).erasure
                if erasure.state == privacy_service_pb2.ERASURE_STATE_DONE:
                    return {notice.integration_id for notice in erasure.notices}
                await asyncio.sleep(0.01)

    @property
    def erased(self) -> set[str]:
        """The ids of all events that were erased."""
        return {name for erased in self.erasures for name in erased.names}

    def all_readers(self) -> list[Reader]:
        """Every reader of every integration."""
        return [reader for readers in self.readers.values() for reader in readers]

    def _have(self, name: str) -> bool:
        is_read = all(self._has(reader, name) for reader in self.all_readers())
        return is_read and all(endpoint.has(name) for endpoint in self.endpoints.values())

    @staticmethod
    def _has(reader: Reader, name: str) -> bool:
        return any(event.id == name for one in reader.received[-50:] for event in one.events)

    async def _emit(self, events: list[event_pb2.Event]) -> None:
        by_name = {event.id: event for event in events}
        await emit(self.hub, list(by_name), lambda name: by_name[name])
        self.acknowledged |= by_name

    def _event(self) -> event_pb2.Event:
        payloads: list[dict[str, Any]] = [
            {"ticket_created": {"creator_user_id": self.rng.choice(self.users)}},
            {"drop_claimed": {"xp_amount": 5}},
            {"member_verified": {"user_id": self.rng.choice(self.users)}},
        ]
        name = f"{self._prefix}{self.rng.getrandbits(60):x}"
        return event_pb2.Event(id=name, guild_id=self.rng.choice(["41", "42"]), **self.rng.choice(payloads))

    def _some_scopes(self) -> list[str]:
        return self.rng.sample(SCOPES, self.rng.randrange(len(SCOPES) + 1))

    def _one(self) -> Any:  # noqa: ANN401  an Integration
        return self.rng.choice(self.integrations)

    def _reader(self) -> Reader:
        return self.rng.choice(self.all_readers())


def user_of(event: event_pb2.Event) -> str:
    """The user that an event names; "" for none."""
    return event.ticket_created.creator_user_id or event.member_verified.user_id


def numbers(scopes: Iterable[str]) -> frozenset[int]:
    """Scopes by their numbers."""
    return frozenset(permissions_pb2.Scope.Value(f"SCOPE_{scope}") for scope in scopes)
