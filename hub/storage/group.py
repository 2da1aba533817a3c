"""The content of one transaction: positions, accept times, duplicates and expectations, decided without I/O.

This is the hot path of every event: keep it plain.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from hub.errors import Conflict, EventIdConflict
from hub.model import Appended, Entry, Expect, Kind
from hub.state import COMPACTED_PREFIXES
from hub.storage.checksum import checksum
from hub.storage.group_commit import Outcome, Request

EntryRow = tuple[int, int, str, str, int, int, int, bytes, int, int]
"""position, kind, key, id, event_type, guild_id, time, body, distance, checksum"""


class Seen(msgspec.Struct, frozen=True, gc=False):
    """A known event id: position, accept time, and digest of its first event."""

    position: int
    time: int
    digest: bytes


def digest(body: bytes) -> bytes:
    """A digest of a body, 16 bytes: it stays after an erasure, so that repeated events can be compared."""
    return hashlib.blake2b(body, digest_size=16).digest()


class Group:
    """The requests of one transaction, in order. A request that `add` refuses does not change the group.

    Attributes:
        entries: the new entries, with positions and accept times.
        position, time: of the newest entry once this group is stored.
        event: the position of the newest event once this group is stored.
    """

    def __init__(  # noqa: PLR0913  what a store knows of itself
        self, position: int, time: int, window: int, seen: dict[str, Seen], heads: Mapping[str, int], event: int
    ) -> None:
        """Begin where the store ends.

        Args:
            position: of the newest entry so far.
            time: when that was accepted.
            window: how long an id is known, in microseconds.
            seen: the ids in the requests that the store knows.
            heads: the newest position in the store of each key that the requests expect.
            event: the newest position at which there ever was an event.
        """
        self.entries: list[Entry] = []
        self.position = position
        self.time = time
        self.event = event
        self._event_before = event
        self._window = window
        self._seen = seen
        self._heads = dict(heads)
        self._new_ids: dict[str, Seen] = {}
        self._ephemeral: dict[str, int] = {}

    def add(self, entries: Sequence[Entry], expect: Expect | None, *, independent: bool = False) -> list[Appended]:
        """Add one request; if it is `independent`, without the entries whose id conflicts.

        Raises:
            Conflict: a key of `expect` has another position.
            EventIdConflict: an id names an event with another body.
        """
        for key, expected in (expect or {}).items():
            if (head := self._heads.get(key, 0)) != expected:
                raise Conflict(key, head)
        position, time = self.position, self.time
        results: list[Appended] = []
        staged: list[Entry] = []
        new_ids: dict[str, Seen] = {}
        for entry in entries:
            # The clock may step back, accept times do not: `position_at` and the dedupe window depend on their order.
            at = entry.time if entry.time > time else time  # noqa: FURB136  max() costs three times as much here
            if entry.id:
                content = digest(entry.body)
                first = new_ids.get(entry.id) or self._seen.get(entry.id)
                if first is not None and at - first.time <= self._window:
                    conflict = first.digest != content
                    if conflict and not independent:
                        raise EventIdConflict(entry.id, len(results))
                    results.append(Appended(first.position, first.time, not conflict, conflict))
                    continue
                new_ids[entry.id] = Seen(position + 1, at, content)
            position, time = position + 1, at
            staged.append(
                Entry(
                    entry.kind, at, entry.body, entry.key, entry.id, entry.event_type, entry.guild_id, position
                )  # by place: half the cost of names, once an event
            )
            results.append(Appended(position, at))
        self._take(staged, new_ids)
        self.position, self.time = position, time
        return results

    def add_each(self, requests: Iterable[Request]) -> list[Outcome]:
        """Add requests one by one: a request that conflicts fails alone."""
        return [self._outcome(request) for request in requests]

    def _outcome(self, request: Request) -> Outcome:
        try:
            return self.add(request.entries, request.expect, independent=request.independent)
        except (Conflict, EventIdConflict) as error:
            return error

    def _take(self, staged: list[Entry], new_ids: dict[str, Seen]) -> None:
        """Add checked entries to the group."""
        self.entries += staged
        self._seen.update(new_ids)
        self._new_ids.update(new_ids)
        for entry in staged:
            if entry.kind is not Kind.STATE:
                self.event = entry.position
            if entry.key:
                self._heads[entry.key] = entry.position
                if entry.key.startswith(COMPACTED_PREFIXES):
                    self._ephemeral[entry.key] = entry.position

    def entry_rows(self) -> list[EntryRow]:
        """The rows to insert. Afterwards the rows that `superseded` names are deleted, of this group or older."""
        return [
            (e.position, int(e.kind), e.key, e.id, e.event_type, e.guild_id, e.time, e.body, far, checksum(e, far))
            for e, far in self.with_distances()
        ]

    def with_distances(self) -> Iterator[tuple[Entry, int]]:
        """Each entry, and how far before it the newest event before it lies."""
        event = self._event_before
        for entry in self.entries:
            yield entry, entry.position - event
            if entry.kind is not Kind.STATE:
                event = entry.position

    def new_ids(self) -> Mapping[str, Seen]:
        """The ids to remember."""
        return self._new_ids

    def superseded(self) -> list[tuple[str, int]]:
        """Compacted keys, each with the position below which its entries are deleted."""
        return list(self._ephemeral.items())


def lookups(requests: Iterable[Request]) -> tuple[list[str], list[str]]:
    """The ids and the keys that a store must look up before it can make a group of these requests."""
    ids: list[str] = []
    keys: set[str] = set()
    for request in requests:
        ids += [entry.id for entry in request.entries if entry.id]
        keys.update(request.expect or ())
    return ids, list(keys)
