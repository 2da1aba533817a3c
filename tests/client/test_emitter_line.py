"""The queue of outgoing events: which share a call, in which order, and what an answer means for each."""

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from tickets.hub.v1.event_service_pb2 import BatchEmitEventsRequest, BatchEmitEventsResponse, EmitEventResponse
from tickets_hub.failure import HubCallError, Violation
from tickets_hub.outgoing import MAX_CALL_BYTES, Call, Outgoing, Parcel

from tests.support.events import all_of, closed, ids
from tests.support.scripted_hub import details

AWAY = HubCallError("UNAVAILABLE", "", "away")


def parcel(*names: str, is_list: bool = False, since: float = 0) -> Parcel:
    """Events that one caller wants stored."""
    return Parcel([closed(name) for name in names], lambda: None, is_list=is_list, since=since)


def busy() -> tuple[Outgoing, Call]:
    """A line with a call under way."""
    line = Outgoing()
    call = line.enter(parcel("first"))
    assert call is not None
    return line, call


def put(line: Outgoing, *parcels: Parcel) -> None:
    """Let parcels enter behind a call."""
    assert [line.enter(each) for each in parcels] == [None] * len(parcels)


def names(call: Call | None) -> list[str]:
    """The ids in a call, in order."""
    assert call is not None
    return [name for each in call.parcels for name in each.ids]


def stored(call: Call) -> BatchEmitEventsResponse:
    """The answer that everything is stored."""
    return BatchEmitEventsResponse(results=[EmitEventResponse(event_id=name) for name in names(call)])


def settled(
    line: Outgoing, call: Call | None, answer: EmitEventResponse | BatchEmitEventsResponse | HubCallError
) -> None:
    """Answer a call."""
    assert call is not None
    line.settle(call, answer)


def test_events_that_arrive_during_a_call_share_the_next_one() -> None:
    """One call at a time; the next carries all waiting events, in order, and is independent."""
    line, first = busy()
    waiting = [parcel(name) for name in ids("e", 60)]
    put(line, *waiting)
    line.settle(first, EmitEventResponse(event_id="first"))
    call = line.next_call()
    assert names(call) == ids("e", 60)
    assert call is not None
    assert isinstance(call.request, BatchEmitEventsRequest)
    assert call.request.independent
    line.settle(call, stored(call))
    assert [each.outcome()[0].event_id for each in waiting] == ids("e", 60)
    assert (line.next_call(), line.is_idle) == (None, True)


def test_a_call_has_at_most_1000_events_and_256_kib() -> None:
    """A larger event goes alone."""
    line, _ = busy()
    put(line, *(parcel(name) for name in ids("e", 1_500)))
    assert names(line.next_call()) == ids("e", 1_500)[:1_000]
    assert names(line.next_call()) == ids("e", 1_500)[1_000:]
    large = [parcel("x" * (MAX_CALL_BYTES // 3)) for _ in range(4)]
    put(line, parcel("y" * MAX_CALL_BYTES), *large)
    sizes = []
    while call := line.next_call():
        sizes.append(len(call.parcels))
    assert sizes == [1, 2, 2]


def test_a_batch_is_a_call_of_its_own_in_order() -> None:
    """It stays all or none, and overtakes nothing."""
    line, _ = busy()
    put(line, parcel("a"), parcel("b"), parcel("c", "d", is_list=True), parcel("e"))
    calls: list[tuple[list[str], Message]] = []
    while call := line.next_call():
        calls.append((names(call), call.request))
    assert [found for found, _ in calls] == [["a", "b"], ["c", "d"], ["e"]]
    batch = calls[1][1]
    assert isinstance(batch, BatchEmitEventsRequest)
    assert not batch.independent


def test_a_refused_event_fails_as_if_it_had_been_sent_alone() -> None:
    """Its caller gets the reason, its own id, and fields by the name that EmitEvent has for them."""
    line, first = busy()
    bad, good = parcel("bad"), parcel("good")
    put(line, good, bad)
    line.settle(first, EmitEventResponse())
    call = line.next_call()
    violation = HubCallError(
        "INVALID_ARGUMENT", "", "events[1].guild_id: no", violations=[Violation("events[1].guild_id", "no")]
    )
    raw = Status.FromString(details(3, "INVALID_REQUEST"))
    raw.message = violation.message
    settled(line, call, BatchEmitEventsResponse(results=[EmitEventResponse(event_id="good"), {"error": raw}]))  # type: ignore[list-item]  # a message may be given as a dict
    assert good.outcome()[0].event_id == "good"
    assert bad.error is not None
    assert (bad.error.code, bad.error.reason, bad.error.event_ids) == ("INVALID_ARGUMENT", "INVALID_REQUEST", ("bad",))
    assert bad.error.message == "event.guild_id: no"
    assert violation.renamed("events[1]", "event").violations == (Violation("event.guild_id", "no"),)


def test_an_older_hub_gets_the_events_one_by_one() -> None:
    """It refuses a whole call for one event: each goes alone, in order, before anything that came later."""
    line, first = busy()
    put(line, parcel("a"), parcel("b"), parcel("c"))
    line.settle(first, EmitEventResponse())
    call = line.next_call()
    put(line, parcel("later"), parcel("last"))
    settled(line, call, HubCallError("INVALID_ARGUMENT", "INVALID_REQUEST", "events[1].guild_id"))
    calls = []
    while call := line.next_call():
        calls.append(names(call))
    assert calls == [["a"], ["b"], ["c"], ["later", "last"]]


def test_a_failed_call_fails_only_its_own_callers() -> None:
    """Each caller gets an exception of its own, with its own ids."""
    line, first = busy()
    shared = [parcel("a"), parcel("b")]
    put(line, *shared)
    line.settle(first, AWAY)
    call = line.next_call()
    put(line, parcel("c"))
    settled(line, call, AWAY)
    errors = [each.error for each in shared]
    assert [error.event_ids for error in errors if error] == [("a",), ("b",)]
    assert errors[0] is not errors[1]
    assert names(line.next_call()) == ["c"]


def test_events_that_waited_as_long_as_the_failed_call_fail_with_it() -> None:
    """The last of many waits no longer than the first; later events still have time."""
    line, _ = busy()
    early, late = parcel("early", since=10), parcel("late", since=11)
    put(line, early, late)
    line.expire(10, AWAY)
    assert (early.error is not None, late.error) == (True, None)
    assert names(line.next_call()) == ["late"]


def test_a_withdrawn_event_is_not_sent() -> None:
    """Its neighbours are. An event that was sent cannot be withdrawn."""
    line, _ = busy()
    gone = parcel("gone")
    put(line, parcel("a"), gone, parcel("b"))
    assert line.withdraw(gone)
    call = line.next_call()
    assert names(call) == ["a", "b"]
    assert call is not None
    assert not line.withdraw(call.parcels[0])
    assert line.unknown == ("a", "b")


def test_giving_up_fails_all_events() -> None:
    """Events in flight and waiting ones: no caller waits forever."""
    line, first = busy()
    waiting = parcel("a")
    put(line, waiting)
    line.give_up(AWAY)
    assert [all_of(each.events) for each in (*first.parcels, waiting) if each.error] == [["first"], ["a"]]
    assert line.is_idle
