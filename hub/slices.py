"""Work in slices: what grows with the integrations, streams or records of a hub is done some at a time.

The event loop serves everybody, and a step of more than 10 ms holds up every stream.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")

STORED_AT_ONCE = 100
"""Entries that housekeeping appends at a time: they are encoded, and later applied, in one step of the event loop."""

STEP = 0.002
"""Seconds after which work whose parts may cost anything lets other tasks run."""


def slices(parts: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """A sequence, `size` parts at a time."""
    return (parts[start : start + size] for start in range(0, len(parts), size))


async def in_turns(parts: Sequence[T], size: int) -> AsyncIterator[Sequence[T]]:
    """A sequence, `size` parts at a time; other tasks run in between."""
    for number, some in enumerate(slices(parts, size)):
        if number:
            await asyncio.sleep(0)
        yield some


async def one_by_one(parts: Iterable[T], size: int) -> AsyncIterator[T]:
    """Each part; other tasks run after every `size` of them."""
    for number, part in enumerate(parts, 1):
        yield part
        if number % size == 0:
            await asyncio.sleep(0)


class Steps:
    """Lets other tasks run whenever some work has taken `STEP`: for parts of which nobody knows what they cost."""

    def __init__(self) -> None:
        self._began = perf_counter()

    async def pause(self) -> None:
        """Call it after each part."""
        if perf_counter() - self._began >= STEP:
            await asyncio.sleep(0)
            self._began = perf_counter()
