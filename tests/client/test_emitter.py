"""Emitting with both clients: waiting events share a call, in order, and each caller gets its own answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from tickets.hub.v1.event_pb2 import Event, TicketCreated
from tickets.hub.v1.event_service_pb2 import BatchEmitEventsRequest, EmitEventRequest, EmitEventResponse
from tickets_hub import AsyncClient, Client, HubCallError, Start
from tickets_hub.aio_emitter import AsyncEmitter
from tickets_hub.outgoing import Outgoing
from tickets_hub.sync_emitter import Emitter
from tickets_hub.transport import closed_error

from tests.client.test_client_aio import POLICY, ScriptedHub, hub
from tests.support.events import closed, ids
from tests.support.hubs import PATIENCE, until
from tests.support.real_hub import Reading, RealHub
from tests.support.scripted_hub import details

__all__ = ["hub"]

REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, details(3, "INVALID_REQUEST"))
LOST = (grpc.StatusCode.UNAVAILABLE, None)

Kind = type[AsyncClient] | type[Client]


class Driven:
    """Either client, asked from tasks of the test's loop. `waiting`: how many events wait in its line."""

    def __init__(self, client: AsyncClient | Client) -> None:
        self.client = client
        self._threads = ThreadPoolExecutor(64)

    @property
    def line(self) -> Outgoing:
        """What the client has not sent yet."""
        emitter = self.client._emitter
        assert isinstance(emitter, AsyncEmitter | Emitter)
        return emitter._line

    def emit(self, event: Event) -> asyncio.Future[Any]:
        """Begin to emit."""
        if isinstance(self.client, AsyncClient):
            return asyncio.ensure_future(self.client.emit(event))
        return asyncio.get_running_loop().run_in_executor(self._threads, self.client.emit, event)

    def emit_batch(self, *events: Event) -> asyncio.Future[Any]:
        """Begin to emit a list."""
        if isinstance(self.client, AsyncClient):
            return asyncio.ensure_future(self.client.emit_batch(events))
        return asyncio.get_running_loop().run_in_executor(self._threads, self.client.emit_batch, events)

    async def emit_each(self, *events: Event) -> list[str]:
        """Emit events one after the other, from one task or one thread; their ids."""
        client = self.client
        if isinstance(client, AsyncClient):
            return [(await client.emit(event)).event_id for event in events]

        def emitting() -> list[str]:
            return [client.emit(event).event_id for event in events]

        return await asyncio.get_running_loop().run_in_executor(self._threads, emitting)

    async def emit_behind(self, *events: Event) -> list[asyncio.Future[Any]]:
        """Begin to emit events, in this order, while a call is under way."""
        begun, line = [], self.line
        for event in events:
            count = len(line._waiting)
            begun.append(self.emit(event))
            await until(partial(lambda count: len(line._waiting) > count, count))
        return begun

    async def close(self, deadline: float = 2) -> tuple[str, ...]:
        """Close the client."""
        if isinstance(self.client, AsyncClient):
            return await self.client.aclose(deadline)
        return await asyncio.to_thread(self.client.close, deadline)


@pytest.fixture(params=[AsyncClient, Client])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each client in turn."""
    return cast("Kind", request.param)


@pytest.fixture
async def driven(kind: Kind, hub: ScriptedHub) -> AsyncIterator[Driven]:
    """Each client in turn, of the scripted hub."""
    made = Driven(kind(hub.address, "tkt_key", policy=POLICY))
    yield made
    hub.blocked.set()
    await made.close()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealHub]:
    """A real hub with a data directory of its own."""
    started = RealHub(tmp_path)
    yield started
    started.close()


async def first(hub: ScriptedHub, driven: Driven) -> asyncio.Future[Any]:
    """A call that the hub does not answer before `hub.blocked` is set."""
    hub.blocked.clear()
    hub.arrived.clear()
    emitting = driven.emit(closed("first"))
    await asyncio.wait_for(hub.arrived.wait(), PATIENCE)
    return emitting


def names(hub: ScriptedHub) -> list[list[str]]:
    """The ids in each call that came."""
    return [
        [event.id for event in call.events] if isinstance(call, BatchEmitEventsRequest) else [call.event.id]
        for call in hub.emitted
    ]


async def test_waiting_events_share_one_call(hub: ScriptedHub, driven: Driven) -> None:
    """While a call is in flight nothing else is sent; then all waiting events go together, in the order of emit()."""
    emitting = [await first(hub, driven), *await driven.emit_behind(*(closed(name) for name in ids("e", 20)))]
    assert names(hub) == [["first"]]
    hub.blocked.set()
    answers = await asyncio.gather(*emitting)
    assert [answer.event_id for answer in answers] == ["first", *ids("e", 20)]
    assert names(hub) == [["first"], ids("e", 20)]


async def test_a_failed_shared_call_is_retried_before_newer_events(hub: ScriptedHub, driven: Driven) -> None:
    """The order of emit() holds through failures: what failed goes again, as it was, and then the next."""
    emitting = [await first(hub, driven), *await driven.emit_behind(closed("a"), closed("b"))]
    hub.refusals = [LOST, LOST]
    hub.blocked.set()
    await asyncio.gather(*emitting)
    await driven.emit(closed("c"))
    assert [call for call in names(hub) if call != ["first"]] == [["a", "b"], ["c"]]
    assert names(hub).count(["first"]) == 3


async def test_an_older_hub_gets_the_events_one_by_one(hub: ScriptedHub, driven: Driven) -> None:
    """It refuses the whole call; then the bad event fails alone, its neighbours are stored."""
    emitting = [await first(hub, driven), *await driven.emit_behind(closed("a"), closed("b"))]
    hub.refuse_from = 1
    hub.blocked.set()
    assert [answer.event_id for answer in await asyncio.gather(*emitting)] == ["first", "a", "b"]
    assert names(hub) == [["first"], ["a", "b"], ["a"], ["b"]]


@pytest.mark.parametrize("wrong", [SimpleNamespace(id="x"), "text", TicketCreated()])
async def test_emitting_something_else_than_an_event_fails_for_its_caller_only(
    hub: ScriptedHub, driven: Driven, wrong: object
) -> None:
    """A TypeError, also while a call is in flight; the emitter continues, and sends nothing of it."""
    event = cast("Event", wrong)
    with pytest.raises(TypeError, match=type(wrong).__name__):
        await driven.emit(event)
    emitting = [await first(hub, driven)]
    for begun in (driven.emit(event), driven.emit_batch(event)):
        with pytest.raises(TypeError, match=type(wrong).__name__):
            await asyncio.wait_for(begun, PATIENCE)
    emitting += await driven.emit_behind(closed("a"))
    hub.blocked.set()
    assert [answer.event_id for answer in await asyncio.gather(*emitting)] == ["first", "a"]
    assert names(hub) == [["first"], ["a"]]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_answer_with_too_few_results_fails_the_missing_events(hub: ScriptedHub, driven: Driven) -> None:
    """A hub answers two events of three: these are stored, the third fails with its id."""
    emitting = [await first(hub, driven), *await driven.emit_behind(*(closed(name) for name in "abc"))]
    hub.answers = 2
    hub.blocked.set()
    answers: list[Any] = await asyncio.wait_for(asyncio.gather(*emitting, return_exceptions=True), PATIENCE)
    assert [answer.event_id for answer in answers[:3]] == ["first", "a", "b"]
    assert (answers[3].code, answers[3].event_ids) == ("UNKNOWN", ("c",))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_calls_are_shared_again_after_an_unexpected_error(hub: ScriptedHub, driven: Driven) -> None:
    """What sends shared calls ended with the surprise: the next shared call has another."""
    for answers in (0, None):
        emitting = [await first(hub, driven), *await driven.emit_behind(closed("a"), closed("b"))]
        hub.answers = answers
        hub.blocked.set()
        results: list[Any] = await asyncio.wait_for(asyncio.gather(*emitting, return_exceptions=True), PATIENCE)
        assert [isinstance(result, HubCallError) for result in results] == [False, answers == 0, answers == 0]


async def test_closing_sends_the_waiting_events(hub: ScriptedHub, driven: Driven) -> None:
    """close() refuses later events, and ends once all earlier ones are answered."""
    emitting = [await first(hub, driven), *await driven.emit_behind(closed("a"), closed("b"))]
    closing = asyncio.ensure_future(driven.close(PATIENCE))
    await until(lambda: driven.line._ending is not None)
    with pytest.raises(HubCallError, match="closed") as caught:
        await driven.emit(closed("late"))
    assert caught.value.event_ids == ("late",)
    hub.blocked.set()
    assert [answer.event_id for answer in await asyncio.gather(*emitting)] == ["first", "a", "b"]
    assert await closing == ()
    with pytest.raises(HubCallError, match="closed") as caught:
        await driven.emit(closed("later"))
    assert caught.value.event_ids == ("later",)


async def test_closing_between_two_calls_of_a_batch_keeps_the_first_results(hub: ScriptedHub, driven: Driven) -> None:
    """The error has the results of the call before, and the ids of the events that were not sent."""
    emitting = [await first(hub, driven)]
    listed = driven.emit_batch(*(closed(name) for name in ids("e", 1_001)))
    await until(lambda: len(driven.line._waiting) == 1)
    closing = asyncio.ensure_future(driven.close(PATIENCE))
    await until(lambda: driven.line._ending is not None)
    hub.blocked.set()
    with pytest.raises(HubCallError, match="closed") as caught:
        await listed
    assert [result.event_id for result in caught.value.results] == ids("e", 1_001)[:1_000]
    assert caught.value.event_ids == (ids("e", 1_001)[1_000],)
    await asyncio.gather(*emitting, closing)


def test_an_emit_that_races_with_close_is_refused() -> None:
    """Closing is checked under the lock of the queue: nobody would send the event."""
    sent: list[EmitEventRequest | BatchEmitEventsRequest] = []

    def send(request: EmitEventRequest | BatchEmitEventsRequest) -> EmitEventResponse:
        sent.append(request)
        return EmitEventResponse()

    emitter = Emitter(send, time.monotonic, PATIENCE)
    assert emitter.finish(0, closed_error()) == ()
    with pytest.raises(HubCallError, match="closed") as caught:
        emitter.emit([closed("late")])
    assert (sent, caught.value.event_ids) == ([], ("late",))


async def test_closing_has_a_deadline_and_names_uncertain_events(hub: ScriptedHub, driven: Driven) -> None:
    """Unsent events fail with their ids; events in flight are named, as they may or may not be stored."""
    emitting = [await first(hub, driven), *await driven.emit_behind(closed("a"))]
    assert await driven.close(0.05) == ("first",)
    errors: list[Any] = await asyncio.gather(*emitting, return_exceptions=True)
    assert [(error.code, error.event_ids) for error in errors] == [("CANCELLED", ("first",)), ("CANCELLED", ("a",))]
    assert names(hub) == [["first"]]


async def test_a_cancelled_emit_does_not_affect_others(hub: ScriptedHub) -> None:
    """Its event is not sent if it had not been; others in its shared call get their answer."""
    async with AsyncClient(hub.address, "tkt_key", policy=POLICY) as client:
        driven = Driven(client)
        before = await first(hub, driven)
        one, gone, other = await driven.emit_behind(closed("a"), closed("gone"), closed("b"))
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        before.cancel()
        hub.blocked.set()
        assert [answer.event_id for answer in await asyncio.gather(one, other)] == ["a", "b"]
        assert names(hub) == [["first"], ["a", "b"]]
        assert (await client.emit(closed("next"))).event_id == "next"


async def test_many_callers_share_calls_without_a_delay(hub: ScriptedHub, driven: Driven) -> None:
    """Sixty-four callers in a loop: a call carries about all of their events."""
    callers = [[f"{name}-{turn}" for turn in range(10)] for name in ids("c", 64)]
    emitted = await asyncio.gather(*(driven.emit_each(*map(closed, mine)) for mine in callers))
    assert emitted == callers
    sizes = [len(call) for call in names(hub)]
    assert sum(sizes) == 640
    assert len(sizes) <= (12 if isinstance(driven.client, AsyncClient) else 40)  # threads run in no certain order


async def test_refusals_and_duplicates_reach_their_own_callers(real: RealHub, kind: Kind) -> None:
    """Many callers against a real hub: the bad events fail with their ids, each good one is stored once."""
    _, key = real.register()
    driven, outcomes = Driven(kind(real.address, real.keys["BOT"])), dict[str, str]()

    async def caller(number: int) -> None:
        for turn in range(20):
            name, guild = f"t{number}-{turn}", "1" if turn % 5 else "no guild"
            try:
                outcomes[name] = (await driven.emit(closed(name, guild))).event_id
            except HubCallError as error:
                outcomes[name] = f"{error.violations[0].field} of {error.event_ids[0]}"

    await asyncio.gather(*map(caller, range(16)))
    good = [name for name in outcomes if int(name.partition("-")[2]) % 5]
    bad = outcomes.keys() - good
    assert {name: outcomes[name] for name in good} == {name: name for name in good}
    assert {outcomes[name] for name in bad} == {f"event.guild_id of {name}" for name in bad}
    assert (len(good), len(bad)) == (16 * 16, 16 * 4)
    again = [await driven.emit(closed(name, "1")) for name in good[:10]]
    assert all(answer.duplicate for answer in again)
    await driven.close()
    reading = Reading(real.client(key), start=Start.earliest(), max_batch_size=1_000)
    stored = reading.ids(len(good))
    assert sorted(stored) == sorted(good)
    for number in range(16):  # each caller's own events keep its order
        mine = [int(name.partition("-")[2]) for name in stored if name.startswith(f"t{number}-")]
        assert mine == sorted(mine)
