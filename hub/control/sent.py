"""What each subscription was sent, as of the last entry applied: intervals of positions, each with its view."""

from collections.abc import Iterable
from heapq import nsmallest
from itertools import pairwise

from msgspec.structs import replace

from hub.control.versioned import Versioned
from hub.model import Entry
from hub.privacy_model import SentInterval, SentRecord, SentView
from hub.state import SENT

MAX_INTERVALS = 1_000
"""Intervals of one subscription; beyond that the closest ones of a view are joined, so that no event is left out.

Only a subscription with more views than this within the retention time loses its oldest intervals.
"""


class Sent:
    """The intervals of all subscriptions, by "<integration>/<subscription>"."""

    def __init__(self) -> None:
        self.records: dict[str, Versioned[SentRecord]] = {}

    def apply(self, entry: Entry) -> tuple[str, ...]:
        """Apply an entry, or a tombstone."""
        name = SENT.rest(entry.key)
        if entry.body:
            self.records[name] = Versioned(SENT.decode(entry.body), entry.position)
        else:
            self.records.pop(name, None)
        return ()

    def position(self, name: str) -> int:
        """The position of the newest entry about a subscription; 0: there is none."""
        stored = self.records.get(name)
        return stored.position if stored is not None else 0


SentSpan = tuple[int, int, SentView]
"""The positions after one and through another, and the view under which their events were sent."""


def extended(before: SentRecord | None, spans: Iterable[SentSpan], first: int) -> SentRecord:
    """A record with more intervals, without those before the log's first position.

    Intervals of one view that touch each other become one.
    """
    earlier = intervals_of(before) if before is not None else []
    by_view: dict[SentView, list[tuple[int, int]]] = {}
    for after, through, view in [*earlier, *spans]:
        if through >= first:
            by_view.setdefault(view, []).append((after, through))
    intervals = _limited({view: _joined(runs) for view, runs in by_view.items()})
    views = tuple(dict.fromkeys(view for _, _, view in intervals))
    index = {view: number for number, view in enumerate(views)}
    return SentRecord(views, tuple(SentInterval(after, through, index[view]) for after, through, view in intervals))


def opened(record: SentRecord, after: int, view: SentView, at: str) -> SentRecord:
    """A record of an open stream: what the stream is sent after a position is not in it yet."""
    views = record.views if view in record.views else (*record.views, view)
    return replace(record, views=views, open_after=after, open_view=views.index(view), open_at=at)


def intervals_of(record: SentRecord) -> list[SentSpan]:
    """The intervals of a record."""
    return [(one.after, one.through, record.views[one.view]) for one in record.intervals]


def _bounds(span: SentSpan) -> tuple[int, int]:
    return span[0], span[1]


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Intervals of positions, in order, merged where they overlap or touch."""
    joined: list[tuple[int, int]] = []
    for after, through in sorted(spans):
        if joined and after <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], through))
        else:
            joined.append((after, through))
    return joined


def _limited(by_view: dict[SentView, list[tuple[int, int]]]) -> list[SentSpan]:
    """The intervals in order, `MAX_INTERVALS` at most: the closest of one view are joined, then the oldest dropped."""
    runs = list(by_view.items())
    excess = sum(map(len, by_view.values())) - MAX_INTERVALS
    gaps = (
        (later[0] - earlier[1], number, at)
        for number, (_, intervals) in enumerate(runs)
        for at, (earlier, later) in enumerate(pairwise(intervals), 1)
    )
    closed = {(number, at) for _, number, at in nsmallest(excess, gaps)} if excess > 0 else set()
    spans: list[SentSpan] = []
    for number, (view, intervals) in enumerate(runs):
        for at, (after, through) in enumerate(intervals):
            if (number, at) in closed:
                spans[-1] = (spans[-1][0], through, view)
            else:
                spans.append((after, through, view))
    return sorted(spans, key=_bounds)[-MAX_INTERVALS:]
