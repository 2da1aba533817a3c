"""What the tests of the clients share: frames, failures, a clock that only a test moves, a scripted hub."""

import queue
import threading
from collections.abc import Iterable

import grpc
import grpc_testing
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from tickets.hub.v1 import event_service_pb2
from tickets.hub.v1.event_service_pb2 import (
    Goodbye,
    Heartbeat,
    Ready,
    SubscribeRequest,
    SubscribeResponse,
)

from tests.support.events import closed

EVENTS = event_service_pb2.DESCRIPTOR.services_by_name["EventService"]
TRAILER = "grpc-status-details-bin"


def frame(cursor: str, *names: str) -> SubscribeResponse:
    """A frame with events of these ids."""
    return SubscribeResponse(cursor=cursor, events=[closed(name) for name in names])


def ready(cursor: str = "c0", heartbeat: float = 15) -> SubscribeResponse:
    """The first frame of a stream."""
    return SubscribeResponse(cursor=cursor, ready=Ready(heartbeat_interval=seconds(heartbeat)))


def heartbeat(cursor: str) -> SubscribeResponse:
    """A heartbeat."""
    return SubscribeResponse(cursor=cursor, heartbeat=Heartbeat(caught_up=True))


def goodbye(cursor: str, *, reconnect: bool = True, delay: float = 0, reason: str = "DRAINING") -> SubscribeResponse:
    """The last frame."""
    return SubscribeResponse(
        cursor=cursor, goodbye=Goodbye(reason=reason, reconnect=reconnect, retry_delay=seconds(delay))
    )


def seconds(value: float) -> Duration:
    """A duration."""
    duration = Duration()
    duration.FromNanoseconds(round(value * 1e9))
    return duration


def details(
    code: int, reason: str = "", *, retry: float | None = None, more: Iterable[Message] = (), **metadata: str
) -> bytes:
    """A serialised ``google.rpc.Status`` as the hub sends it."""
    parts: list[Message] = [ErrorInfo(reason=reason, domain="tickets.hub.v1", metadata=metadata)]
    if retry is not None:
        parts.append(RetryInfo(retry_delay=seconds(retry)))
    packed = [AnyMessage() for _ in (*parts, *more)]
    for box, part in zip(packed, (*parts, *more), strict=True):
        box.Pack(part)
    return bytes(Status(code=code, details=packed).SerializeToString())


class TestClock:
    """A clock of ``grpc_testing`` that stands still; ``sleepers`` says who began to wait for how long."""

    __test__ = False

    def __init__(self) -> None:
        self.fake = grpc_testing.strict_fake_time(1_000.0)
        self.sleepers = queue.Queue[tuple[str, float]]()

    def time(self) -> float:
        """Where it stands."""
        return float(self.fake.time())

    def wait(self, wake: threading.Event, seconds: float) -> None:
        """Wait until the test moves the clock by as much."""
        timer = self.fake.call_in(wake.set, seconds) if seconds > 0 else None
        self.sleepers.put((threading.current_thread().name, seconds))
        if timer:
            wake.wait()
            timer.cancel()
        wake.clear()

    def sleeping(self, who: str) -> float:
        """Wait until a thread of this name waits, and tell for how long."""
        while True:
            name, delay = self.sleepers.get(timeout=10)
            if name == who:
                return delay

    def anyone_sleeping(self) -> float:
        """Wait until any thread waits, and tell for how long."""
        return self.sleepers.get(timeout=10)[1]

    def advance(self, by: float) -> None:
        """Move it."""
        self.fake.sleep_for(by)


class Stream:
    """One stream that the client under test has opened, seen from the hub."""

    def __init__(self, channel: grpc_testing.Channel) -> None:
        method = EVENTS.methods_by_name["Subscribe"]
        metadata, request, rpc = channel.take_unary_stream(method)
        self.metadata = dict(metadata)
        self.request: SubscribeRequest = request
        self._rpc = rpc

    def send(self, *frames: SubscribeResponse) -> "Stream":
        """Hand frames to the client."""
        for each in frames:
            self._rpc.send_response(each)
        return self

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK, text: str = "", status: bytes | None = None) -> None:
        """End it with a status. With an error, frames that the client has not read yet are gone."""
        self._rpc.terminate(((TRAILER, status),) if status else (), code, text)

    def await_cancel(self) -> None:
        """Return once the client has cancelled the call."""
        self._rpc.cancelled()
