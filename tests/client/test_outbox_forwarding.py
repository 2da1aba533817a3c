"""How an outbox reacts to each answer of the hub, without a hub."""

import pytest
from tickets_hub import HubCallError, Policy
from tickets_hub.outbox import Batch, Forwarder, Verdict
from tickets_hub.session import Backoff
from tickets_hub.v1.event_service_pb2 import BatchEmitEventsResponse, EmitEventResponse

from tests.support.events import closed

KEPT = [
    ("UNAVAILABLE", "DRAINING"),
    ("UNAVAILABLE", ""),
    ("UNAUTHENTICATED", "KEY_REVOKED"),
    ("UNAUTHENTICATED", "KEY_UNKNOWN"),
    ("PERMISSION_DENIED", "ROLE_NOT_ALLOWED"),
    ("RESOURCE_EXHAUSTED", "STORAGE_FULL"),
    ("RESOURCE_EXHAUSTED", "EMIT_BACKLOG_FULL"),
    ("DEADLINE_EXCEEDED", ""),
    ("CANCELLED", ""),
    ("INTERNAL", ""),
    ("UNKNOWN", ""),
    ("UNIMPLEMENTED", ""),
    ("FAILED_PRECONDITION", "STATE_FORBIDS"),
    ("INVALID_ARGUMENT", ""),  # without a reason it is not the hub's word
]


def forwarder() -> Forwarder:
    """One whose delays are known: 1 s after the first failure, 2 s after the next."""
    return Forwarder(Backoff(Policy(first_delay=1, max_delay=60), chance=lambda: 1.0))


def batch(count: int) -> Batch:
    """The events with the numbers 7, 8, ... of an emitter that begins at position 11."""
    return Batch("outbox-a", 7, 17, [closed(f"e{number}").SerializeToString() for number in range(count)])


def failure_of(forward: Forwarder) -> HubCallError | None:
    """Why the last call failed."""
    return forward.failure


def answer(count: int) -> BatchEmitEventsResponse:
    """All were stored."""
    return BatchEmitEventsResponse(results=[EmitEventResponse(event_id=f"e{number}") for number in range(count)])


def test_a_call_carries_the_emitter_and_its_numbers() -> None:
    """The call is independent, so each event is checked alone, and its number makes it unique."""
    request = batch(3).request()
    assert [event.id for event in request.events] == ["e0", "e1", "e2"]
    assert (request.independent, request.emitter.emitter_id, request.emitter.first_sequence) == (True, "outbox-a", 7)
    assert batch(3).last_position == 19


@pytest.mark.parametrize(("code", "reason"), KEPT)
def test_events_are_kept_unless_the_hub_refuses_them(code: str, reason: str) -> None:
    """Without permission, or without a hub, the client keeps the events and retries with a backoff."""
    forward, error = forwarder(), HubCallError(code, reason, "no")
    assert forward.judge(batch(2), error) == Verdict(delay=1)
    assert forward.judge(batch(2), error) == Verdict(delay=2)
    assert failure_of(forward) is error
    assert forward.judge(batch(2), answer(2)) == Verdict(done=True)
    assert failure_of(forward) is None
    assert forward.judge(batch(2), error) == Verdict(delay=1)


def test_the_hubs_retry_delay_is_obeyed() -> None:
    """A hub that is shutting down spreads its callers itself."""
    draining = HubCallError("UNAVAILABLE", "DRAINING", "the hub is shutting down", retry_after=7)
    assert forwarder().judge(batch(1), draining) == Verdict(delay=7)


def test_a_sequence_gap_begins_a_new_emitter() -> None:
    """At once; if the hub refuses the new numbers, too, the client pauses between attempts."""
    forward, gap = forwarder(), HubCallError("ABORTED", "EMITTER_SEQUENCE_GAP", "numbers are missing")
    assert forward.judge(batch(2), gap) == Verdict(renumber=True)
    assert forward.judge(batch(2), gap) == Verdict(renumber=True, delay=2)
    assert forward.judge(batch(2), answer(2)) == Verdict(done=True)
    assert forward.judge(batch(2), gap) == Verdict(renumber=True)


def test_an_older_hub_gets_one_event_at_a_time() -> None:
    """The bad event is found, the others are stored; then calls are shared again."""
    forward, refused = (
        forwarder(),
        HubCallError("INVALID_ARGUMENT", "INVALID_REQUEST", "events[0].guild_id: is required"),
    )
    assert forward.most == 1_000
    assert forward.judge(batch(3), refused) == Verdict()
    assert forward.most == 1
    verdict = forward.judge(batch(1), refused)
    assert (verdict.done, [each.error.message for each in verdict.rejected]) == (True, ["event.guild_id: is required"])
    for left in (1, 1_000):
        assert forward.judge(batch(1), answer(1)) == Verdict(done=True)
        assert forward.most == left


def test_an_answer_with_too_few_results_removes_nothing() -> None:
    """The client does not trust an answer for two of three events."""
    assert forwarder().judge(batch(3), answer(2)) == Verdict(delay=1)
