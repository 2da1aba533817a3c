"""Linger: a stream may let its events wait for others, so that one frame has them all.

It has the wait of one stream, and the waiting streams of a fan-out group. Must not know the content of a frame.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from hub.clock import Clock
from hub.delivery.wakeup import Wakeup
from hub.model import Entry

HEARTBEAT_SHARE = 0.9
"""A heartbeat is due after this share of the promised interval, so that it arrives in time."""


def effective_linger(requested: float, heartbeat: float) -> float:
    """The seconds that a stream lingers: no longer than until a heartbeat is due."""
    return min(requested, HEARTBEAT_SHARE * heartbeat)


class Linger:
    """The wait of one stream. It begins with the first pending event; one timer covers all that follow.

    Attributes:
        seconds: how long an event waits at most; 0 = it never does.
    """

    __slots__ = ("_clock", "_deadline", "_first", "_timer", "_wakeup", "seconds")

    def __init__(self, clock: Clock, wakeup: Wakeup, seconds: float) -> None:
        self.seconds = seconds
        self._clock = clock
        self._wakeup = wakeup
        self._first = 0
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def goes_on(self, first: Entry) -> bool:
        """Whether the pending events may wait on; `first`: the oldest of them. Wakes the stream when they may not."""
        if first.position != self._first:
            self._begin(first)
        return self._clock.monotonic() < self._deadline

    def _begin(self, first: Entry) -> None:
        """Count from the event's accept time; a wall clock that was set back never makes the wait longer."""
        waited = max(0, self._clock.now() - first.time) / 1_000_000
        left = max(0.0, self.seconds - waited)
        self.cancel()
        self._first, self._deadline = first.position, self._clock.monotonic() + left
        if left:
            self._timer = asyncio.get_running_loop().call_later(left, self._end)

    def _end(self) -> None:
        self._deadline = 0.0
        self._wakeup.wake()

    def cancel(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Pending(NamedTuple):
    """The events that a stream may leave waiting: the oldest, and how many more events or bytes fill a frame."""

    first: Entry
    events_left: int
    bytes_left: int


class Lingerers:
    """The streams of a fan-out group that wait until a frame is full. An event costs an addition, not a wake-up each.

    Attributes:
        waiting: the callbacks of the streams, each with the counts of events and of bytes at which its frame is full.
    """

    __slots__ = ("_bytes", "_events", "_next_bytes", "_next_events", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[Callable[[], None], tuple[int, int]] = {}
        self._events = self._bytes = 0
        self._next_events = self._next_bytes = 0

    def add(self, wake: Callable[[], None], pending: Pending) -> None:
        """Add a stream, to be woken once its frame is full."""
        self.waiting[wake] = (self._events + pending.events_left, self._bytes + pending.bytes_left)
        self._find_next()

    def discard(self, wake: Callable[[], None]) -> None:
        """Remove a stream, if it waits."""
        self.waiting.pop(wake, None)

    def grow(self, size: int) -> None:
        """Count one more event and its bytes; wake the streams whose frame is full with it."""
        self._events += 1
        self._bytes += size
        if self._events < self._next_events and self._bytes < self._next_bytes:
            return
        full = [wake for wake, (events, size) in self.waiting.items() if self._events >= events or self._bytes >= size]
        for wake in full:
            del self.waiting[wake]
            wake()
        self._find_next()

    def _find_next(self) -> None:
        """Find when the next frame is full; too early is harmless, so streams that left need no search."""
        self._next_events = min((events for events, _ in self.waiting.values()), default=0)
        self._next_bytes = min((size for _, size in self.waiting.values()), default=0)
