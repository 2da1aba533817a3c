"""The two clocks of the hub: what time it is, and how long something takes. Tests put their own in its place."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(moment: int) -> str:
    """A time in microseconds since 1970 as people and JSON write it: "2030-01-31T12:00:00Z"."""
    return (_EPOCH + timedelta(microseconds=moment)).isoformat().replace("+00:00", "Z")


class Clock:
    """The machine's clocks.

    The wall clock can be stepped by an hour or a year; code that measures a span (overlaps, deadlines, heartbeats) asks
    the monotonic one.
    """

    def now(self) -> int:
        """The wall clock: microseconds since 1970, UTC."""
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        """Seconds since some moment, never stepped."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds of the monotonic clock."""
        await asyncio.sleep(seconds)


class Expiries:
    """Ends that are stored as times of the wall clock, such as those of keys.

    Each is measured by the monotonic clock from the moment at which it was learned: a step of the wall clock neither
    lengthens nor shortens it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends: dict[str, tuple[int, float]] = {}

    def seconds_left(self, name: str, end: int) -> float:
        """Seconds until the end of this name, which is in microseconds; negative once it is over."""
        known = self._ends.get(name)
        if known is None or known[0] != end:
            left = (end - self._clock.now()) / 1_000_000
            known = self._ends[name] = (end, self._clock.monotonic() + left)
        return known[1] - self._clock.monotonic()

    def forget(self, name: str) -> None:
        """Forget the end of this name."""
        self._ends.pop(name, None)
