"""Followers of a log within one process: they get committed entries from memory, and read the log when behind."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from hub.errors import StorageUnavailable
from hub.model import Entry, Page

MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Bytes that may wait for one follower; beyond them it is behind, and reads the log instead."""
_ENTRY_OVERHEAD = 256
_PAGE = 1_000

Read = Callable[[int, int], Awaitable[Page]]


class _Follower:
    """The batches that wait for one reader of a tail."""

    __slots__ = ("behind", "size", "waiting", "wake")

    def __init__(self) -> None:
        self.waiting: deque[tuple[Sequence[Entry], int]] = deque()
        self.size = 0
        self.behind = True
        self.wake = asyncio.Event()

    def offer(self, batch: Sequence[Entry], size: int) -> None:
        """Hand over a committed batch, or mark this reader as behind."""
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
        """The next waiting batch, if any."""
        if not self.waiting:
            return None
        batch, size = self.waiting.popleft()
        self.size -= size
        return batch


class Followers:
    """All followers of one log."""

    def __init__(self, last: int, read: Read) -> None:
        """Follow a log whose newest position is `last` and which `read(after, limit)` reads."""
        self._read = read
        self._last = last
        self._followers: set[_Follower] = set()
        self._closed = False

    def publish(self, batch: Sequence[Entry], last: int) -> None:
        """Hand over a committed batch, in the order of commits; `last`: the newest position now."""
        self._last = last
        if self._followers:
            size = sum(len(entry.body) for entry in batch) + _ENTRY_OVERHEAD * len(batch)
            for follower in self._followers:
                follower.offer(batch, size)

    def close(self) -> None:
        """End every follower after the batches that wait for it."""
        self._closed = True
        for follower in self._followers:
            follower.wake.set()

    def _has_closed(self) -> bool:
        """A method, so that mypy does not narrow it across awaits."""
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
        """The next page of the log; after the last page the follower is no longer behind.

        There is no await between the check that the page reaches the end and the next offer, so no batch is lost.
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
