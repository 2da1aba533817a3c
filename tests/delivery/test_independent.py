"""Independent batches: the hub judges each event alone, stores the good ones and says what is wrong with the others."""

import asyncio

import pytest
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from tickets.hub.v1.event_pb2 import Event
from tickets.hub.v1.event_service_pb2 import BatchEmitEventsRequest, BatchEmitEventsResponse, Emitter

from hub.api.convert import event_entry
from hub.control.emitters import MAX_EMITTERS
from hub.delivery.numbered import NumberedAppends
from hub.model import Kind
from tests.support.calls import fails, info_of
from tests.support.events import closed, ids, ticket
from tests.support.hubs import FakeClock, RunningHub, StartHub, emit, log_of
from tests.support.streams import names_until

BATCH = "EventService/BatchEmitEvents"


async def send(hub: RunningHub, *events: Event) -> BatchEmitEventsResponse:
    """Emit an independent batch."""
    reply = await hub.bot.call(BATCH, BatchEmitEventsRequest(events=events, independent=True))
    assert isinstance(reply, BatchEmitEventsResponse)
    return reply


def reason(status: Status) -> str:
    """The ErrorInfo reason of a result's error."""
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


async def test_valid_events_of_an_independent_batch_are_stored_in_order(hub: RunningHub) -> None:
    """A bad guild, time or id fails its own event only; the others reach the stream in order."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    await emit(hub, ["used"])
    late = ticket("late")
    late.occur_time.CopyFrom(Timestamp(seconds=2**40))
    reply = await send(hub, ticket("a"), ticket("bad", "12a"), ticket("b"), closed("used"), late, ticket("c"))
    assert [one.event_id for one in reply.results] == ["a", "bad", "b", "used", "late", "c"]
    assert [code_pb2.Code.Name(one.error.code) for one in reply.results] == [
        *("OK", "INVALID_ARGUMENT", "OK", "ALREADY_EXISTS", "INVALID_ARGUMENT", "OK")
    ]
    assert await names_until(stream, "c") == ["used", "a", "b", "c"]
    bad = BadRequest()
    assert reply.results[1].error.details[1].Unpack(bad)
    assert [one.field for one in bad.field_violations] == ["events[1].guild_id"]
    assert reason(reply.results[3].error) == "EVENT_ID_CONFLICT"
    assert not reply.results[3].HasField("accept_time")
    assert reply.results[5].HasField("accept_time")


async def test_a_repeated_id_in_a_batch_is_compared_with_the_first(hub: RunningHub) -> None:
    """The same content is a duplicate of the first, other content conflicts with it; the first is stored either way."""
    reply = await send(hub, ticket("a"), ticket("a"), closed("a"), ticket("b"))
    first, again, other, last = reply.results
    assert (again.duplicate, again.accept_time) == (True, first.accept_time)
    assert reason(other.error) == "EVENT_ID_CONFLICT"
    assert not last.HasField("error")


async def test_a_repeated_batch_gets_the_same_results(hub: RunningHub) -> None:
    """A client that got no answer sends the batch again: duplicates, the same errors, nothing stored twice."""
    batch = (ticket("a"), ticket("bad", "x"), ticket("b"))
    first = await send(hub, *batch)
    again = await send(hub, *batch)
    assert [one.duplicate for one in again.results] == [True, False, True]
    assert [one.error.code for one in again.results] == [one.error.code for one in first.results]
    assert [one.accept_time for one in again.results] == [one.accept_time for one in first.results]


async def test_a_batch_of_invalid_events_has_an_error_for_each(hub: RunningHub) -> None:
    """A batch without a good event succeeds as a call, and stores nothing."""
    before = hub.hub.feed.through
    reply = await send(hub, *(ticket(name, "no guild") for name in ids("bad", 1_000)))
    assert {reason(one.error) for one in reply.results} == {"INVALID_REQUEST"}
    assert hub.hub.feed.through == before


@pytest.mark.parametrize("count", [0, 1_001])
async def test_a_wrong_number_of_events_fails_the_whole_call(hub: RunningHub, count: int) -> None:
    """No events, or too many: the call fails, whatever the events are."""
    request = BatchEmitEventsRequest(events=[ticket(name) for name in ids("e", count)], independent=True)
    error = await fails(hub.bot.call(BATCH, request))
    assert (error.code().name, "events" in (error.details() or "")) == ("INVALID_ARGUMENT", True)


async def test_a_batch_that_is_not_independent_is_all_or_nothing(hub: RunningHub) -> None:
    """One invalid event refuses the whole batch."""
    before = hub.hub.feed.through
    for bad in (ticket("bad", "12a"), closed("a")):
        error = await fails(hub.bot.call(BATCH, BatchEmitEventsRequest(events=[ticket("a"), bad])))
        assert error.code().name in ("INVALID_ARGUMENT", "ALREADY_EXISTS")
    assert hub.hub.feed.through == before


async def send_numbered(hub: RunningHub, emitter_id: str, first: int, *events: Event) -> BatchEmitEventsResponse:
    """Emit an independent batch whose events an emitter numbers."""
    emitter = Emitter(emitter_id=emitter_id, first_sequence=first)
    reply = await hub.bot.call(BATCH, BatchEmitEventsRequest(events=events, independent=True, emitter=emitter))
    assert isinstance(reply, BatchEmitEventsResponse)
    return reply


async def stored(hub: RunningHub) -> list[str]:
    """The ids of the events in the log, in order."""
    return [entry.id for entry in await log_of(hub, Kind.EVENT)]


async def test_a_numbered_event_is_stored_once_however_late_it_is_repeated(start_hub: StartHub) -> None:
    """Long after the dedupe window the hub still knows the numbers that it has, and stores those that are new."""
    clock = FakeClock()
    hub = await start_hub(clock)
    await send_numbered(hub, "bot", 1, ticket("a"), ticket("b"))
    clock.wall_offset += 2 * round(hub.settings.dedupe_window * 1_000_000)
    reply = await send_numbered(hub, "bot", 1, ticket("a"), ticket("b"), ticket("c"))
    assert [(one.event_id, one.duplicate) for one in reply.results] == [("a", True), ("b", True), ("c", False)]
    assert [one.HasField("accept_time") for one in reply.results] == [False, False, True]
    assert await stored(hub) == ["a", "b", "c"]


async def test_a_refused_event_uses_up_its_number(hub: RunningHub) -> None:
    """The next batch continues behind it, also if every event of a batch was refused."""
    await send_numbered(hub, "bot", 1, ticket("a"), ticket("bad", "x"))
    await send_numbered(hub, "bot", 3, ticket("worse", "x"))
    reply = await send_numbered(hub, "bot", 3, ticket("worse", "x"), ticket("b"))
    assert [code_pb2.Code.Name(one.error.code) for one in reply.results] == ["INVALID_ARGUMENT", "OK"]
    assert await stored(hub) == ["a", "b"]


async def test_a_numbered_event_refused_for_its_id_is_logged(hub: RunningHub) -> None:
    """A repetition counts as a duplicate, so only this line reports it; it leaves out the content."""
    await emit(hub, ["used"])
    with structlog.testing.capture_logs() as lines:
        for duplicate in (False, True):
            reply = await send_numbered(hub, "bot", 1, ticket("a"), closed("used"))
            assert [one.duplicate for one in reply.results] == [duplicate, duplicate]
    event = "a numbered event was refused for its id"
    named = {"emitter_id": "bot", "number": 2, "event_id": "used"}
    assert [line for line in lines if line["log_level"] == "warning"] == [
        {"event": event, "log_level": "warning", **named}
    ]


async def test_missing_numbers_are_refused_and_nothing_is_stored(hub: RunningHub) -> None:
    """The error says which number comes next; each emitter has numbers of its own."""
    await send_numbered(hub, "bot", 1, ticket("a"))
    for emitter_id, first, expected in (("bot", 3, "2"), ("other", 2, "1")):
        error = await fails(send_numbered(hub, emitter_id, first, ticket("b")))
        assert (error.code().name, info_of(error).metadata["expected_sequence"]) == ("ABORTED", expected)
    assert await stored(hub) == ["a"]


async def test_concurrent_copies_of_a_full_batch_are_stored_once(hub: RunningHub) -> None:
    """A thousand numbered events sent by two calls side by side: each is stored once, in order."""
    events = [ticket(name) for name in ids("e", 1_000)]
    await asyncio.gather(*(send_numbered(hub, "bot", 1, *events) for _ in range(3)))
    assert await stored(hub) == ids("e", 1_000)


async def test_emitter_numbers_survive_a_restart(start_hub: StartHub) -> None:
    """They are in the log, with their events: the next hub on it continues with them."""
    first = await start_hub()
    await send_numbered(first, "bot", 1, ticket("a"), ticket("b"))
    await first.close()
    again = await start_hub()
    reply = await send_numbered(again, "bot", 2, ticket("b"), ticket("c"))
    assert [one.duplicate for one in reply.results] == [True, False]
    assert await stored(again) == ["a", "b", "c"]


async def test_the_most_idle_emitter_is_forgotten_beyond_100(hub: RunningHub) -> None:
    """The hub knows a hundred; one more replaces the first, which may begin again from 1."""
    for number in range(MAX_EMITTERS + 1):
        await send_numbered(hub, f"bot-{number}", 1, ticket(f"e{number}"))
    error = await fails(send_numbered(hub, "bot-0", 2, ticket("x")))
    assert info_of(error).metadata["expected_sequence"] == "1"
    assert not (await send_numbered(hub, "bot-0", 1, ticket("x"))).results[0].duplicate
    assert not (await send_numbered(hub, "bot-2", 2, ticket("y"))).results[0].duplicate


async def test_a_clock_step_forgets_no_emitter(start_hub: StartHub) -> None:
    """Another emitter sends while the wall clock is a year ahead: repeated events of the first are duplicates."""
    clock = FakeClock()
    hub = await start_hub(clock)
    await send_numbered(hub, "bot", 1, ticket("a"))
    clock.wall_offset += 365 * 24 * 3_600 * 1_000_000
    await send_numbered(hub, "other", 1, ticket("b"))
    assert (await send_numbered(hub, "bot", 1, ticket("a"))).results[0].duplicate
    assert await stored(hub) == ["a", "b"]


async def test_an_emitter_that_just_sent_is_not_forgotten(hub: RunningHub) -> None:
    """A hundred are known; the most silent one sends while another one comes: the next one makes room."""
    for number in range(MAX_EMITTERS):
        await send_numbered(hub, f"bot-{number}", 1, ticket(f"e{number}"))
    numbered = NumberedAppends(hub.hub.feed, hub.hub.log, hub.hub.registry, FakeClock())
    entry = event_entry(ticket("x"), 1)
    more = event_entry(ticket("y"), 1)
    await asyncio.gather(numbered.append("bot-0", 2, 1, {0: entry}), numbered.append("new", 1, 1, {0: more}))
    assert (await send_numbered(hub, "bot-0", 2, ticket("x"))).results[0].duplicate
    assert info_of(await fails(send_numbered(hub, "bot-1", 2, ticket("z")))).metadata["expected_sequence"] == "1"


async def test_a_forgotten_emitter_can_always_return(hub: RunningHub) -> None:
    """The log may still say that it was forgotten, long after the hub's memory has lost that: it begins from 1."""
    for number in range(2 * MAX_EMITTERS + 1):
        await send_numbered(hub, f"bot-{number}", 1, ticket(f"e{number}"))
    assert not (await send_numbered(hub, "bot-0", 1, ticket("x"))).results[0].duplicate
    assert (await send_numbered(hub, "bot-0", 1, ticket("x"))).results[0].duplicate


async def test_numbers_need_independent_events(hub: RunningHub) -> None:
    """A batch that is all or none has no numbers: the field that is missing is named."""
    emitter = Emitter(emitter_id="bot", first_sequence=1)
    error = await fails(hub.bot.call(BATCH, BatchEmitEventsRequest(events=[ticket("a")], emitter=emitter)))
    assert (error.code().name, "independent" in (error.details() or "")) == ("INVALID_ARGUMENT", True)
