"""Resuming and retrying a stream, as state machines without I/O that the threaded and the asyncio client both drive.

They take frames, endings and the time, and return events, delays and errors. Every ``now`` is in seconds of any clock
that never goes back; the source of randomness can be given.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from google.protobuf.duration_pb2 import Duration

from tickets_hub.failure import HubCallError
from tickets_hub.key import is_key_ending
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import (
    Erased,
    Gap,
    Goodbye,
    GrantsChanged,
    Heartbeat,
    Ready,
    SubscribeRequest,
    SubscribeResponse,
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Timeouts, delays and limits of a client. All times are seconds.

    Attributes:
        first_delay: about how long to wait after the first failure; doubled with each further one.
        max_delay: the largest delay, unless the hub itself asks for more.
        open_timeout: how long the first frame of a stream may take.
        slack: a stream is dead after two heartbeat intervals and this without a frame.
        goodbye_timeout: how long the end of a stream may take after it was announced.
        call_timeout: how long one call may take with all its repetitions; then its last failure is raised.
        try_timeout: how long one try of it may take.
        commit_interval: auto_commit commits at most this often.
        max_calls: how many calls of one ``AsyncClient`` are under way at a time; further ones wait.
    """

    first_delay: float = 0.25
    max_delay: float = 30.0
    open_timeout: float = 20.0
    slack: float = 1.0
    goodbye_timeout: float = 5.0
    call_timeout: float = 30.0
    try_timeout: float = 10.0
    commit_interval: float = 1.0
    max_calls: int = 256


DEFAULT_POLICY = Policy()


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The stream broke and is opened again after ``delay`` seconds; ``error`` says what it ended with."""

    error: HubCallError
    delay: float


Notice = Ready | Heartbeat | GrantsChanged | Gap | Goodbye | Reconnecting
"""What ``on_notice`` receives: each reconnect, and the contract's notices. ``Erased`` has a handler of its own."""


class Backoff:
    """Delays that grow with each failure in a row: doubled, capped, and between half and the whole by chance."""

    def __init__(self, policy: Policy, chance: Callable[[], float] = random.random) -> None:
        self._policy = policy
        self._chance = chance
        self._failures = 0

    def succeeded(self) -> None:
        """Reset the delay."""
        self._failures = 0

    def failed(self, asked: float | None = None) -> float:
        """Seconds to wait after one more failure: at least what the hub asked for.

        After the first failure in a row exactly what the hub asked for, which differs between its callers.
        """
        # The exponent is capped, too: 2.0**1024 overflows after a night without a hub.
        grown = self._policy.first_delay * 2.0 ** min(self._failures, 32)
        delay = min(self._policy.max_delay, grown) * (0.5 + self._chance() / 2)
        first = self._failures == 0
        self._failures += 1
        if asked is None:
            return delay
        return asked if first else max(asked, delay)


class Attempts:
    """The tries of one call that may be repeated without harm, until it succeeds or its time is over."""

    def __init__(self, policy: Policy, now: float, chance: Callable[[], float] = random.random) -> None:
        self._policy = policy
        self._end = now + policy.call_timeout
        self._backoff = Backoff(policy, chance)

    def timeout(self, now: float) -> float:
        """Seconds that the next try may take."""
        return max(0.001, min(self._policy.try_timeout, self._end - now))

    def failed(self, failure: HubCallError, now: float, *, newer_key: bool = False) -> float:
        """Seconds to wait before the next try; raises the failure when another would not help or come too late.

        Args:
            failure: how the last try failed.
            now: seconds.
            newer_key: the client has another key than the one that the last try showed.
        """
        mended = newer_key and is_key_ending(failure)
        if not (mended or failure.mends_by_repeating()):
            raise failure
        delay = self._backoff.failed(0.0 if mended else failure.retry_after)
        if now + delay >= self._end:
            raise failure
        return delay


class StreamSession:
    """One subscription across as many streams as it takes.

    The driver's loop: ``take`` until it gives None; then ``request`` for a new stream where there is none; ``waiting``,
    read a frame, ``received``. When a stream breaks, call ``ended``. A frame in hand outlives its stream: all its
    events are handed over before anything new is opened, so that breaking in the middle of a frame repeats nothing.
    """

    def __init__(self, request: SubscribeRequest, policy: Policy, chance: Callable[[], float] = random.random) -> None:
        self._request = request
        self._policy = policy
        self._backoff = Backoff(policy, chance)
        self._events: deque[Event] = deque()
        self._frame_cursor = ""
        self._cursor = ""
        self._patience = policy.open_timeout
        self._deadline = inf
        self._ready = False
        self._goodbye: Goodbye | None = None

    @property
    def cursor(self) -> str:
        """After the last frame of which every event was handed over; empty before the first."""
        return self._cursor

    @property
    def patience(self) -> float:
        """Seconds without a frame after which the stream counts as dead."""
        return self._patience

    def request(self) -> SubscribeRequest:
        """What to open the next stream with: the caller's request, from the cursor on once there is one."""
        self._ready, self._goodbye = False, None
        self._patience = self._policy.open_timeout
        request = SubscribeRequest()
        request.CopyFrom(self._request)
        if self._cursor:
            request.cursor = self._cursor
        return request

    def waiting(self, now: float) -> None:
        """The driver begins to wait for a frame. Only waiting counts as silence of the hub, not a slow caller."""
        self._deadline = now + self._patience

    def remaining(self, now: float) -> float:
        """Seconds until the stream counts as dead; infinite while no frame is awaited."""
        return self._deadline - now

    def silence(self) -> HubCallError:
        """The failure of a stream that the driver ended because ``remaining`` had run out."""
        return HubCallError("DEADLINE_EXCEEDED", "", f"no frame for {self._patience:g} s")

    def received(self, frame: SubscribeResponse) -> Notice | Erased | None:
        """A frame came: keeps its events for ``take`` and returns its notice, for the caller to hear first."""
        self._deadline = inf
        self._events.extend(frame.events)
        self._frame_cursor = frame.cursor
        if not self._events:
            self._finish_frame()
        notice: Notice | Erased | None = None
        match frame.WhichOneof("notice"):
            case "ready":
                notice = frame.ready
                if interval := _seconds(frame.ready.heartbeat_interval):
                    self._patience = 2 * interval + self._policy.slack
            case "goodbye":
                notice = self._goodbye = frame.goodbye
                self._patience = self._policy.goodbye_timeout
            case str(kind):
                notice = getattr(frame, kind)
        self._judge(frame)
        return notice

    def take(self) -> Event | None:
        """The next event to hand over; None: there is none until another frame comes."""
        if not self._events:
            return None
        event = self._events.popleft()
        if not self._events:
            self._finish_frame()
        return event

    def ended(self, failure: HubCallError, *, newer_key: bool = False) -> Reconnecting:
        """The stream ended; code "OK" where the hub closed it without an error.

        Args:
            failure: what it ended with.
            newer_key: the client has another key than the one that opened the stream.

        Returns:
            How long to wait before opening the next one.

        Raises:
            HubCallError: opening another would not help.
        """
        self._deadline = inf
        goodbye = self._goodbye
        if newer_key and is_key_ending(failure):
            return Reconnecting(failure, self._backoff.failed(0.0))
        if not failure.mends_by_reopening():
            raise failure
        if goodbye and not goodbye.reconnect:
            raise HubCallError("CANCELLED", failure.reason, goodbye.reason or failure.message)
        asked = _seconds(goodbye.retry_delay) if goodbye else failure.retry_after
        return Reconnecting(failure, self._backoff.failed(asked))

    def _finish_frame(self) -> None:
        self._cursor = self._frame_cursor or self._cursor

    def _judge(self, frame: SubscribeResponse) -> None:
        """Reset the backoff at the first frame after Ready, unless it is a Goodbye."""
        if self._ready and self._goodbye is None:
            self._backoff.succeeded()
        self._ready = self._ready or frame.HasField("ready")


def _seconds(duration: Duration) -> float:
    return duration.ToTimedelta().total_seconds()
