"""The threaded client against a scripted channel and a fake clock."""

import gc
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Unpack

import grpc
import grpc_testing
import pytest
from tickets.hub.v1.event_service_pb2 import (
    ON_EXPIRED_CURSOR_EARLIEST,
    BatchEmitEventsResponse,
    CommitCursorRequest,
    CommitCursorResponse,
    EmitEventResponse,
    Gap,
    Heartbeat,
    SubscribeResponse,
)
from tickets_hub import Client, HubCallError, Notice, Policy, Reconnecting, Start, Subscription
from tickets_hub.requests import SubscribeOptions
from tickets_hub.sync_subscription import RealClock

from tests.support.events import closed
from tests.support.scripted_hub import EVENTS, TRAILER, Stream, TestClock, details, frame, goodbye, heartbeat, ready

POLICY = Policy(first_delay=2, max_delay=8)
COMMITS = "hub-client-commits"
WATCHDOG = "hub-client-watchdog"
READER = "reader"
LOST = grpc.StatusCode.UNAVAILABLE


class Hub:
    """A scripted hub, a client of it, and a thread that reads for the test."""

    def __init__(self) -> None:
        self.clock = TestClock()
        self.channel = grpc_testing.channel([EVENTS], self.clock.fake)
        self.client = Client("127.0.0.1:1", "tkt_key", policy=POLICY, channel=self.channel, clock=self.clock)
        self.notices: list[Notice] = []
        self.got = queue.Queue[str | Exception]()

    def read(self, subscription: Subscription) -> threading.Thread:
        """Iterate in a thread of its own: ids, then "end" or the exception, arrive in ``got``."""

        def run() -> None:
            try:
                for each in subscription:
                    self.got.put(each.id)
                self.got.put("end")
            except HubCallError as error:
                self.got.put(error)

        thread = threading.Thread(target=run, name=READER, daemon=True)
        thread.start()
        return thread

    def subscribe(self, **options: Unpack[SubscribeOptions]) -> tuple[Subscription, Stream]:
        """A subscription that is being read, and its first stream."""
        subscription = self.client.subscribe(on_notice=self.notices.append, **options)
        self.read(subscription)
        return subscription, Stream(self.channel)

    def next(self) -> str | Exception:
        """What the reading thread got next."""
        return self.got.get(timeout=10)

    def unary(self, method: str) -> tuple[Any, Any]:
        """The next call of a method: its request and the handle to answer it with."""
        _, request, rpc = self.channel.take_unary_unary(EVENTS.methods_by_name[method])
        return request, rpc


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A scripted hub; its client is closed afterwards."""
    scripted = Hub()
    yield scripted
    scripted.client.close()


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Any]]]:
    """Run a blocking call beside the test."""
    with ThreadPoolExecutor(4) as pool:
        yield pool.submit


def fail(rpc: grpc_testing.UnaryUnaryChannelRpc, code: grpc.StatusCode, status: bytes | None = None) -> None:
    """Answer a call with a failure."""
    rpc.terminate(None, ((TRAILER, status),) if status else (), code, "no")


def test_events_arrive_in_order_with_notices_beside_them(hub: Hub) -> None:
    """The plain case: Ready, frames, a heartbeat; the call carries the key."""
    subscription, stream = hub.subscribe(start=Start.earliest(), scopes=["ticket_stats"])
    stream.send(ready(), frame("c1", "a", "b"), heartbeat("c2"), frame("c3", "c"))
    assert [hub.next() for _ in range(3)] == ["a", "b", "c"]
    assert subscription.cursor == "c3"
    assert stream.metadata["authorization"] == "Bearer tkt_key"
    assert stream.request.WhichOneof("start") == "earliest"
    assert [type(n).__name__ for n in hub.notices] == ["Ready", "Heartbeat"]


def test_a_broken_stream_is_resumed_after_the_last_event(hub: Hub) -> None:
    """The client reconnects after the delay of the policy, at the cursor, and logs it."""
    _, stream = hub.subscribe()
    stream.send(ready(), frame("c1", "a"))
    assert hub.next() == "a"
    stream.end(LOST, "gone")
    delay = hub.clock.sleeping(READER)
    assert 1 <= delay <= 2
    hub.clock.advance(delay)
    again = Stream(hub.channel)
    assert again.request.cursor == "c1"
    again.send(ready("c1"), frame("c2", "b"))
    assert hub.next() == "b"
    broken = next(n for n in hub.notices if isinstance(n, Reconnecting))
    assert (broken.delay, str(broken.error)) == (delay, "UNAVAILABLE: gone")


def test_a_stream_that_ends_without_an_error_is_resumed_too(hub: Hub) -> None:
    """A stream that ends without an error is no reason to end the subscription silently."""
    _, stream = hub.subscribe()
    stream.send(ready("c5")).end()
    hub.clock.advance(hub.clock.sleeping(READER))
    assert Stream(hub.channel).request.cursor == "c5"


def test_breaking_in_the_middle_of_a_frame_repeats_nothing(hub: Hub) -> None:
    """The rest of the frame is handed over first, then the stream is opened after it."""
    subscription = hub.client.subscribe(on_notice=hub.notices.append)
    with ThreadPoolExecutor(1, thread_name_prefix=READER) as pool:
        first = pool.submit(next, subscription)
        stream = Stream(hub.channel)
        stream.send(ready(), frame("c1", "a", "b"))
        assert first.result(10) == closed("a")
        stream.end(LOST)
        assert next(subscription) == closed("b")
        pool.submit(next, subscription)
        hub.clock.advance(hub.clock.sleeping(f"{READER}_0"))
        assert Stream(hub.channel).request.cursor == "c1"
        subscription.close()


def test_the_watchdog_cancels_a_silent_stream(hub: Hub) -> None:
    """Two heartbeat intervals and a second without a frame: cancelled, and opened again."""
    _, stream = hub.subscribe()
    assert hub.clock.sleeping(WATCHDOG) == POLICY.open_timeout
    stream.send(ready("c0", heartbeat=10))
    assert hub.clock.sleeping(WATCHDOG) == 21
    hub.clock.advance(20.9)
    hub.clock.advance(0.1)
    stream.await_cancel()
    hub.clock.advance(hub.clock.sleeping(READER))
    assert Stream(hub.channel).request.cursor == "c0"
    assert "no frame for 21 s" in str(hub.notices[-1])


def test_frames_hold_the_watchdog_off(hub: Hub) -> None:
    """Time counts from the newest frame, not from the first."""
    _, stream = hub.subscribe()
    stream.send(ready(heartbeat=10))
    while hub.clock.sleeping(WATCHDOG) != 21:
        pass
    hub.clock.advance(15)
    stream.send(frame("c1", "a"))
    assert hub.next() == "a"
    hub.clock.advance(15)
    stream.send(frame("c2", "b"))
    assert hub.next() == "b"
    assert not any(isinstance(n, Reconnecting) for n in hub.notices)


def test_a_slow_caller_is_not_taken_for_a_silent_hub(hub: Hub) -> None:
    """While the caller does not read, silence does not count."""
    subscription = hub.client.subscribe(on_notice=hub.notices.append)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, subscription)
        stream = Stream(hub.channel)
        stream.send(ready(heartbeat=10), frame("c1", "a"), frame("c2", "b"))
        assert first.result(10) == closed("a")
        for _ in range(3):
            hub.clock.sleeping(WATCHDOG)
            hub.clock.advance(3_600)
        assert next(subscription) == closed("b")
    assert not any(isinstance(n, Reconnecting) for n in hub.notices)
    subscription.close()


def test_a_permanent_failure_is_raised_once(hub: Hub) -> None:
    """With the hub's reason; the subscription has ended then."""
    subscription, stream = hub.subscribe()
    stream.send(ready())
    stream.end(grpc.StatusCode.ABORTED, "taken", details(10, "SUBSCRIPTION_TAKEN_OVER", by="k2"))
    error = hub.next()
    assert isinstance(error, HubCallError)
    assert (error.reason, error.metadata) == ("SUBSCRIPTION_TAKEN_OVER", {"by": "k2"})
    assert list(subscription) == []


def test_goodbye_reconnects_after_the_hubs_delay(hub: Hub) -> None:
    """The stream is opened at the cursor of the Goodbye."""
    _, stream = hub.subscribe()
    stream.send(ready(), heartbeat("c1"), goodbye("c2", delay=7)).end()
    assert hub.clock.sleeping(READER) == 7
    hub.clock.advance(7)
    assert Stream(hub.channel).request.cursor == "c2"


def test_close_ends_a_blocked_iteration(hub: Hub) -> None:
    """From another thread, while it waits for a frame: the call is cancelled, the loop ends without an error."""
    subscription, stream = hub.subscribe()
    stream.send(ready(), frame("c1", "a"))
    assert hub.next() == "a"
    subscription.close()
    assert hub.next() == "end"
    stream.await_cancel()


def test_close_ends_the_wait_before_a_reconnect(hub: Hub) -> None:
    """Even if the backoff is half a minute."""
    subscription, stream = hub.subscribe()
    stream.end(LOST)
    hub.clock.sleeping(READER)
    subscription.close()
    assert hub.next() == "end"


def test_closing_the_client_ends_its_subscriptions(hub: Hub) -> None:
    """No new subscription can be opened with it."""
    _, stream = hub.subscribe()
    stream.send(ready(), frame("c1", "a"))
    assert hub.next() == "a"
    hub.client.close()
    assert hub.next() == "end"
    with pytest.raises(HubCallError, match="closed"):
        hub.client.subscribe()
    with pytest.raises(HubCallError, match="closed"):
        hub.client.emit(closed("a"))


def test_with_ends_the_stream(hub: Hub, background: Callable[..., Future[Any]]) -> None:
    """Leaving the loop by break leaves no call behind."""

    def first() -> str:
        with hub.client.subscribe(on_notice=hub.notices.append) as subscription:
            for each in subscription:
                return each.id
        return "nothing"

    reading = background(first)
    stream = Stream(hub.channel).send(ready(), frame("c1", "a", "b"))
    assert reading.result(10) == "a"
    stream.await_cancel()


def test_break_without_with_ends_the_stream_too(hub: Hub, background: Callable[..., Future[Any]]) -> None:
    """Dropping the last reference is enough."""

    def first() -> str:
        for each in hub.client.subscribe(on_notice=hub.notices.append):
            return each.id
        return "nothing"

    reading = background(first)
    stream = Stream(hub.channel).send(ready(), frame("c1", "a"))
    assert reading.result(10) == "a"
    gc.collect()
    stream.await_cancel()


def test_an_error_in_the_callback_ends_the_stream_and_is_raised(hub: Hub) -> None:
    """A developer's mistake is raised, not swallowed, and leaves no call behind."""

    def broken(_: Notice) -> None:
        raise RuntimeError("mine")

    subscription = hub.client.subscribe(on_notice=broken)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(next, subscription)
        stream = Stream(hub.channel).send(ready())
        with pytest.raises(RuntimeError, match="mine"):
            reading.result(10)
    stream.await_cancel()


def test_a_broken_stream_is_logged_as_a_warning_by_default(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise a subscription that cannot reach the hub would look like a quiet one."""
    hub.read(hub.client.subscribe())
    Stream(hub.channel).end(LOST, "connection refused")
    hub.clock.sleeping(READER)
    assert "connection refused" in caplog.text


def test_auto_commit_begins_with_ready_and_follows_processed_events(hub: Hub) -> None:
    """A frame's cursor is committed once its last event was processed."""
    subscription = hub.client.subscribe(auto_commit=True, on_notice=hub.notices.append, subscription_id="mine")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, subscription)
        stream = Stream(hub.channel).send(ready("c0"))
        request, rpc = hub.unary("CommitCursor")
        assert (request.cursor, request.subscription_id, request.force) == ("c0", "mine", False)
        rpc.terminate(CommitCursorResponse(), (), grpc.StatusCode.OK, "")
        stream.send(frame("c1", "a"), frame("c2", "b", "c"))
        assert first.result(10) == closed("a")
        assert pool.submit(next, subscription).result(10) == closed("b")
        while hub.clock.sleeping(COMMITS) != POLICY.commit_interval:
            pass
        hub.clock.advance(POLICY.commit_interval)
        request, rpc = hub.unary("CommitCursor")
        assert request.cursor == "c1"
        rpc.terminate(CommitCursorResponse(), (), grpc.StatusCode.OK, "")
        subscription.close()


def test_closing_sends_the_last_commit(hub: Hub) -> None:
    """Also within the interval between commits."""
    subscription = hub.client.subscribe(auto_commit=True, on_notice=hub.notices.append)
    hub.read(subscription)
    stream = Stream(hub.channel).send(ready("c0"))
    _, rpc = hub.unary("CommitCursor")
    rpc.terminate(CommitCursorResponse(), (), grpc.StatusCode.OK, "")
    stream.send(frame("c1", "a"), heartbeat("c2"))
    assert hub.next() == "a"
    while (
        not any(isinstance(n, Heartbeat) for n in hub.notices) or hub.clock.sleeping(COMMITS) > POLICY.commit_interval
    ):
        pass
    subscription.close()
    request, rpc = hub.unary("CommitCursor")
    assert request.cursor in {"c1", "c2"}
    rpc.terminate(CommitCursorResponse(), (), grpc.StatusCode.OK, "")


def test_a_permanent_commit_failure_is_raised_while_iterating(hub: Hub) -> None:
    """Otherwise the program would only learn at its next start that nothing was committed."""
    subscription = hub.client.subscribe(auto_commit=True, on_notice=hub.notices.append)
    hub.read(subscription)
    stream = Stream(hub.channel).send(ready("c0"))
    _, rpc = hub.unary("CommitCursor")
    fail(rpc, grpc.StatusCode.RESOURCE_EXHAUSTED, details(8, "TOO_MANY_SUBSCRIPTIONS"))
    assert subscription._committer
    subscription._committer.thread.join(10)
    stream.send(heartbeat("c1"))
    error = hub.next()
    assert isinstance(error, HubCallError)
    assert error.reason == "TOO_MANY_SUBSCRIPTIONS"
    stream.await_cancel()


def test_after_a_restore_the_gaps_cursor_is_committed(hub: Hub) -> None:
    """Ready's cursor predates the restore and cannot be committed; the subscription continues."""
    hub.read(hub.client.subscribe(auto_commit=True, on_expired_cursor="earliest", on_notice=hub.notices.append))
    stream = Stream(hub.channel).send(ready("before"))
    request, rpc = hub.unary("CommitCursor")
    assert request.cursor == "before"
    fail(rpc, grpc.StatusCode.OUT_OF_RANGE, details(11, "CURSOR_EXPIRED", cause="RESTORE"))
    stream.send(SubscribeResponse(cursor="after", gap=Gap()))
    while hub.clock.sleeping(COMMITS) != POLICY.commit_interval:
        pass
    hub.clock.advance(POLICY.commit_interval)
    request, rpc = hub.unary("CommitCursor")
    assert request.cursor == "after"
    rpc.terminate(CommitCursorResponse(), (), grpc.StatusCode.OK, "")
    stream.send(frame("c2", "a"))
    assert hub.next() == "a"


def test_a_cursor_can_be_committed_by_hand(hub: Hub, background: Callable[..., Future[Any]]) -> None:
    """For programs that decide alone when an event is processed; it is retried like an emit."""
    answer = background(lambda: hub.client.commit("c9", subscription_id="mine", force=True))
    request, rpc = hub.unary("CommitCursor")
    fail(rpc, LOST)
    hub.clock.advance(hub.clock.anyone_sleeping())
    again, rpc = hub.unary("CommitCursor")
    rpc.terminate(CommitCursorResponse(cursor="c9", committed=True), (), grpc.StatusCode.OK, "")
    assert answer.result(10).committed
    assert request == again == CommitCursorRequest(cursor="c9", subscription_id="mine", force=True)


def test_a_gap_is_logged_as_a_warning_by_default(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    """No loss is silent, also without a handler."""
    hub.read(hub.client.subscribe(on_expired_cursor="earliest"))
    stream = Stream(hub.channel).send(ready(), SubscribeResponse(cursor="c1", gap=Gap()), frame("c2", "a"))
    assert hub.next() == "a"
    assert "not kept any more" in caplog.text
    assert stream.request.on_expired_cursor == ON_EXPIRED_CURSOR_EARLIEST


def test_emit_retries_with_the_same_id(hub: Hub, background: Callable[..., Future[Any]]) -> None:
    """The hub recognises a repetition by its id; the hub sets the delay."""
    nameless = closed("")
    answer = background(hub.client.emit, nameless)
    first, rpc = hub.unary("EmitEvent")
    fail(rpc, LOST)
    hub.clock.advance(hub.clock.anyone_sleeping())
    second, rpc = hub.unary("EmitEvent")
    fail(rpc, grpc.StatusCode.RESOURCE_EXHAUSTED, details(8, "EMIT_BACKLOG_FULL", retry=5))
    asked = hub.clock.anyone_sleeping()
    assert asked >= 5
    hub.clock.advance(asked)
    third, rpc = hub.unary("EmitEvent")
    rpc.terminate(EmitEventResponse(event_id=third.event.id, duplicate=True), (), grpc.StatusCode.OK, "")
    assert answer.result(10).duplicate
    assert first == second == third
    assert first.event.id
    assert nameless.id == first.event.id


def test_emit_raises_a_permanent_failure_at_once(hub: Hub, background: Callable[..., Future[Any]]) -> None:
    """With the reason."""
    answer = background(hub.client.emit, closed("a"))
    _, rpc = hub.unary("EmitEvent")
    fail(rpc, grpc.StatusCode.ALREADY_EXISTS, details(6, "EVENT_ID_CONFLICT"))
    with pytest.raises(HubCallError) as raised:
        answer.result(10)
    assert raised.value.reason == "EVENT_ID_CONFLICT"


def test_emit_gives_up_at_its_deadline(hub: Hub, background: Callable[..., Future[Any]]) -> None:
    """A bot must not hang because the hub is away."""
    answer = background(hub.client.emit, closed("a"))
    for last in (False, False, True):
        _, rpc = hub.unary("EmitEvent")
        hub.clock.advance(POLICY.try_timeout)
        fail(rpc, grpc.StatusCode.DEADLINE_EXCEEDED)
        if not last:
            hub.clock.advance(hub.clock.anyone_sleeping())
    with pytest.raises(HubCallError, match="DEADLINE_EXCEEDED"):
        answer.result(10)


def test_close_ends_a_waiting_emit(hub: Hub, background: Callable[..., Future[Any]]) -> None:
    """The caller learns that the event was not acknowledged."""
    answer = background(hub.client.emit, closed("a"))
    _, rpc = hub.unary("EmitEvent")
    fail(rpc, LOST)
    hub.clock.anyone_sleeping()
    hub.client.close()
    with pytest.raises(HubCallError, match="closed"):
        answer.result(10)


def test_emit_batch_keeps_order_and_reports_what_was_stored(hub: Hub, background: Callable[..., Future[Any]]) -> None:
    """Two thousand events are two calls; when the second is refused, the error has the results of the first."""
    answer = background(hub.client.emit_batch, [closed(f"e{i}") for i in range(1_500)])
    request, rpc = hub.unary("BatchEmitEvents")
    stored = [EmitEventResponse(event_id=e.id) for e in request.events]
    rpc.terminate(BatchEmitEventsResponse(results=stored), (), grpc.StatusCode.OK, "")
    request, rpc = hub.unary("BatchEmitEvents")
    assert [e.id for e in request.events] == [f"e{i}" for i in range(1_000, 1_500)]
    fail(rpc, grpc.StatusCode.INVALID_ARGUMENT)
    with pytest.raises(HubCallError) as raised:
        answer.result(10)
    assert [r.event_id for r in raised.value.results] == [f"e{i}" for i in range(1_000)]


def test_the_watchdog_thread_ends_with_its_stream(hub: Hub) -> None:
    """The watchdog ends with its stream."""
    subscription, stream = hub.subscribe()
    stream.send(ready(), frame("c1", "a"))
    hub.next()
    mine = [t for t in threading.enumerate() if t.name in {WATCHDOG, READER}]
    assert len(mine) == 2
    subscription.close()
    for thread in mine:
        thread.join(10)
        assert not thread.is_alive()


def test_a_wait_of_the_real_clock_can_be_interrupted() -> None:
    """Woken early it returns early, and is ready for the next wait."""
    wake = threading.Event()
    wake.set()
    before = time.monotonic()
    RealClock().wait(wake, float("inf"))
    RealClock().wait(wake, 0.001)
    assert time.monotonic() - before < 10
    assert not wake.is_set()


def test_an_unreferenced_subscription_is_collected(hub: Hub) -> None:
    """The client keeps no reference to a subscription that the program has dropped."""
    gone = weakref.ref(hub.client.subscribe())
    gc.collect()
    assert gone() is None
