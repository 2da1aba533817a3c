"""The newest events in memory, from which streams at the end of the log are served."""

from collections.abc import Sequence

from hub.delivery.chunks import CachedEvent, index_after
from hub.model import Entry


class Window:
    """The newest events of the log, up to `max_bytes`.

    Attributes:
        after: the window holds every event after this position.
    """

    def __init__(self, after: int, max_bytes: int) -> None:
        self.after = after
        self._max_bytes = max_bytes
        self._events: list[CachedEvent] = []
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes in memory, by estimate."""
        return self._size

    @property
    def newest(self) -> Entry | None:
        """The newest event; None where it holds none."""
        return self._events[-1].entry if self._events else None

    def extend(self, events: Sequence[CachedEvent]) -> None:
        """Add the newest events; `shrink` is due afterwards."""
        self._events += events
        self._size += sum(event.size for event in events)

    def between(self, after: int, through: int) -> list[CachedEvent]:
        """The events after one position and up to another."""
        return self._events[index_after(self._events, after) : index_after(self._events, through)]

    def shrink(self) -> bool:
        """Drop the oldest events if there are too many; returns whether it did.

        A sixteenth of the window goes at once, so that the list is not shifted for each event.
        """
        if self._size <= self._max_bytes:
            return False
        cut = 0
        while self._size > self._max_bytes * 15 // 16:
            self._size -= self._events[cut].size
            cut += 1
        self.after = self._events[cut - 1].position
        del self._events[:cut]
        return True

    def clear(self, through: int) -> None:
        """Drop all events: those up to a position are then read from the log."""
        self.after = through
        self._events.clear()
        self._size = 0
