"""Emitting: a burst loses nothing, foreign cancellations are retried, and a caller can retry a failed event."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from tickets.hub.v1.event_pb2 import Event, TicketClosed
from tickets.hub.v1.event_service_pb2 import EmitEventResponse
from tickets_hub import AsyncClient, Client, HubCallError, Policy, Start
from tickets_hub.aio_turns import Turns

from tests.client.test_client_aio import POLICY, ScriptedHub, hub
from tests.support.events import closed
from tests.support.real_hub import Reading, RealHub
from tests.support.scripted_hub import details, ready

__all__ = ["hub"]

CANCELLED = (grpc.StatusCode.CANCELLED, None)
REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, details(3, "INVALID_REQUEST"))
BURST = 20_000


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealHub]:
    """A real hub with a data directory of its own."""
    started = RealHub(tmp_path)
    yield started
    started.close()


@pytest.fixture
async def client(hub: ScriptedHub) -> AsyncIterator[AsyncClient]:
    """A client of the scripted hub."""
    async with AsyncClient(hub.address, "tkt_key", policy=POLICY) as connected:
        yield connected


def unnamed() -> Event:
    """An event without an id."""
    return Event(guild_id="1", ticket_closed=TicketClosed(message_count=3))


async def test_a_burst_of_single_emits_loses_nothing(real: RealHub) -> None:
    """Twenty thousand concurrent emits: each is acknowledged, and each is in the log once."""
    _, key = real.register()
    events = [unnamed() for _ in range(BURST)]
    async with AsyncClient(real.address, real.keys["BOT"]) as bot:
        replies = await asyncio.gather(*(bot.emit(one) for one in events), return_exceptions=True)
    assert [reply for reply in replies if not isinstance(reply, EmitEventResponse)] == []
    reading = Reading(real.client(key), start=Start.earliest(), max_batch_size=1_000)
    assert sorted(reading.ids(BURST)) == sorted(one.id for one in events)
    assert reading.got.empty()


async def test_a_cancelled_answer_is_retried_with_the_same_id(hub: ScriptedHub, client: AsyncClient) -> None:
    """CANCELLED from a stopping hub, gRPC or a proxy: the client sends the same event again."""
    hub.refusals = [CANCELLED, CANCELLED]
    assert (await client.emit(unnamed())).event_id
    assert hub.emitted[0] == hub.emitted[1] == hub.emitted[2]
    hub.refusals = [CANCELLED]
    assert [result.event_id for result in await client.emit_batch([closed("a"), closed("b")])] == ["a", "b"]
    hub.refusals = [CANCELLED]
    assert (await client.commit("c1")).cursor == "c1"


async def test_the_threaded_client_retries_a_cancelled_answer_too(hub: ScriptedHub) -> None:
    """The same, for the threaded client."""
    hub.refusals = [CANCELLED]
    with Client(hub.address, "tkt_key", policy=POLICY) as client:
        await asyncio.to_thread(client.emit, closed("a"))
    assert len(hub.emitted) == 2


async def test_a_call_cancelled_by_its_own_caller_is_not_retried(hub: ScriptedHub, client: AsyncClient) -> None:
    """A cancelled task ends as cancelled, and its event keeps the id under which it may be stored."""
    hub.blocked.clear()
    mine = unnamed()
    emitting = asyncio.create_task(client.emit(mine))
    await asyncio.wait_for(hub.arrived.wait(), 10)
    emitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emitting
    hub.blocked.set()
    await client.emit(closed("next"))
    assert [request.event.id for request in hub.emitted] == [mine.id, "next"]  # type: ignore[union-attr]  # single ones


async def test_a_call_in_flight_learns_that_its_client_was_closed(hub: ScriptedHub) -> None:
    """GRPC raises a cancellation although the task was not cancelled: the client says what happened."""
    hub.blocked.clear()
    client = AsyncClient(hub.address, "tkt_key", policy=POLICY)
    mine = unnamed()
    emitting = asyncio.create_task(client.emit(mine))
    await asyncio.wait_for(hub.arrived.wait(), 10)
    await client.aclose()
    with pytest.raises(HubCallError, match="this client is closed") as raised:
        await emitting
    assert raised.value.event_ids == (mine.id,)
    hub.blocked.set()


async def test_closing_the_threaded_client_abandons_an_unanswered_commit(hub: ScriptedHub) -> None:
    """Its thread ends without a traceback."""
    hub.blocked.clear()
    client = Client(hub.address, "tkt_key", policy=POLICY)
    reading = asyncio.create_task(asyncio.to_thread(next, client.subscribe(auto_commit=True), None))
    (await hub.peer()).send(ready())
    await hub.commits.get()
    [committing] = [thread for thread in threading.enumerate() if thread.name == "hub-client-commits"]
    await asyncio.to_thread(client.close)
    await asyncio.to_thread(committing.join, 20)
    assert await reading is None


async def test_a_failure_names_its_events(hub: ScriptedHub, client: AsyncClient) -> None:
    """For a single event, and for the failed call of a batch: the callers' own messages have the same ids."""
    hub.refusals = [REFUSED]
    one, many = unnamed(), [unnamed() for _ in range(1_002)]
    with pytest.raises(HubCallError) as raised:
        await client.emit(one)
    assert raised.value.event_ids == (one.id,) != ("",)
    hub.refuse_from = 2
    with pytest.raises(HubCallError) as raised:
        await client.emit_batch(many)
    assert raised.value.event_ids == tuple(each.id for each in many[1_000:])
    assert [result.event_id for result in raised.value.results] == [each.id for each in many[:1_000]]
    assert len({each.id for each in many}) == 1_002


async def test_a_failure_of_the_threaded_client_names_its_events_too(hub: ScriptedHub) -> None:
    """The same, for the threaded client."""
    one, many = unnamed(), [unnamed(), unnamed()]
    with Client(hub.address, "tkt_key", policy=POLICY) as client:
        hub.refusals = [REFUSED, REFUSED]
        with pytest.raises(HubCallError) as raised:
            await asyncio.to_thread(client.emit, one)
        assert raised.value.event_ids == (one.id,) != ("",)
        with pytest.raises(HubCallError) as raised:
            await asyncio.to_thread(client.emit_batch, many)
        assert raised.value.event_ids == tuple(each.id for each in many)


async def test_waiting_emits_time_out_if_the_hub_is_away() -> None:
    """The last of many emits waits no longer than the first, unless the hub answers in between."""
    turns = Turns(Policy(max_calls=1, call_timeout=0.05))
    async with turns:
        with pytest.raises(HubCallError, match=r"no call to the hub has succeeded for 0\.05 s"):
            await turns.__aenter__()
    async with turns:
        pass


def test_a_client_made_at_import_serves_one_event_loop(real: RealHub) -> None:
    """Bots make it before their loop runs: its channel opens at first use; a second loop gets an error."""
    bot = AsyncClient(real.address, real.keys["BOT"])

    async def emit() -> str:
        return (await bot.emit(unnamed())).event_id

    async def emit_and_close() -> str:
        try:
            return await emit()
        finally:
            await bot.aclose()

    with pytest.raises(RuntimeError, match="inside a running event loop"):
        bot.subscribe()
    with asyncio.Runner() as first:
        assert first.run(emit())
        with asyncio.Runner() as second:
            for use in (emit(), bot.rotate_key()):
                with pytest.raises(RuntimeError, match="belongs to another event loop"):
                    second.run(use)
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                second.run(subscribe(bot))
        assert first.run(emit_and_close())


async def subscribe(client: AsyncClient) -> None:
    """Subscribe, inside a loop."""
    client.subscribe()


async def test_an_unused_client_can_be_closed() -> None:
    """No channel is opened for it, and it stays closed."""
    client = AsyncClient("127.0.0.1:1", "tkt_key")
    await client.aclose()
    with pytest.raises(HubCallError, match="closed"):
        await client.emit(unnamed())
