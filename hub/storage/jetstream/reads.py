"""Reading a log that is a stream: pages, the audit trail, places in time.

Pages come from any replica of the stream, also from one that is a moment behind its leader. What this replica of the
hub knows to be there must be in a page, or it is asked for again: nothing is taken for missing that is only late.
"""

import asyncio

from hub.errors import StorageUnavailable
from hub.model import Entry, Kind, Page
from hub.storage import EPHEMERAL_PREFIXES
from hub.storage._jetstream_api import MAX_BATCH, Stored, Stream
from hub.storage._jetstream_entries import Subjects, is_forgotten, time_of
from hub.storage._jetstream_marks import Marks
from hub.storage._jetstream_view import View

SCANNED = 10_000
"""Positions that one page looks through for the kinds it wants."""
_AT_LEAST = 64
"""Messages asked for at once: a page of one entry may lie behind others that do not count."""
_CHUNK = 500
"""Entries of the audit trail read at once."""
_LATE_AGAIN = 0.02
_LATE_TRIES = 100


class Reads:
    """The half of the log that reads."""

    def __init__(self, stream: Stream, subjects: Subjects, view: View, marks: Marks) -> None:
        self._stream = stream
        self._subjects = subjects
        self._view = view
        self._marks = marks
        self._kept: tuple[str, int, int, list[Entry]] = ("", 0, 0, [])

    async def read(self, after: int, limit: int, kinds: frozenset[Kind] | None) -> Page:
        """See `Log.read`."""
        bound, end = self._view.last, min(self._view.last, after + SCANNED)
        entries: list[Entry] = []
        at = after
        while at < end and len(entries) < limit:
            stored, reached = await self._messages(at, min(max(limit - len(entries), _AT_LEAST), MAX_BATCH), bound)
            found = [entry for entry in self._shown(stored, at, reached) if kinds is None or entry.kind in kinds]
            entries += found
            at = reached
        if len(entries) > limit or (len(entries) == limit and entries):
            entries = entries[:limit]
            at = entries[-1].position
        return Page(tuple(entries), max(at, after))

    async def _messages(self, after: int, count: int, bound: int) -> tuple[list[Stored], int]:
        """Up to `count` messages after a position and up to `bound`, and how far nothing of them is missing."""
        for _ in range(_LATE_TRIES):
            newest = self._view.newest
            listing = await self._stream.page(after + 1, count)
            messages = listing.messages
            if messages and (not listing.ended or messages[-1].position >= newest):
                reached = bound if listing.ended else min(messages[-1].position, bound)
                return [stored for stored in messages if stored.position <= bound], reached
            if listing.ended and await self._nothing_after(messages[-1].position if messages else after, bound):
                return [stored for stored in messages if stored.position <= bound], bound
            if messages:  # as far as it goes it is whole
                return [s for s in messages if s.position <= bound], min(messages[-1].position, bound)
            await asyncio.sleep(_LATE_AGAIN)
        raise StorageUnavailable

    async def _nothing_after(self, position: int, bound: int) -> bool:
        """Whether the leader has no message after a position and up to another; one that led once may not know."""
        if await self._stream.last() < bound:
            return False
        following = await self._stream.get(seq=position + 1, next_by_subj=">")
        return following is None or following.position > bound

    def _shown(self, messages: list[Stored], after: int, through: int) -> list[Entry]:
        """The entries that count, with what is left of erased ones, in order."""
        erased = self._marks.erased_between(after, through)
        entries = [
            entry
            for stored in messages
            if stored.position not in erased and self._counts(entry := self._subjects.entry(stored))
        ]
        if erased:
            entries += [Entry(Kind.ERASED, time, b"", position=position) for position, time in erased.items()]
            entries.sort(key=lambda entry: entry.position)
        return entries

    def _counts(self, entry: Entry) -> bool:
        """Whether an entry was not trimmed, forgotten or superseded; its message may go some time later."""
        if entry.kind is Kind.EVENT:
            return entry.position >= self._marks.extent.first
        if is_forgotten(entry) and entry.position < self._marks.extent.forgotten:
            return False
        return not self._view.is_superseded(entry)

    async def history(self, before: int, limit: int, prefix: str) -> Page:
        """See `Log.history`."""
        keys = [key for key in self._view.heads if key.startswith(prefix) and not key.startswith(EPHEMERAL_PREFIXES)]
        before = min(before, self._view.last + 1)
        if not keys or limit <= 0:
            return Page((), 0)
        subject = self._subjects.of_key(keys[0]) if len(keys) == 1 else self._subjects.of_prefix(prefix)
        entries: list[Entry] = []
        while before > 1 and len(entries) < limit:
            start, found = await self._chunk(before, max(limit, _CHUNK), subject, keys)
            entries += [entry for entry in reversed(found) if entry.key.startswith(prefix) and self._counts(entry)]
            before = start
        entries = entries[:limit]
        return Page(tuple(entries), entries[-1].position if len(entries) == limit else 0)

    async def _chunk(self, before: int, size: int, subject: str, keys: list[str]) -> tuple[int, list[Entry]]:
        """The entries of a subject before a position, `size` of them or some more, and the position that they begin at.

        The last chunk is kept: who looks for few goes back in small steps.
        """
        name, start, end, found = self._kept
        if name != subject or not start < before <= end:
            start = await self._start_of_history(before, size, subject)
            known = max((head for key in keys if start <= (head := self._view.head(key)) < before), default=0)
            found = await self._between(start, before, subject, known)
            self._kept = (subject, start, before, found)
        return start, [entry for entry in found if entry.position < before]

    async def _start_of_history(self, before: int, limit: int, subject: str) -> int:
        """A position from which on there are `limit` messages of a subject before another, and not many more."""
        later = await self._stream.count(before, subject)
        low, span = 1, 2 * limit
        while True:
            start = max(low, before - span)
            found = await self._stream.count(start, subject) - later
            if found > 4 * limit and before - start > limit:
                low, span = start + 1, (before - start) // 2
            elif found >= limit or start <= low:
                return start
            else:
                span *= 4

    async def _between(self, start: int, before: int, subject: str, known: int) -> list[Entry]:
        """The entries of a subject from one position up to another; `known`: one of them that must be there, or 0."""
        found: list[Entry] = []
        for _ in range(_LATE_TRIES):
            listing = await self._stream.page(start, MAX_BATCH, subject)
            found += [self._subjects.entry(stored) for stored in listing.messages if stored.position < before]
            if listing.messages:
                start = listing.messages[-1].position + 1
            if start >= before or (listing.ended and known <= (found[-1].position if found else 0)):
                return found
            if listing.ended:
                await asyncio.sleep(_LATE_AGAIN)
        raise StorageUnavailable

    async def position_at(self, time: int) -> int:
        """See `Log.position_at`. A binary search: accept times never decrease."""
        low, high = 1, self._view.last + 1
        found = high
        while low < high:
            middle = (low + high) // 2
            entry = await self._first_between(middle, high)
            if entry is None:
                high = middle
            elif entry.time >= time:
                found, high = entry.position, middle
            else:
                low = entry.position + 1
        return found - 1 if time > self._marks.extent.trimmed_time else low - 1

    async def _first_between(self, start: int, end: int) -> Entry | None:
        """The first entry from one position up to another."""
        at = start - 1
        while at < end - 1:
            page = await self.read(at, 1, None)
            if page.entries:
                return page.entries[0] if page.entries[0].position < end else None
            at = page.through
        return None

    async def first_event_since(self, time: int, last: int) -> int:
        """The first position whose event was accepted at a time or later, as the leader has it; ``last + 1``: none."""
        low, high = 1, last + 1
        while low < high:
            middle = (low + high) // 2
            stored = await self._stream.get(seq=middle, next_by_subj=self._subjects.events)
            if stored is None or stored.position >= high or time_of(stored) >= time:
                high = middle
            else:
                low = stored.position + 1
        return low
