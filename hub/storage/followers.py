"""Followers of a log within one process: each gets what the writer commits, and reads the log where it is behind.

Lives here: hand-over and its bound. Must not know where the log is stored.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from hub.errors import StorageUnavailable
from hub.model import Entry, Page

MAX_WAITING_BYTES = 8 * 1024 * 1024
"""What may wait for one follower; beyond it the follower is behind and reads the log instead."""
_ENTRY_OVERHEAD = 256
_PAGE = 1_000

Read = Callable[[int, int], Awaitable[Page]]


class _Follower:
    """What waits for one reader of a tail."""

    __slots__ = ("behind", "size", "waiting", "wake")

    def __init__(self) -> None:
        self.waiting: deque[tuple[Sequence[Entry], int]] = deque()
        self.size = 0
        self.behind = True
        self.wake = asyncio.Event()

    def offer(self, batch: Sequence[Entry], size: int) -> None:
        """Hand a committed batch over, or note that this reader is behind."""
        self.wake.set()
        if self.behind:
            return
        if self.size + size > MAX_WAITING_BYTES and self.waiting:
            self.behind = True
            self.waiting.clear()
            self.size = 0
            return
        self.waiting.append((batch, size))
        self.size += size

    def take(self) -> Sequence[Entry] | None:
        """The next batch that waits, if one does."""
        if not self.waiting:
            return None
        batch, size = self.waiting.popleft()
        self.size -= size
        return batch


class Tails:
    """All followers of one log."""

    def __init__(self, last: int, read: Read) -> None:
        """Follow a log whose newest position is `last` and which `read(after, limit)` reads."""
        self._read = read
        self._last = last
        self._followers: set[_Follower] = set()
        self._closed = False

    def publish(self, batch: Sequence[Entry], last: int) -> None:
        """Hand over what was just committed, in the order of commits; `last` is the newest position now."""
        self._last = last
        if self._followers:
            size = sum(len(entry.body) for entry in batch) + _ENTRY_OVERHEAD * len(batch)
            for follower in self._followers:
                follower.offer(batch, size)

    def close(self) -> None:
        """End every follower, once it took what was handed over to it."""
        self._closed = True
        for follower in self._followers:
            follower.wake.set()

    def _has_closed(self) -> bool:
        """Asked anew after each await: a method, so that nobody takes the answer for constant."""
        return self._closed

    async def follow(self, after: int) -> AsyncIterator[Sequence[Entry]]:
        """Every entry after a position, in batches, until `close`."""
        follower = _Follower()
        self._followers.add(follower)
        try:
            while True:
                batch = await self._catch_up(follower, after) if follower.behind else follower.take()
                if batch:
                    batch = batch if batch[0].position > after else [e for e in batch if e.position > after]
                if batch:
                    after = batch[-1].position
                    yield batch
                elif self._has_closed():
                    return
                elif not follower.waiting and not follower.behind:
                    follower.wake.clear()
                    await follower.wake.wait()
        finally:
            self._followers.discard(follower)

    async def _catch_up(self, follower: _Follower, after: int) -> Sequence[Entry]:
        """The next page of the log; with the last one the follower is no longer behind.

        Between knowing that the page reaches the end and being offered the next batch there is no await: nothing is
        lost between reading and following.
        """
        if self._has_closed():
            return ()
        if after >= self._last:
            follower.behind = False
            return ()
        try:
            page = await self._read(after, _PAGE)
        except StorageUnavailable:
            if self._has_closed():
                return ()
            raise
        follower.behind = page.through < self._last
        return page.entries
