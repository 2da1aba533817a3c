"""Entries that move to another log: their places there, and what names places, brought into line.

Positions are given anew, in the same order. All that a position is for is what comes before and after it (a grant
covers the events after its own), so nothing changes for anybody as long as the order is kept. Must not know files or
logs.
"""

from array import array
from bisect import bisect_right
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from hub.model import AgreedScope, Change, CursorRecord, Entry, GrantRecord, InstallationRecord, IntegrationRecord

_change = msgspec.json.Decoder(Change)
_cursor = msgspec.json.Decoder(CursorRecord)
_records: dict[str, msgspec.json.Decoder[Any]] = {
    "integration": msgspec.json.Decoder(IntegrationRecord),
    "installation": msgspec.json.Decoder(InstallationRecord),
}
"""All but cursors whose records name places."""

Part = TypeVar("Part", GrantRecord, AgreedScope)


class Places:
    """Where the places of one log are in another. 16 bytes for each hole in either; between holes both count alike."""

    def __init__(self, base: int) -> None:
        """`base`: the place in the new log before everything that moves."""
        self._old = array("q", [0])
        self._new = array("q", [base])
        self._last = base

    def add(self, old: int, new: int) -> None:
        """Note where an entry went. Both positions are greater than all before."""
        if old - self._old[-1] != new - self._new[-1]:
            self._old.append(old)
            self._new.append(new)
        self._last = new

    def find(self, old: int) -> int:
        """The place after exactly those entries that are at or before a place of the old log, of those noted so far."""
        at = bisect_right(self._old, old) - 1
        end = self._new[at + 1] - 1 if at + 1 < len(self._new) else self._last
        return min(self._new[at] + old - self._old[at], end)


class Mover:
    """Makes of the entries of one log those of another, one after the other."""

    def __init__(self, base: int, old_epoch: int, new_epoch: int) -> None:
        """`base`: the newest position of the new log before the first of them."""
        self._position = base
        self._places = Places(base)
        self._epochs = {old_epoch: new_epoch}

    def moved(self, entry: Entry) -> Entry:
        """An entry as the new log is to hold it, with the position that it gets there; the next after the last one."""
        self._position += 1
        self._places.add(entry.position, self._position)
        return replace(entry, position=self._position, body=self._body(entry))

    def _body(self, entry: Entry) -> bytes:
        """What an entry says, with the places of the new log; as it is where it names none."""
        kind = entry.key.partition("/")[0]
        if kind == "cursor":
            return self._cursor(entry.body)
        if kind not in _records:
            return entry.body
        change = _change.decode(entry.body)
        before = _records[kind].decode(change.record)
        after = self._record(before)
        if after == before:
            return entry.body
        return msgspec.json.encode(replace(change, record=msgspec.Raw(msgspec.json.encode(after))))

    def _record(self, record: IntegrationRecord | InstallationRecord) -> IntegrationRecord | InstallationRecord:
        if isinstance(record, InstallationRecord):
            return replace(record, agreed=tuple(self._part(scope) for scope in record.agreed))
        grants, from_ = tuple(self._part(grant) for grant in record.grants), record.all_guilds_from
        return replace(record, grants=grants, all_guilds_from=self._places.find(from_) if from_ > 0 else from_)

    def _part(self, part: Part) -> Part:
        """A grant, or a scope agreed to; 0 stands for the entry itself, wherever that is."""
        return replace(part, position=self._places.find(part.position)) if part.position else part

    def _cursor(self, body: bytes) -> bytes:
        """A committed place goes on where it was; one of a log before the old one is expired already."""
        record = _cursor.decode(body)
        epoch = self._epochs.get(record.epoch)
        if epoch is None:
            return body
        return msgspec.json.encode(replace(record, epoch=epoch, position=self._places.find(record.position)))
