"""What the tests of delivery share: events in, streams read to a known point, readers that stand still, time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import grpc
from tickets.hub.v1 import admin_service_pb2, event_pb2, event_service_pb2, integration_pb2

from hub.delivery.cursor import Cursor, CursorSeal
from hub.delivery.retention import Retention
from hub.delivery.stream import Stream
from hub.model import Entry, Kind
from tests.conftest import PATIENCE, Caller, FakeClock, RunningHub, Subscriber, asked

EARLIEST = event_service_pb2.ON_EXPIRED_CURSOR_EARLIEST
ALMOST_CLOSED = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1_024))
"""A client that takes in about 64 KiB ahead of what it reads, and nothing more: a slow one, soon noticed."""


def ticket(event_id: str, guild_id: str = "41") -> event_pb2.Event:
    """Somebody created a ticket."""
    return event_pb2.Event(
        id=event_id, guild_id=guild_id, ticket_created=event_pb2.TicketCreated(creator_user_id="80351110224678912")
    )


def closed(event_id: str, guild_id: str = "41") -> event_pb2.Event:
    """A ticket was closed: another scope."""
    return event_pb2.Event(id=event_id, guild_id=guild_id, ticket_closed=event_pb2.TicketClosed(message_count=3))


def ids(prefix: str, count: int) -> list[str]:
    """So many ids: "a00000", "a00001", ..."""
    return [f"{prefix}{number:05d}" for number in range(count)]


async def emit(
    hub: RunningHub, names: Sequence[str], make: Callable[[str], event_pb2.Event] = ticket
) -> list[event_service_pb2.EmitEventResponse]:
    """Emit an event for each id, in order; all are stored when it returns."""
    results: list[event_service_pb2.EmitEventResponse] = []
    for start in range(0, len(names), 1_000):
        request = event_service_pb2.BatchEmitEventsRequest(events=[make(n) for n in names[start : start + 1_000]])
        results += (await hub.bot.call("EventService/BatchEmitEvents", request)).results
    return results


async def names_until(stream: Subscriber, last: str) -> list[str]:
    """Read until an event comes: the ids of all that came, that one included."""
    names: list[str] = []
    while last not in names:
        names += [event.id for event in (await stream.frame()).events]
    return names


async def notice(stream: Subscriber, kind: str) -> event_service_pb2.SubscribeResponse:
    """Read until a frame carries a notice of this kind."""
    while not (frame := await stream.frame()).HasField(kind):  # type: ignore[arg-type]  # the name of a notice
        pass
    return frame


async def until(holds: Callable[[], object]) -> None:
    """Wait until something can be observed."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110  what is observed has nobody to tell of it
            await asyncio.sleep(0.01)


async def refused(call: Any) -> grpc.aio.AioRpcError:  # noqa: ANN401  anything that can be awaited
    """How a call fails; the test fails where it does not."""
    try:
        reply = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"it was answered: {reply}")


async def commit(reader: Caller, cursor: str, **fields: Any) -> event_service_pb2.CommitCursorResponse:  # noqa: ANN401  of the request
    """Keep a place."""
    reply = await reader.call(
        "EventService/CommitCursor", event_service_pb2.CommitCursorRequest(cursor=cursor, **fields)
    )
    assert isinstance(reply, event_service_pb2.CommitCursorResponse)
    return reply


async def subscriptions(reader: Caller) -> dict[str, event_service_pb2.Subscription]:
    """The integration's subscriptions, by name."""
    reply = await reader.call("EventService/ListOwnSubscriptions", event_service_pb2.ListOwnSubscriptionsRequest())
    return {one.subscription_id: one for one in reply.subscriptions}


async def set_scopes(hub: RunningHub, integration: integration_pb2.Integration, *scopes: str, reason: str = "") -> None:
    """Give an integration exactly these scopes."""
    await hub.admin.call(
        "AdminService/SetScopes",
        admin_service_pb2.SetScopesRequest(
            integration_id=integration.integration_id, scopes=asked(*scopes), reason=reason or "for the tests"
        ),
    )


async def steer(hub: RunningHub, what: str, integration: integration_pb2.Integration, **fields: Any) -> Any:  # noqa: ANN401  of the messages
    """Call "Suspend", "Resume" or "Delete" on an integration."""
    request = getattr(admin_service_pb2, f"{what}IntegrationRequest")
    fields.setdefault("reason", "for the tests")
    return await hub.admin.call(
        f"AdminService/{what}Integration", request(integration_id=integration.integration_id, **fields)
    )


async def opened(hub: RunningHub, cursor: str) -> Cursor:
    """The place that a cursor stands for, as only the hub knows."""
    return CursorSeal(await hub.hub._log.secret()).open(cursor)


async def log_of(hub: RunningHub, *kinds: Kind) -> list[Entry]:
    """The hub's log, from the store."""
    entries: list[Entry] = []
    through, last = 0, (await hub.hub._log.bounds()).last
    while through < last:
        page = await hub.hub._log.read(through, 1_000, frozenset(kinds) if kinds else None)
        entries += page.entries
        through = page.through
    return entries


def live(hub: RunningHub) -> list[Stream]:
    """Every open stream of the hub."""
    return [stream for streams in hub.hub._streams._open.values() for stream in streams]


@asynccontextmanager
async def standing_still(hub: RunningHub, reader: Caller) -> AsyncIterator[Caller]:
    """The same integration through a connection that takes in next to nothing ahead of what is read."""
    async with grpc.aio.insecure_channel(hub.address, options=ALMOST_CLOSED) as channel:
        yield Caller(channel, reader.key)


async def pass_time(hub: RunningHub, clock: FakeClock, seconds: float) -> None:
    """Let time pass for all of the hub's clocks, then let it remove what has become too old."""
    clock.wall_offset += round(seconds * 1_000_000)
    clock.monotonic_offset += seconds
    await retention(hub, clock).look()


def retention(hub: RunningHub, clock: FakeClock) -> Retention:
    """What removes old events, to be asked for a look when a test wants it."""
    return Retention(hub.hub._log, hub.hub._streams.around.feed, hub.settings, clock)


def all_of(events: Iterable[event_pb2.Event]) -> list[str]:
    """The ids of events."""
    return [event.id for event in events]


class Wire:
    """A connection to a hub through a middleman who can let it go dead: both ends stand, and nothing passes."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._to = port
        self._passing = asyncio.Event()
        self._passing.set()
        self._ends: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    def go_dead(self) -> None:
        """From now on nothing passes, neither way, and no end is told."""
        self._passing.clear()

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let go of both ends."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self._ends:
            end.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._ends += [writer, back]
        self._tasks += [asyncio.create_task(self._pass(*pair)) for pair in ((reader, back), (there, writer))]

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while some := await source.read(65_536):
            await self._passing.wait()
            target.write(some)
