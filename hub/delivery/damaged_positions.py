"""Positions at which the log is damaged, as far as it was read. No batch passes one without a Gap."""

import math
from bisect import bisect_right, insort
from collections.abc import Sequence

from hub.model import Entry, Kind

MAX_DAMAGED = 100_000
"""Positions to remember. Beyond that the oldest are dropped; a later read finds them again."""


class DamagedPositions:
    """Positions of entries that the store cannot return, each with the accept time of the next readable entry."""

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._times: dict[int, int] = {}

    def note(self, entries: Sequence[Entry], now: int) -> None:
        """Record the damaged ones among entries that were read in order; `now`: the time for those at the end."""
        if not any(entry.kind is Kind.DAMAGED for entry in entries):
            return
        time = now
        for entry in reversed(entries):
            if entry.kind is not Kind.DAMAGED:
                time = entry.time
            elif entry.position not in self._times:
                insort(self._positions, entry.position)
                self._times[entry.position] = time
        for position in self._positions[:-MAX_DAMAGED]:
            del self._times[position]
        del self._positions[:-MAX_DAMAGED]

    def __bool__(self) -> bool:
        return bool(self._positions)

    def after(self, position: int) -> float:
        """The first damaged position after another; infinite: none is known."""
        at = bisect_right(self._positions, position)
        return self._positions[at] if at < len(self._positions) else math.inf

    def end_of(self, position: int) -> tuple[int, int]:
        """The last of the consecutive damaged positions that begin with one, and the accept time of the next entry."""
        while position + 1 in self._times:
            position += 1
        return position, self._times[position]
