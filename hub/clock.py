"""The two clocks of the hub: what time it is, and how long something takes. Tests put their own in its place."""

import time
from datetime import UTC, datetime


def rfc3339(moment: int) -> str:
    """A time in microseconds since 1970 as people and JSON write it: "2030-01-31T12:00:00Z"."""
    return datetime.fromtimestamp(moment / 1_000_000, UTC).isoformat().replace("+00:00", "Z")


class Clock:
    """The machine's clocks.

    The wall clock can be stepped by an hour or a year; whatever measures a span (overlaps, deadlines, heartbeats) asks
    the monotonic one.
    """

    def now(self) -> int:
        """The wall clock: microseconds since 1970, UTC."""
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        """Seconds since some moment, never stepped."""
        return time.monotonic()
