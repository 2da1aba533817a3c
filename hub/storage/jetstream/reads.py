"""Reading a log that is a stream: pages, the audit trail, positions by time.

Any server of the stream may answer, also one that lags behind its leader. A page without an entry that this hub knows
is requested again, so that a late entry is never taken for a missing one.
"""

import asyncio
from collections.abc import Container

from hub.errors import StorageUnavailable
from hub.model import Entry, Kind, Page
from hub.state import COMPACTED_PREFIXES
from hub.storage.by_time import position_at
from hub.storage.jetstream.codec import Subjects, is_tombstone, previous_event, time_of
from hub.storage.jetstream.metadata import MetadataStream
from hub.storage.jetstream.state import ReplicaState
from hub.storage.jetstream.stream import MAX_BATCH, NatsStream, StoredMessage
from hub.subjects import Subject, concerns

SCANNED = 10_000
"""Positions that one page scans for its kinds."""
_AT_LEAST = 64
"""Messages requested at once: superseded entries may precede the one that a page needs."""
_EVENTS = frozenset({Kind.EVENT})
_CHUNK = 500
"""Entries of the audit trail read at once."""
_KEPT_FOR = 10.0
"""Seconds for which they stay in memory: another hub may remove some of them."""
_LATE_AGAIN = 0.02
_LATE_TRIES = 100


class StreamReads:
    """The reading part of the log on JetStream."""

    def __init__(self, stream: NatsStream, subjects: Subjects, state: ReplicaState, metadata: MetadataStream) -> None:
        self._stream = stream
        self._subjects = subjects
        self._state = state
        self._metadata = metadata
        self._kept: tuple[str, int, int, list[Entry]] = ("", 0, 0, [])
        self._kept_until = 0.0
        self._loop = asyncio.get_running_loop()

    async def read(self, after: int, limit: int, kinds: frozenset[Kind] | None) -> Page:
        """See `Log.read`."""
        bound, end = self._state.last, min(self._state.last, after + SCANNED)
        entries: list[Entry] = []
        at = after
        while at < end and len(entries) < limit:
            stored, reached = await self._messages(at, min(max(limit - len(entries), _AT_LEAST), MAX_BATCH), bound)
            found = [
                entry
                for entry in self._visible(stored, at, reached)
                if kinds is None or entry.kind in kinds or entry.kind is Kind.DAMAGED
            ]
            entries += found
            at = reached
        if len(entries) > limit or (len(entries) == limit and entries):
            entries = entries[:limit]
            at = entries[-1].position
        return Page(tuple(entries), max(at, after))

    async def find(self, after: int, limit: int, subject: Subject) -> Page:
        """See `Log.find`."""
        page = await self.read(after, min(limit, MAX_BATCH), _EVENTS)
        needle = str(subject.id).encode()  # each event holds the id of its guild, too
        likely = (entry for entry in page.entries if entry.kind is Kind.EVENT and needle in entry.body)
        return Page(tuple(entry for entry in likely if concerns(entry, subject)), page.through)

    async def _messages(self, after: int, count: int, bound: int) -> tuple[list[StoredMessage], int]:
        """Up to `count` messages after a position and up to `bound`, and the position up to which none is missing."""
        for _ in range(_LATE_TRIES):
            newest = self._state.newest
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
        """Whether the leader has no message between two positions; a former leader cannot tell."""
        if await self._stream.last() < bound:
            return False
        following = await self._stream.get(seq=position + 1, next_by_subj=">")
        return following is None or following.position > bound

    def _visible(self, messages: list[StoredMessage], after: int, through: int) -> list[Entry]:
        """The visible entries, with erased and missing ones, in order."""
        erased = self._metadata.erased_between(after, through)
        gone = self._missing(messages, after, erased)
        entries = [
            entry
            for stored in messages
            if stored.position not in erased and self._counts(entry := self._subjects.entry(stored))
        ]
        if erased or gone:
            entries += [Entry(Kind.ERASED, time, b"", position=position) for position, time in erased.items()]
            entries += [Entry(Kind.DAMAGED, 0, b"", position=position) for position in gone]
            entries.sort(key=lambda entry: entry.position)
        return entries

    def _missing(self, messages: list[StoredMessage], after: int, erased: Container[int]) -> list[int]:
        """Positions of events that later messages name and that are missing, though no trim or erasure removed them."""
        gone: list[int] = []
        reached = max(after, self._metadata.extent.first - 1)
        for stored in messages:
            previous = previous_event(stored)
            if previous > reached and previous not in erased:
                self._subjects.note_damage(previous)
                gone.append(previous)
            if self._subjects.is_event(stored.subject):
                reached = max(reached, stored.position)
        return gone

    def _counts(self, entry: Entry) -> bool:
        """Whether an entry was not trimmed, forgotten or superseded; its message may be removed later."""
        if entry.kind is not Kind.STATE:
            return entry.position >= self._metadata.extent.first
        if is_tombstone(entry) and entry.position < self._metadata.extent.forgotten:
            return False
        return not self._state.is_superseded(entry)

    async def history(self, before: int, limit: int, prefix: str) -> Page:
        """See `Log.history`."""
        keys = [key for key in self._state.heads if key.startswith(prefix) and not key.startswith(COMPACTED_PREFIXES)]
        before = min(before, self._state.last + 1)
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

        The last chunk is kept: a caller with a small limit goes back in small steps.
        """
        name, start, end, found = self._kept
        if name != subject or not start < before <= end or self._loop.time() > self._kept_until:
            start = await self._start_of_history(before, size, subject)
            known = max((head for key in keys if start <= (head := self._state.head(key)) < before), default=0)
            found = await self._between(start, before, subject, known)
            self._kept, self._kept_until = (subject, start, before, found), self._loop.time() + _KEPT_FOR
        return start, [entry for entry in found if entry.position < before]

    def forget_history(self) -> None:
        """Drop what is kept of the audit trail: some of it was removed."""
        self._kept = ("", 0, 0, [])

    async def _start_of_history(self, before: int, limit: int, subject: str) -> int:
        """A position with `limit` messages of a subject, or some more, between it and another position."""
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
        """See `Log.position_at`."""
        return await position_at(
            time,
            last=self._state.last,
            trimmed_time=lambda: self._metadata.extent.trimmed_time,
            read=self.read,
        )

    async def first_event_since(self, time: int, last: int) -> int:
        """The first position whose event was accepted at a time or later, from the leader; ``last + 1``: none."""
        low, high = 1, last + 1
        while low < high:
            middle = (low + high) // 2
            stored = await self._stream.get(seq=middle, next_by_subj=self._subjects.events)
            if stored is None or stored.position >= high or time_of(stored) >= time:
                high = middle
            else:
                low = stored.position + 1
        return low
