"""The logic of resuming and retrying, without channel, thread or clock."""

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from tickets.hub.v1.event_service_pb2 import Goodbye, Heartbeat, Ready, SubscribeRequest, SubscribeResponse
from tickets_hub.commits import Commits
from tickets_hub.failure import HubCallError
from tickets_hub.session import Attempts, Backoff, Policy, Reconnecting, StreamSession

from tests.support.events import closed
from tests.support.scripted_hub import frame, goodbye, heartbeat, ready

POLICY = Policy(first_delay=1, max_delay=8)
LOST = HubCallError("UNAVAILABLE", "", "gone")


def session(**request: str) -> StreamSession:
    """A session whose chance always takes the longest delay."""
    return StreamSession(SubscribeRequest(**request), POLICY, lambda: 1.0)  # type: ignore[arg-type]  # test literals


def taken(of: StreamSession) -> list[str]:
    """The ids of all events that the session has in hand."""
    return [e.id for e in iter(of.take, None) if e]


def test_the_cursor_advances_after_the_last_event_of_its_frame() -> None:
    """Earlier it would skip events that the program has not seen."""
    s = session()
    s.received(ready("c0"))
    s.received(frame("c1", "a", "b"))
    assert s.take() == closed("a")
    assert s.cursor == "c0"
    assert s.take() == closed("b")
    assert s.cursor == "c1"


def test_frames_without_events_advance_the_cursor_at_once() -> None:
    """A heartbeat's cursor lies past what was withheld: resuming at it saves the hub the work."""
    s = session()
    s.received(ready("c0"))
    s.received(heartbeat("c7"))
    assert s.cursor == "c7"


def test_later_streams_start_at_the_cursor() -> None:
    """The start form holds once; after a frame only its cursor loses nothing and repeats nothing."""
    s = session(subscription_id="mine")
    s._request.earliest.SetInParent()
    assert s.request().WhichOneof("start") == "earliest"
    s.received(ready("c0"))
    s.received(frame("c1", "a"))
    s.take()
    s.ended(LOST)
    again = s.request()
    assert (again.cursor, again.subscription_id) == ("c1", "mine")


def test_a_stream_that_breaks_before_its_first_frame_is_opened_as_before() -> None:
    """Without a cursor there is nothing to resume at."""
    s = session()
    s._request.latest.SetInParent()
    s.request()
    s.ended(LOST)
    assert s.request().WhichOneof("start") == "latest"


def test_the_rest_of_a_frame_is_delivered_after_its_stream_broke() -> None:
    """Then the client resumes after it, so nothing is repeated."""
    s = session()
    s.received(ready("c0"))
    s.received(frame("c1", "a", "b", "c"))
    assert s.take() == closed("a")
    s.ended(LOST)
    assert taken(s) == ["b", "c"]
    assert s.request().cursor == "c1"


def test_a_frame_may_hold_a_notice_and_events() -> None:
    """A frame may hold both; neither gets lost."""
    s = session()
    mixed = frame("c1", "a")
    mixed.ready.key_id = "k"
    assert s.received(mixed) == Ready(key_id="k")
    assert taken(s) == ["a"]


def test_an_unknown_kind_of_frame_is_no_error() -> None:
    """A newer hub may send more than this client knows; the cursor still counts."""
    unknown = SubscribeResponse.FromString(SubscribeResponse(cursor="c3").SerializeToString() + b"\xfa\x01\x00")
    s = session()
    assert s.received(unknown) is None
    assert s.cursor == "c3"


def test_the_backoff_doubles_up_to_a_cap() -> None:
    """A hub that is away is not hammered."""
    s = session()
    delays = []
    for _ in range(6):
        s.request()
        s.received(ready())
        delays.append(s.ended(LOST).delay)
    assert delays == [1, 2, 4, 8, 8, 8]


@pytest.mark.parametrize(("after_ready", "expected"), [(heartbeat("c1"), 1), (frame("c1", "a"), 1), (goodbye("c1"), 4)])
def test_only_a_frame_after_ready_resets_the_backoff(after_ready: SubscribeResponse, expected: float) -> None:
    """Ready alone, or Ready and Goodbye, again and again, must not become a busy loop."""
    s = session()
    for _ in range(2):
        s.request()
        s.ended(LOST)
    s.request()
    s.received(ready())
    s.received(after_ready)
    assert s.ended(LOST).delay == expected


def test_jitter_takes_at_most_half_of_a_delay() -> None:
    """Clients that broke together do not return together, and never at once."""
    assert Backoff(POLICY, lambda: 0.0).failed() == 0.5
    assert Backoff(POLICY, lambda: 0.5).failed() == 0.75


@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_at_least_the_hubs_and_at_most_the_larger_of_both(asked: list[float], chance: float) -> None:
    """Whatever the hub asks for, and however often."""
    backoff = Backoff(POLICY, lambda: chance)
    for wish in asked:
        assert wish <= backoff.failed(wish) <= max(wish, POLICY.max_delay)


def test_the_backoff_does_not_overflow() -> None:
    """The exponent is capped before the delay is computed."""
    backoff = Backoff(POLICY, lambda: 1.0)
    assert {backoff.failed() for _ in range(2_000)} == {1, 2, 4, 8}


def test_the_delay_of_goodbye_is_used_as_it_is() -> None:
    """The hub already spreads its clients."""
    s = session()
    s.request()
    s.received(ready())
    s.received(heartbeat("c1"))
    assert isinstance(s.received(goodbye("c2", delay=3.5)), Goodbye)
    assert s.ended(LOST) == Reconnecting(LOST, 3.5)
    assert s.request().cursor == "c2"


def test_goodbye_without_reconnect_ends_the_subscription() -> None:
    """Even if the status alone would allow a retry."""
    s = session()
    s.request()
    s.received(goodbye("c1", reconnect=False, reason="this replica is for tests"))
    with pytest.raises(HubCallError, match="this replica is for tests"):
        s.ended(LOST)


def test_a_goodbye_does_not_affect_the_next_stream() -> None:
    """Its delay and its `reconnect` are those of its own stream only."""
    s = session()
    s.request()
    s.received(goodbye("c1", delay=3))
    s.ended(LOST)
    s.request()
    assert s.ended(LOST).delay == 2


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("UNAUTHENTICATED", "KEY_REVOKED"),
        ("PERMISSION_DENIED", "SCOPE_NOT_GRANTED"),
        ("INVALID_ARGUMENT", "CURSOR_INVALID"),
        ("NOT_FOUND", "INTEGRATION_NOT_FOUND"),
        ("FAILED_PRECONDITION", "STATE_FORBIDS"),
        ("OUT_OF_RANGE", "CURSOR_EXPIRED"),
        ("ABORTED", "SUBSCRIPTION_TAKEN_OVER"),
        ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS"),
        ("UNIMPLEMENTED", ""),
    ],
)
def test_a_permanent_failure_of_a_stream_is_raised(code: str, reason: str) -> None:
    """The same failure object, so that its details reach the caller; a goodbye before it changes nothing."""
    s = session()
    s.request()
    s.received(goodbye("c1"))
    failure = HubCallError(code, reason, "no")
    with pytest.raises(HubCallError) as raised:
        s.ended(failure)
    assert raised.value is failure


@pytest.mark.parametrize("code", ["OK", "CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE"])
def test_a_temporary_failure_of_a_stream_is_retried(code: str) -> None:
    """A restart, a proxy, an internal error of the hub: the subscription continues."""
    assert session().ended(HubCallError(code, "", "broken")).delay == 1


def test_a_limit_with_a_retry_delay_is_waited_for() -> None:
    """RESOURCE_EXHAUSTED with RetryInfo passes after that time."""
    assert session().ended(HubCallError("RESOURCE_EXHAUSTED", "AUTH_THROTTLED", "slow", retry_after=42)).delay == 42


def test_a_limit_without_a_reason_is_retried() -> None:
    """It comes from a proxy or from gRPC, not from the hub."""
    bare = HubCallError("RESOURCE_EXHAUSTED", "", "Concurrent RPC limit exceeded!")
    assert session().ended(bare).delay == 1
    assert Attempts(POLICY, 0, lambda: 1.0).failed(bare, 0) == 1


def test_silence_counts_only_while_the_caller_waits_for_a_frame() -> None:
    """A caller that works on an event for an hour must not lose the stream."""
    s = session()
    s.request()
    assert s.remaining(1_000) == float("inf")
    s.waiting(1_000)
    assert s.remaining(1_000) == POLICY.open_timeout
    s.received(ready(heartbeat=2))
    assert s.remaining(9_999) == float("inf")
    s.waiting(2_000)
    assert s.remaining(2_004) == 1
    assert s.silence().message == "no frame for 5 s"


def test_after_goodbye_the_end_is_awaited_only_briefly() -> None:
    """A hub that hangs after its Goodbye must not hold its clients for two heartbeats."""
    s = session()
    s.request()
    s.received(ready(heartbeat=60))
    s.received(goodbye("c1"))
    assert s.patience == POLICY.goodbye_timeout
    s.request()
    assert s.patience == POLICY.open_timeout


def test_ready_without_an_interval_keeps_the_opening_timeout() -> None:
    """A time-out of one second would tear down a healthy stream again and again."""
    s = session()
    s.received(SubscribeResponse(cursor="c", ready=Ready(heartbeat_interval=Duration())))
    assert s.patience == POLICY.open_timeout


def test_a_call_is_retried_until_its_deadline() -> None:
    """Then the last failure is raised, without waiting for a retry that cannot finish in time."""
    attempts = Attempts(Policy(first_delay=4, max_delay=100, call_timeout=10, try_timeout=3), 0, lambda: 1.0)
    assert attempts.timeout(0) == 3
    assert attempts.failed(LOST, 1) == 4
    assert attempts.timeout(9) == 1
    with pytest.raises(HubCallError, match="gone"):
        attempts.failed(LOST, 5)


@pytest.mark.parametrize("code", ["ALREADY_EXISTS", "INVALID_ARGUMENT", "UNKNOWN", "INTERNAL"])
def test_a_refused_call_is_not_retried(code: str) -> None:
    """The hub would refuse the event again."""
    with pytest.raises(HubCallError):
        Attempts(POLICY, 0).failed(HubCallError(code, "", "no"), 0)


def test_a_call_waits_for_the_hubs_retry_delay() -> None:
    """EMIT_BACKLOG_FULL comes with a time."""
    failure = HubCallError("RESOURCE_EXHAUSTED", "EMIT_BACKLOG_FULL", "full", retry_after=2.5)
    assert Attempts(POLICY, 0).failed(failure, 0) == 2.5


def test_only_the_newest_cursor_is_committed_at_an_interval() -> None:
    """A commit for each event would cost the hub as much as the event."""
    commits = Commits(Policy(commit_interval=5))
    assert commits.due(100) == float("inf")
    commits.offer("c1")
    assert commits.due(100) == 0
    assert commits.take() == "c1"
    assert commits.due(100) == float("inf")
    commits.offer("c2")
    commits.offer("c3")
    commits.settled("c1", None, 100)
    assert (commits.due(101), commits.due(200)) == (4, 0)
    assert commits.take() == "c3"


def test_the_same_cursor_is_committed_once() -> None:
    """A reader without a new cursor commits nothing."""
    commits = Commits(POLICY)
    commits.offer("")
    assert commits.due(0) == float("inf")
    commits.offer("c1")
    commits.settled(commits.take(), None, 0)
    commits.offer("c1")
    assert commits.due(9_999) == float("inf")


def test_a_failed_commit_is_retried_unless_a_newer_one_waits() -> None:
    """With the delays of a reconnect."""
    commits = Commits(POLICY, lambda: 1.0)
    commits.offer("c1")
    commits.settled(commits.take(), LOST, 100)
    assert commits.due(100) == 1
    assert commits.take() == "c1"
    commits.offer("c2")
    commits.settled("c1", LOST, 200)
    assert commits.due(200) == 2
    assert commits.take() == "c2"


def test_a_commit_of_an_expired_cursor_is_dropped() -> None:
    """Ready's cursor predates a restore; the Gap brings one that can be committed."""
    commits = Commits(Policy(commit_interval=5))
    commits.offer("before the gap")
    commits.settled(commits.take(), HubCallError("OUT_OF_RANGE", "CURSOR_EXPIRED", "restored"), 100)
    assert commits.due(200) == float("inf")
    commits.offer("after the gap")
    assert commits.due(105) == 0
    assert commits.take() == "after the gap"


def test_a_permanent_commit_failure_is_raised() -> None:
    """A cursor that was not committed must not look committed."""
    commits = Commits(POLICY)
    with pytest.raises(HubCallError, match="TOO_MANY_SUBSCRIPTIONS"):
        commits.settled("c1", HubCallError("RESOURCE_EXHAUSTED", "TOO_MANY_SUBSCRIPTIONS", "no"), 0)


def test_a_heartbeat_with_store_silent_keeps_the_stream_alive() -> None:
    """It is a frame like any other: the client waits, and resumes at the same cursor."""
    s = session()
    s.request()
    s.received(ready("c0", heartbeat=2))
    for now in range(0, 60, 2):
        s.waiting(now)
        notice = s.received(SubscribeResponse(cursor="c0", heartbeat=Heartbeat(store_silent=True)))
        assert isinstance(notice, Heartbeat)
        assert notice.store_silent
    s.waiting(60)
    assert s.remaining(60) == s.patience == 5
    assert s.cursor == "c0"
