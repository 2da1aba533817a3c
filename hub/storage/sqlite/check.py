"""Checks for damage: at the start, in a backup, and for `hub doctor`. Everything blocks."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from hub.errors import StartError
from hub.model import Entry, Kind
from hub.storage.sqlite.rows import Row, decoded, is_unsummed, previous_event, rows_of, seen_of, seen_rows_of
from hub.storage.sqlite.schema import ADVICE, Damaged, Meta, format_of, read_meta

SKIPPED = 1 << 16
"""Positions left out after a damaged newest entry: its own position may be wrong."""


class Damage(NamedTuple):
    """A damaged entry, table or structure of a store.

    Attributes:
        position: of the entry; 0: it is no entry.
        kind: "event", "state", or the name of a table or structure.
        text: what is wrong with it.
    """

    position: int
    kind: str
    text: str


def check_store(connection: sqlite3.Connection, path: Path) -> None:
    """Check, at the start, what permissions depend on: the structure of the file and every entry of state.

    Raises:
        StartError: it is damaged; the text names the position of an entry.
        sqlite3.Error: it cannot be read.
    """
    for damage in (*structure(connection), *state(connection), *known_ids(connection)):
        raise StartError(f"database {path} is damaged: {describe(damage)}; {ADVICE}")


def require_sound(connection: sqlite3.Connection, path: Path) -> None:
    """Check every entry of a store.

    Raises:
        StartError: one is damaged; the text names its position.
    """
    for damage in (*state(connection), *events(connection)):
        raise StartError(f"{path} is damaged: {describe(damage)}; 'hub doctor --verify' lists the damage")


def describe(damage: Damage) -> str:
    """A damaged entry as text: "the event at position 7 does not match its checksum"."""
    return f"the {damage.kind} at position {damage.position} {damage.text}" if damage.position else damage.text


def everything(connection: sqlite3.Connection) -> Iterator[Damage]:
    """All damage of a store, as far as it can be read."""
    for part in (structure, _meta, state, known_ids, events):
        try:
            yield from part(connection)
        except (sqlite3.DatabaseError, Damaged, ValueError, TypeError) as error:
            yield Damage(0, "structure", str(error))


def structure(connection: sqlite3.Connection) -> Iterator[Damage]:
    """The problems that SQLite finds in trees, pages and indexes."""
    for (text,) in connection.execute("PRAGMA integrity_check(20)"):
        if text != "ok":
            yield Damage(0, "structure", text)


def _meta(connection: sqlite3.Connection) -> Iterator[Damage]:
    try:
        read_meta(connection)
    except (Damaged, ValueError, TypeError) as error:
        yield Damage(0, "table meta", str(error))


def state(connection: sqlite3.Connection) -> Iterator[Damage]:
    """Entries of state that do not match their checksums."""
    if format_of(connection).format < 2:
        return
    for row in rows_of(connection, "INDEXED BY state_by_position WHERE key <> '' ORDER BY position"):
        if decoded(row).kind is Kind.DAMAGED:
            yield Damage(row[7], "state", "does not match its checksum")


def events(connection: sqlite3.Connection) -> Iterator[Damage]:
    """Events that do not match their checksums or are missing; entries that might be either count as state."""
    if format_of(connection).format < 2:
        return
    first = read_meta(connection).first
    reached = first - 1
    damaged: set[int] = set()
    state_positions = {
        position
        for (position,) in connection.execute(
            "SELECT position FROM entries INDEXED BY state_by_position WHERE key <> ''"
        )
    }
    for row in rows_of(connection, "ORDER BY position"):
        entry = decoded(row)
        position = row[7]
        if entry.kind is Kind.DAMAGED:
            if position not in state_positions:
                yield Damage(position, "state" if entry.key else "event", "does not match its checksum")
            damaged.add(position)
            continue
        if previous_event(row) > reached and previous_event(row) not in damaged:
            yield Damage(previous_event(row), "event", "is gone")
        if entry.kind is not Kind.STATE:
            reached = position


def known_ids(connection: sqlite3.Connection) -> Iterator[Damage]:
    """Rows of the dedupe window that do not match their checksums; those without one that do not name their events."""
    for table in ("seen_0", "seen_1"):
        wrong = sum(seen_of(row) is None and not is_unsummed(row) for row in seen_rows_of(connection, table))
        if wrong:
            yield Damage(0, table, f"{wrong} ids in {table} do not match their checksums")
        if wrong := _unsummed_ids(connection, table):
            yield Damage(0, table, f"{wrong} ids in {table} do not name their events")


def _unsummed_ids(connection: sqlite3.Connection, table: str) -> int:
    """How many rows without a checksum (older hubs wrote them) disagree with their events or with the last trim."""
    meta = read_meta(connection)
    query = (
        f"SELECT count(*) FROM {table} s LEFT JOIN entries e ON e.position = s.position "  # noqa: S608  our own names
        "WHERE length(s.digest) = 16 AND CASE WHEN s.position < ? THEN s.time > ? "
        f"ELSE e.time IS NOT s.time OR (e.id IS NOT s.id AND e.kind IS NOT {Kind.ERASED:d}) END"
    )
    return int(connection.execute(query, (meta.first, meta.trimmed_time)).fetchone()[0])


def with_newest(connection: sqlite3.Connection, meta: Meta) -> Meta:
    """The metadata of a store, advanced to its newest entry: it is not stored with each append."""
    for row in rows_of(connection, "WHERE position > ? ORDER BY position DESC LIMIT 1", (meta.last,)):
        entry = decoded(row)
        if entry.kind is Kind.DAMAGED:
            return _after_damage(connection, meta, row)
        return _moved(meta, entry, row)
    return meta


def _moved(meta: Meta, entry: Entry, row: Row) -> Meta:
    event = previous_event(row) if entry.kind is Kind.STATE else entry.position
    return replace(meta, last=entry.position, last_time=entry.time, event=max(meta.event, event))


def _after_damage(connection: sqlite3.Connection, meta: Meta, newest: Row) -> Meta:
    """For a damaged newest entry: its time is that of the newest intact one, and positions continue well after it."""
    last = max(newest[7], meta.last)
    time = meta.last_time
    for row in rows_of(connection, "WHERE position > ? ORDER BY position DESC", (meta.last,)):
        if (entry := decoded(row)).kind is not Kind.DAMAGED:
            time = entry.time
            break
    return replace(meta, last=last + SKIPPED, last_time=max(meta.last_time, time), event=max(meta.event, last))
