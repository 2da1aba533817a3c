"""The log up to a position, as this replica knows it: the newest state and the ids of the dedupe window. No I/O."""

import struct
from collections.abc import Iterable
from hashlib import blake2b

from hub.latch import PositionLatch
from hub.model import Entry, Kind
from hub.state import COMPACTED_PREFIXES
from hub.storage.group import Group, Seen, digest
from hub.storage.jetstream.codec import is_tombstone

_PACKED = struct.Struct(">QQ16s")


class Ids:
    """The event ids of the dedupe window: about 200 bytes each. Two generations; the older one goes as a whole."""

    def __init__(self, window: int) -> None:
        """`window`: in microseconds."""
        self._window = window
        self._newer: dict[bytes, bytes] = {}
        self._older: dict[bytes, bytes] = {}
        self._since = 0

    def add(self, id_hash: bytes, seen: Seen) -> None:
        """Remember an id, unless a newer event of it is known."""
        known = self.find(id_hash)
        if known is not None and known.position >= seen.position:
            return
        if seen.time - self._since > self._window:
            self._older, self._newer, self._since = self._newer, {}, seen.time
        self._newer[id_hash] = _PACKED.pack(seen.position, seen.time, seen.digest)

    def find(self, id_hash: bytes) -> Seen | None:
        """The newest event of an id, which may be past the window."""
        packed = self._newer.get(id_hash) or self._older.get(id_hash)
        return Seen(*_PACKED.unpack(packed)) if packed is not None else None


def hash_of(id_: str) -> bytes:
    """A hash of an id, 16 bytes."""
    return blake2b(id_.encode(), digest_size=16).digest()


class ReplicaState:
    """The log up to a position.

    Attributes:
        newest: the newest position at which an entry was seen; those between it and `last` are holes.
        last_time: when the newest entry was accepted.
        event: the newest position at which an event was seen.
        heads: the newest entry of each state key.
        window: the dedupe window, in microseconds.
    """

    def __init__(self, window: int) -> None:
        self.newest = 0
        self.last_time = 0
        self.event = 0
        self.heads: dict[str, Entry] = {}
        self.ids = Ids(window)
        self.window = window
        self._forgotten: dict[str, int] = {}
        self._latch = PositionLatch()

    @property
    def last(self) -> int:
        """The newest position; everything up to it is applied."""
        return self._latch.position

    def take_in(self, entries: Iterable[Entry]) -> list[Entry]:
        """Apply entries in order; returns the new ones."""
        new = [entry for entry in entries if entry.position > self.last]
        for entry in new:
            self.last_time = max(self.last_time, entry.time)
            if entry.kind is not Kind.STATE:
                self.event = max(self.event, entry.position)
            if entry.key:
                self.take_state(entry)
            elif entry.id:
                self.ids.add(hash_of(entry.id), Seen(entry.position, entry.time, digest(entry.body)))
        if new:
            self.newest = new[-1].position
            self.advance(self.newest)
        return new

    def take_state(self, entry: Entry) -> None:
        """Apply a state entry, unless a newer one of its key is known."""
        if entry.kind is Kind.DAMAGED:
            return
        known = self.heads.get(entry.key)
        if known is not None and known.position >= entry.position:
            return
        self.heads[entry.key] = entry
        if is_tombstone(entry):
            self._forgotten[entry.key] = entry.position
        else:
            self._forgotten.pop(entry.key, None)

    def advance(self, position: int) -> None:
        """Note that there are no further entries up to a position."""
        self._latch.advance(position)

    async def wait_applied(self, position: int) -> None:
        """Wait until everything up to a position is applied."""
        await self._latch.wait(position)

    def forget(self, before: int) -> None:
        """Drop the tombstones below a position: they were removed from the log."""
        for key in [key for key, position in self._forgotten.items() if position < before]:
            del self._forgotten[key]
            del self.heads[key]

    def head(self, key: str) -> int:
        """The position of the newest entry of a key; 0 = there is none."""
        entry = self.heads.get(key)
        return entry.position if entry is not None else 0

    def is_superseded(self, entry: Entry) -> bool:
        """Whether an entry of a compacted key has been superseded by a newer one."""
        return entry.key.startswith(COMPACTED_PREFIXES) and self.head(entry.key) > entry.position

    def group(self, ids: Iterable[str], keys: Iterable[str]) -> Group:
        """A group that begins after `last`; `ids` and `keys`: those that its requests depend on."""
        seen = {id_: found for id_ in ids if (found := self.ids.find(hash_of(id_))) is not None}
        return Group(self.last, self.last_time, self.window, seen, {key: self.head(key) for key in keys}, self.event)
