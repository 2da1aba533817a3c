"""Moving entries to another log: they get new positions, also in the records that name positions.

Positions are assigned again, in the same order. A position only says what comes before and after it (a grant covers the
events after its own), so keeping the order is enough. Must not know files or logs.
"""

from array import array
from bisect import bisect_right
from typing import Any, TypeVar

from msgspec.structs import replace

from hub.endpoint_model import EndpointRecord, PlaceRecord
from hub.model import (
    AgreedScope,
    ClaimRecord,
    CursorRecord,
    Entry,
    GrantRecord,
    InstallationRecord,
    IntegrationRecord,
)
from hub.privacy_model import ErasureRecord, NoticeRecord, SentRecord
from hub.state import (
    CLAIM,
    CURSOR,
    ENDPOINT,
    ERASURE,
    INSTALLATION,
    INTEGRATION,
    NOTICE,
    PLACE,
    SENT,
    AuditedKind,
    CompactedKind,
    kind_name,
)

_PLACES: dict[str, CompactedKind[Any]] = {kind.name: kind for kind in (CURSOR, CLAIM, PLACE)}
"""Kinds whose records are a position in the log."""
_SENT: dict[str, CompactedKind[Any]] = {kind.name: kind for kind in (SENT, NOTICE)}
"""Kinds whose records hold intervals of positions."""
_RECORDS: dict[str, AuditedKind[Any]] = {kind.name: kind for kind in (INTEGRATION, INSTALLATION, ERASURE, ENDPOINT)}
"""Kinds whose records name positions."""

Placed = IntegrationRecord | InstallationRecord | ErasureRecord | EndpointRecord
Part = TypeVar("Part", GrantRecord, AgreedScope)


class PositionMap:
    """Maps the positions of one log to those of another. Takes 16 bytes for each hole in either log."""

    def __init__(self, base: int) -> None:
        """`base`: the position in the new log before everything that moves."""
        self._old = array("q", [0])
        self._new = array("q", [base])
        self._last = base

    def add(self, old: int, new: int) -> None:
        """Record the new position of an entry. Both positions are greater than all earlier ones."""
        if old - self._old[-1] != new - self._new[-1]:
            self._old.append(old)
            self._new.append(new)
        self._last = new

    def find(self, old: int) -> int:
        """The new position of an old one: after exactly the recorded entries that are at or before the old position."""
        at = bisect_right(self._old, old) - 1
        end = self._new[at + 1] - 1 if at + 1 < len(self._new) else self._last
        return min(self._new[at] + old - self._old[at], end)


class PositionRemapper:
    """Converts the entries of one log to those of another, in order."""

    def __init__(self, base: int, old_epoch: int, new_epoch: int) -> None:
        """`base`: the newest position of the new log before the first of them."""
        self._position = base
        self._positions = PositionMap(base)
        self._epochs = {old_epoch: new_epoch}

    def remapped(self, entry: Entry) -> Entry:
        """An entry for the new log, with the next position there."""
        self._position += 1
        self._positions.add(entry.position, self._position)
        return replace(entry, position=self._position, body=self._body(entry))

    def _body(self, entry: Entry) -> bytes:
        """The body of an entry with positions of the new log; unchanged if it names none."""
        name = kind_name(entry.key)
        if name in _PLACES:
            return self._place(_PLACES[name], entry.body)
        if name in _SENT and entry.body:
            return self._sent(_SENT[name], entry.body)
        if name not in _RECORDS:
            return entry.body
        before, change = _RECORDS[name].decode(entry.body)
        after = self._record(before)
        return entry.body if after == before else _RECORDS[name].encode(change, after)

    def _record(self, record: Placed) -> Placed:
        if isinstance(record, ErasureRecord):
            return replace(record, position=self._bound(record.position))
        if isinstance(record, EndpointRecord):
            return self._start(record)
        if isinstance(record, InstallationRecord):
            agreed = tuple(self._part(scope) for scope in record.agreed)
            return replace(record, agreed=agreed, counts_from=self._bound(record.counts_from))
        grants = tuple(self._part(grant) for grant in record.grants)
        return replace(record, grants=grants, all_guilds_from=self._bound(record.all_guilds_from))

    def _bound(self, position: int) -> int:
        """The position from which a change counts; -1 means the entry itself, 0 the beginning."""
        return self._positions.find(position) if position > 0 else position

    def _part(self, part: Part) -> Part:
        """A grant, or a scope that a guild agreed to; position 0 means the entry itself."""
        return replace(part, position=self._positions.find(part.position)) if part.position else part

    def _start(self, record: EndpointRecord) -> EndpointRecord:
        """The start of an endpoint that has no place yet; -1 means the entry itself."""
        epoch = self._epochs.get(record.start_epoch)
        if epoch is None:
            return record
        at = record.start_position
        return replace(record, start_epoch=epoch, start_position=self._positions.find(at) if at > 0 else at)

    def _sent(self, kind: CompactedKind[Any], body: bytes) -> bytes:
        """Intervals of what was sent, in positions of the new log."""
        record: SentRecord | NoticeRecord = kind.decode(body)
        if isinstance(record, NoticeRecord):
            return kind.encode(replace(record, position=self._bound(record.position)))
        find = self._positions.find
        views = tuple(replace(view, as_of=find(view.as_of)) for view in record.views)
        intervals = tuple(replace(one, after=find(one.after), through=find(one.through)) for one in record.intervals)
        after = self._bound(record.open_after)
        return kind.encode(replace(record, views=views, intervals=intervals, open_after=after))

    def _place(self, kind: CompactedKind[Any], body: bytes) -> bytes:
        """A committed or reached position in the new log; a position of an even older log has expired."""
        record: CursorRecord | ClaimRecord | PlaceRecord = kind.decode(body)
        epoch = self._epochs.get(record.epoch)
        if epoch is None:
            return body
        return kind.encode(replace(record, epoch=epoch, position=self._positions.find(record.position)))
