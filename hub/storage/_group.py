"""What one transaction of the embedded store will do: requests, checked against the store and each other.

Lives here: positions, accept times, ids, expectations; no I/O. This is the hot path of every event: keep it plain.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from hub.errors import Conflict, EventIdConflict
from hub.model import Appended, Entry, Expect
from hub.storage import EPHEMERAL_PREFIXES

EntryRow = tuple[int, int, str, str, int, int, int, bytes]
"""position, kind, key, id, event_type, guild_id, time, body"""
SeenRow = tuple[str, int, int, bytes]
"""id, position, time, digest of the body"""


class Seen(msgspec.Struct, frozen=True, gc=False):
    """An event id that is known: where, since when, and by which content."""

    position: int
    time: int
    digest: bytes


def digest(body: bytes) -> bytes:
    """What tells one body from another, 16 bytes: enough to compare with, also once the event was erased."""
    return hashlib.blake2b(body, digest_size=16).digest()


class Group:
    """The requests of one transaction, in order. What `add` refuses leaves the group as it was.

    Attributes:
        entries: what will be new in the log, with positions and accept times.
        position, time: of the newest entry once this group is stored.
    """

    def __init__(self, position: int, time: int, window: int, seen: dict[str, Seen], heads: Mapping[str, int]) -> None:
        """Start from the store.

        Args:
            position: of the newest entry so far.
            time: when that was accepted.
            window: how long an id is known, in microseconds.
            seen: of the ids in the requests, those the store knows.
            heads: of the keys that the requests expect, the newest position in the store.
        """
        self.entries: list[Entry] = []
        self.position = position
        self.time = time
        self._window = window
        self._seen = seen
        self._heads = dict(heads)
        self._new_ids: dict[str, Seen] = {}
        self._ephemeral: dict[str, int] = {}

    def add(self, entries: Sequence[Entry], expect: Expect | None) -> list[Appended]:
        """Take one request in.

        Raises:
            Conflict: a key of `expect` has another position.
            EventIdConflict: an id names an event with another body.
        """
        for key, expected in (expect or {}).items():
            if self._heads.get(key, 0) != expected:
                raise Conflict(key)
        position, time = self.position, self.time
        results: list[Appended] = []
        staged: list[Entry] = []
        new_ids: dict[str, Seen] = {}
        for entry in entries:
            # The clock may step back, accept times do not: `position_at` and the dedupe window stand on their order.
            at = entry.time if entry.time > time else time  # noqa: FURB136  max() costs three times as much here
            if entry.id:
                content = digest(entry.body)
                first = new_ids.get(entry.id) or self._seen.get(entry.id)
                if first is not None and at - first.time <= self._window:
                    if first.digest != content:
                        raise EventIdConflict(entry.id, len(results))
                    results.append(Appended(first.position, first.time, duplicate=True))
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

    def _take(self, staged: list[Entry], new_ids: dict[str, Seen]) -> None:
        """What was checked becomes part of the group."""
        self.entries += staged
        self._seen.update(new_ids)
        self._new_ids.update(new_ids)
        for entry in staged:
            if entry.key:
                self._heads[entry.key] = entry.position
                if entry.key.startswith(EPHEMERAL_PREFIXES):
                    self._ephemeral[entry.key] = entry.position

    def entry_rows(self) -> list[EntryRow]:
        """The rows to insert; then those that `superseded` tells go, of this group or before."""
        return [(e.position, int(e.kind), e.key, e.id, e.event_type, e.guild_id, e.time, e.body) for e in self.entries]

    def seen_rows(self) -> list[SeenRow]:
        """The ids to remember."""
        return [(id_, seen.position, seen.time, seen.digest) for id_, seen in self._new_ids.items()]

    def superseded(self) -> list[tuple[str, int]]:
        """Ephemeral keys, each with the position below which nothing of it is kept."""
        return list(self._ephemeral.items())


def wanted(requests: Iterable[tuple[Sequence[Entry], Expect | None]]) -> tuple[list[str], list[str]]:
    """The ids and the keys that must be looked up before a group of these requests can be made."""
    ids: list[str] = []
    keys: set[str] = set()
    for entries, expect in requests:
        ids += [entry.id for entry in entries if entry.id]
        keys.update(expect or ())
    return ids, list(keys)
