"""Finding a position by its time: the binary search that both backends share."""

from collections.abc import Awaitable, Callable

from hub.model import Entry, Kind, Page

Read = Callable[[int, int, None], Awaitable[Page]]
"""`Log.read` of all kinds."""


async def position_at(time: int, *, last: int, trimmed_time: Callable[[], int], read: Read) -> int:
    """See `Log.position_at`. A binary search works because accept times never decrease.

    A damaged entry has no time: the search ignores it. If it may be recent enough, the result is a position before it,
    so that a reader learns of the damage.

    Args:
        time: in microseconds.
        last: the newest position of the log.
        trimmed_time: the accept time of the newest trimmed entry; called last, because a trim may run meanwhile.
        read: reads the log.
    """
    low, high = 1, last + 1
    found = high
    while low < high:
        middle = (low + high) // 2
        entry = await _first_sound(read, middle, high)
        if entry is None:
            high = middle
        elif entry.time >= time:
            found, high = entry.position, middle
        else:
            low = entry.position + 1
    if time <= trimmed_time():
        return low - 1
    damaged = await _first(read, low, found)
    return (damaged.position if damaged is not None else found) - 1


async def _first_sound(read: Read, start: int, end: int) -> Entry | None:
    """The first entry from one position up to another that is not damaged."""
    while (entry := await _first(read, start, end)) is not None and entry.kind is Kind.DAMAGED:
        start = entry.position + 1
    return entry


async def _first(read: Read, start: int, end: int) -> Entry | None:
    """The first entry from one position up to another."""
    after = start - 1
    while after < end - 1:
        page = await read(after, 1, None)
        if page.entries:
            return page.entries[0] if page.entries[0].position < end else None
        after = page.through
    return None
