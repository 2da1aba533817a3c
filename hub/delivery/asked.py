"""What a stream is asked for: where it begins, what it is limited to, and how it is to be delivered.

Lives here: values alone. Must not know how any of it is done.
"""

from typing import NamedTuple

from hub.delivery.views import Narrowing

LOST = 0
"""The epoch of a place that the log had once and lost with its end: no log has it."""


class Start(NamedTuple):
    """Where a stream is to begin.

    Attributes:
        kind: "latest", "earliest", "committed", "cursor" or "since"; "" = committed if there is one, else latest.
        cursor: a sealed cursor's text.
        since: microseconds.
    """

    kind: str = ""
    cursor: str = ""
    since: int = 0


class Place(NamedTuple):
    """A place in the log of `epoch`, reached at `time` (microseconds); another epoch's is of before a restore."""

    position: int
    time: int
    epoch: int


class Subscription(NamedTuple):
    """What a stream asked for.

    Attributes:
        gaps: go on after a Gap where history is gone, instead of ending.
        batch: events in a frame at most.
        heartbeat: seconds.
    """

    subscription_id: str
    start: Start
    gaps: bool
    narrowing: Narrowing
    batch: int
    heartbeat: float
