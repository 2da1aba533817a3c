"""Rows of the tables, checked as they are read: an entry that does not match its checksum becomes DAMAGED.

In the tables of known ids, the digest of a body (16 bytes) is followed by a CRC32C of the whole row (4 bytes). Older
hubs wrote no CRC32C there: such rows are compared with their events.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import google_crc32c

from hub.model import Entry, Kind
from hub.storage.checksum import checksum_of
from hub.storage.group import Seen

COLUMNS = "kind, time, body, key, id, event_type, guild_id, position, distance, checksum"
"""Read by a connection that returns texts as bytes: a damaged text may not be UTF-8."""

Row = tuple[int, int, bytes, bytes, bytes, int, int, int, int, int]

_KINDS = {int(kind): kind for kind in Kind}
_EVENTS = (Kind.EVENT, Kind.ERASED)
UNKNOWN_KEY = "?"
"""The key of a damaged entry that may be one of state."""


def decoded(row: Row) -> Entry:
    """A row as an entry. DAMAGED has a position and, where it may be state, a key."""
    kind, time, body, key, id_, event_type, guild_id, position, distance, stored = row
    try:
        sound = stored == checksum_of(kind, time, body, key, id_, event_type, guild_id, position, distance)
    except (TypeError, OverflowError):  # a value of another type, or out of range
        sound = False
    if sound:
        return Entry(_KINDS[kind], time, body, key.decode(), id_.decode(), event_type, guild_id, position)
    return Entry(Kind.DAMAGED, 0, b"", key="" if kind in _EVENTS and key == b"" else UNKNOWN_KEY, position=position)


def previous_event(row: Row) -> int:
    """The position of the newest event before a row, from the row itself; that event may have been trimmed since."""
    return row[7] - row[8]


def events_gone(rows: Sequence[Row], entries: Sequence[Entry], after: int) -> tuple[int, list[int]]:
    """The newest sound event of some rows that follow a position, and the events before sound rows that are not there.

    A damaged row counts as not there: its position may be what is damaged.
    """
    reached = after
    gone: list[int] = []
    for row, entry in zip(rows, entries, strict=True):
        if entry.kind is Kind.DAMAGED:
            continue
        if row[7] - row[8] > reached:
            gone.append(row[7] - row[8])
        if entry.kind is not Kind.STATE:
            reached = entry.position
    return reached, gone


def plausible(entries: list[Entry], after: int, last: int, *, is_full: bool) -> list[Entry]:
    """Entries that follow a position, in order, without damaged ones whose position cannot be right.

    Args:
        entries: as the table has them one after the other.
        after: the position that they follow.
        last: the newest position there is.
        is_full: more entries follow, so the position of the last of these cannot be checked.
    """
    if not any(entry.kind is Kind.DAMAGED for entry in entries):
        return entries
    kept: list[Entry] = []
    bound = last + 1
    for entry in reversed(entries):
        if entry.kind is not Kind.DAMAGED:
            bound = entry.position
            kept.append(entry)
        elif entry.position < bound and (kept or not is_full):
            kept.append(entry)
    kept.reverse()
    reached = after
    ordered: list[Entry] = []
    for entry in kept or entries:
        if entry.kind is not Kind.DAMAGED or entry.position > reached:
            ordered.append(entry)
            reached = max(reached, entry.position)
    return ordered


INDEXED_AS_STATE = "SELECT position FROM entries INDEXED BY state_by_position WHERE key <> '' AND position = ?"


def rows_of(connection: sqlite3.Connection, where: str, parameters: Iterable[object] = ()) -> Iterable[Row]:
    """Rows, one by one; the connection must not be used for anything else until the last."""
    before, connection.text_factory = connection.text_factory, bytes
    try:
        yield from connection.execute(f"SELECT {COLUMNS} FROM entries {where}", tuple(parameters))  # noqa: S608  our own words
    finally:
        connection.text_factory = before


SeenRow = tuple[str, int, int, bytes]
"""id, position, time, digest of the body with the row's CRC32C"""

_DIGEST_BYTES = 16
_SUM_BYTES = 4


def seen_row(id_: str, seen: Seen) -> SeenRow:
    """The row that remembers an event id."""
    return id_, seen.position, seen.time, seen.digest + _sum_of(id_, seen.position, seen.time, seen.digest)


def seen_of(row: SeenRow) -> Seen | None:
    """The id that a row remembers; None: the row does not match its checksum."""
    id_, position, time, stored = row
    try:
        digest, found = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        return Seen(position, time, digest) if found == _sum_of(id_, position, time, digest) else None
    except (TypeError, AttributeError, UnicodeError):  # a value of another type
        return None


def is_unsummed(row: SeenRow) -> bool:
    """Whether a row of known ids was written by an older hub, without a checksum."""
    return isinstance(row[3], bytes) and len(row[3]) == _DIGEST_BYTES


def seen_rows_of(connection: sqlite3.Connection, table: str) -> Iterator[SeenRow]:
    """Every row of a table of known ids; the connection must not be used for anything else until the last."""
    before, connection.text_factory = connection.text_factory, partial(str, encoding="utf-8", errors="surrogateescape")
    try:
        yield from connection.execute(f"SELECT id, position, time, digest FROM {table}")  # noqa: S608  our own words
    finally:
        connection.text_factory = before


def _sum_of(id_: str, position: int, time: int, digest: bytes) -> bytes:
    found: int = google_crc32c.value(b"%d %d %b %b" % (position, time, digest, id_.encode()))
    return found.to_bytes(_SUM_BYTES)
