"""Pacing for work in a thread: it pauses often, so that live streams are not delayed."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

PIECE = 0.0002
"""Seconds of work at a time. Without rests a thread keeps the event loop from running for 5 ms at a time."""

REST = 0.005
"""Seconds between two pieces."""

T = TypeVar("T")


def paced(items: Iterable[T]) -> Iterator[T]:
    """The same items, with pauses in between. For a thread: it sleeps."""
    until = time.monotonic() + PIECE
    for item in items:
        yield item
        if time.monotonic() > until:
            time.sleep(REST)
            until = time.monotonic() + PIECE
