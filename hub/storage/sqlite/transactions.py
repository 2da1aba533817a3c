"""The transactions of the embedded store, from the first statement to COMMIT.

Each is a function of a connection: one trip to the thread that owns it. After an error the caller rolls back.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from hub.errors import StorageUnavailable
from hub.model import Entry, Kind
from hub.state import COMPACTED_PREFIXES
from hub.storage.checksum import checksum_of
from hub.storage.group import Group, Seen, digest, lookups
from hub.storage.group_commit import Outcome, Request
from hub.storage.sqlite.rows import Row, SeenRow, decoded, is_unsummed, rows_of, seen_of, seen_row
from hub.storage.sqlite.schema import Meta, write_meta

_ROWS = 256
"""Rows in one INSERT at most. The driver releases the GIL for each statement, and then has to wait for it."""
_EXACT = 32
"""Up to so many rows are one INSERT, whatever their number: the usual group of single events. The driver keeps 128
prepared statements."""
_PRUNED_AT_LEAST = 500

_HASHED = "#"
"""The hash that replaces the id of an erased event begins with it; no id does."""
_SEEN = " UNION ALL ".join(
    f"SELECT id, position, time, CAST(digest AS BLOB) FROM seen_{n} WHERE id IN (SELECT value FROM json_each(?1))"  # noqa: S608  constants
    for n in (0, 1)
)
_HAS_HASHED = " OR ".join(f"EXISTS (SELECT 1 FROM seen_{n} WHERE id >= '#' AND id < '$')" for n in (0, 1))  # noqa: S608  constants
_SEEN_OR_HASHED = f"{_SEEN} UNION ALL SELECT '{_HASHED}', 0, 0, NULL WHERE {_HAS_HASHED}"
"""Known ids, and a row of "#" if there are hashed ones, too: one statement less for each group."""
_HEADS = (
    "SELECT key, max(position) FROM entries WHERE key <> '' AND key IN (SELECT value FROM json_each(?)) GROUP BY key"
)
_FORGOTTEN = " OR ".join(f"key GLOB '{prefix}*'" for prefix in COMPACTED_PREFIXES)
_TRIM = (
    "DELETE FROM entries WHERE position IN (SELECT position FROM entries WHERE position >= ? AND position < ? "  # noqa: S608  constants
    f"AND (kind <> {Kind.STATE:d} OR (body = x'' AND ({_FORGOTTEN}))) ORDER BY position LIMIT ?) "
    "RETURNING position, time, kind, length(body)"
)

_REMOVE_SUPERSEDED = (
    "DELETE FROM entries WHERE position IN (SELECT value FROM json_each(?)) AND key <> '' AND EXISTS (SELECT 1 FROM "
    "entries AS newer WHERE newer.key <> '' AND newer.key = entries.key AND newer.position > entries.position) "
    "RETURNING length(body)"
)


class Written(NamedTuple):
    """A stored group: an outcome for each request, the new entries, `Meta` afterwards, and about its pages of WAL."""

    outcomes: list[Outcome]
    entries: list[Entry]
    meta: Meta
    pages: int


def append(connection: sqlite3.Connection, requests: Sequence[Request], meta: Meta, window: int) -> Written:
    """Store a group; `window`: how long an id is known, in microseconds."""
    group = _new_group(connection, requests, meta, window)
    outcomes = group.add_each(requests)
    if not group.entries:
        return Written(outcomes, [], meta, 0)
    _insert(connection, "INSERT INTO entries", group.entry_rows())
    meta = msgspec.structs.replace(meta, last=group.position, last_time=group.time, event=group.event)
    if superseded := group.superseded():
        connection.executemany("DELETE FROM entries WHERE key <> '' AND key = ? AND position < ?", superseded)
    if seen := [seen_row(id_, known) for id_, known in group.new_ids().items()]:
        _insert(connection, f"INSERT OR REPLACE INTO seen_{meta.seen_current}", seen)
        if group.time - meta.seen_since > window:
            meta = _forget(connection, meta, group.time, len(seen))
    connection.commit()
    return Written(outcomes, group.entries, meta, 4 + len(seen) + sum(one.size for one in requests) // 2_048)


def rotate_secret(
    connection: sqlite3.Connection, request: Request, meta: Meta, window: int, secret_check: bytes
) -> Written:
    """Store the entry that names another secret, and the check of that secret, atomically."""
    write_meta(connection, {"secret_check": secret_check})
    written = append(connection, [request], msgspec.structs.replace(meta, secret_check=secret_check), window)
    if not written.entries:
        connection.rollback()
    return written


def trim(connection: sqlite3.Connection, meta: Meta, before: int, limit: int) -> tuple[Meta, int]:
    """Remove up to `limit` entries before a position; returns the new metadata, and about its pages of WAL."""
    removed = connection.execute(_TRIM, (meta.first, before, limit)).fetchall()
    events = [(position, time) for position, time, kind, _ in removed if kind != Kind.STATE]
    position = max((position for position, _ in events), default=meta.first - 1)
    # It never goes back, and never past the newest: the time of a damaged entry may be anything.
    time = min(max([meta.trimmed_time, *(time for _, time in events)]), meta.last_time)
    # The newest entry may be among the removed: from now on the metadata has the end of the log.
    marks = {"last": meta.last, "last_time": meta.last_time, "event": meta.event, "trimmed_time": time}
    meta = _mark(connection, meta, first=position + 1, **marks)
    connection.commit()
    return meta, _pages_of([size for *_, size in removed])


def erase(connection: sqlite3.Connection, positions: Sequence[int], meta: Meta) -> int:
    """Erase the content of events; their positions stay. ``secure_delete`` overwrites the freed bytes.

    Returns about its pages of WAL.
    """
    where = "WHERE position IN (SELECT value FROM json_each(?)) AND kind = ? ORDER BY position"
    rows = list(rows_of(connection, where, (_json(list(positions)), int(Kind.EVENT))))
    _hash_ids(connection, {row[4].decode(): row[7] for row in rows if row[4]}, meta)
    connection.executemany(
        f"UPDATE entries SET kind = {Kind.ERASED:d}, id = '', event_type = 0, guild_id = 0, body = x'', "  # noqa: S608  a number
        "checksum = ? WHERE position = ?",
        [(_checksum_of_erased(row), row[7]) for row in rows],
    )
    connection.commit()
    return _pages_of([len(row[2]) for row in rows])


def remove_superseded(connection: sqlite3.Connection, positions: Sequence[int]) -> int:
    """Remove entries of state that a newer one of their key supersedes. ``secure_delete`` overwrites their bytes.

    Returns about its pages of WAL.
    """
    removed = connection.execute(_REMOVE_SUPERSEDED, (_json(list(positions)),)).fetchall()
    connection.commit()
    return _pages_of([size for (size,) in removed])


def _pages_of(sizes: Sequence[int]) -> int:
    """About how many pages the WAL gets when entries with bodies of these sizes are overwritten."""
    return 4 + len(sizes) // 8 + sum(sizes) // 2_048


def _hash_ids(connection: sqlite3.Connection, erased: dict[str, int], meta: Meta) -> None:
    """Replace the ids of these events, which may identify a person, with their hashes.

    Args:
        connection: within a transaction in which the events are still there.
        erased: their positions, by id; an id that names a later event stays.
        meta: as of the newest commit.
    """
    for n in (0, 1):
        rows = connection.execute(
            f"SELECT id, position, time, CAST(digest AS BLOB) FROM seen_{n} "  # noqa: S608  0 or 1
            "WHERE id IN (SELECT value FROM json_each(?))",
            (_json(list(erased)),),
        ).fetchall()
        known = {row[0]: _checked(connection, row, meta) for row in rows if erased[row[0]] == row[1]}
        connection.executemany(f"DELETE FROM seen_{n} WHERE id = ?", [(id_,) for id_ in known])  # noqa: S608
        connection.executemany(
            f"INSERT OR REPLACE INTO seen_{n} VALUES (?, ?, ?, ?)",  # noqa: S608
            [seen_row(_hash_of(id_), seen) for id_, seen in known.items()],
        )


def _hash_of(id_: str) -> str:
    return _HASHED + digest(id_.encode()).hex()


def _checksum_of_erased(row: Row) -> int:
    _, time, *_, position, distance, _ = row
    return checksum_of(Kind.ERASED, time, b"", b"", b"", 0, 0, position, distance)


def _new_group(connection: sqlite3.Connection, requests: Sequence[Request], meta: Meta, window: int) -> Group:
    """Look up what the requests depend on. That needs no transaction: there is no other writer."""
    ids, keys = lookups(requests)
    seen: dict[str, Seen] = {}
    rows = connection.execute(_SEEN_OR_HASHED, (_json(ids),)).fetchall() if ids else []
    erased: dict[str, str] = {}
    if rows and rows[-1][0] == _HASHED:
        erased = {_hash_of(id_): id_ for id_ in ids}
        rows[-1:] = connection.execute(_SEEN, (_json(list(erased)),)).fetchall()
    for row in rows:
        known, id_ = _checked(connection, row, meta), erased.get(row[0], row[0])
        if id_ not in seen or seen[id_].position < known.position:
            seen[id_] = known
    heads = dict(connection.execute(_HEADS, (_json(keys),)).fetchall()) if keys else {}
    return Group(meta.last, meta.last_time, window, seen, heads, meta.event)


def _checked(connection: sqlite3.Connection, row: SeenRow, meta: Meta) -> Seen:
    """The event that a row remembers.

    Raises:
        StorageUnavailable: the row is damaged.
    """
    known = _by_event(connection, row, meta) if is_unsummed(row) else seen_of(row)
    if known is None:
        raise StorageUnavailable
    return known


def _by_event(connection: sqlite3.Connection, row: SeenRow, meta: Meta) -> Seen | None:
    """The event that a row without a checksum remembers; None: the entry at its position is another event."""
    known = Seen(*row[1:])
    for found in rows_of(connection, "WHERE position = ?", (known.position,)):
        entry = decoded(found)
        if entry.kind is Kind.EVENT and entry.id == row[0]:
            return Seen(entry.position, entry.time, digest(entry.body))
        return known if entry.kind in (Kind.ERASED, Kind.DAMAGED) else None
    return known if known.position < meta.first and known.time <= meta.trimmed_time else None


def _insert(connection: sqlite3.Connection, into: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows, many with each statement; beyond `_EXACT` by powers of two, so that there are few to prepare."""
    start = 0
    while start < len(rows):
        left = len(rows) - start
        count = left if left <= _EXACT else min(_ROWS, 1 << left.bit_length() - 1)
        values = list(chain.from_iterable(rows[start : start + count]))
        connection.execute(_insertion(into, len(rows[0]), count), values)
        start += count


@cache
def _insertion(into: str, columns: int, rows: int) -> str:
    """The statement that inserts so many rows."""
    row = f"({', '.join('?' * columns)})"
    return f"{into} VALUES {', '.join([row] * rows)}"


def _forget(connection: sqlite3.Connection, meta: Meta, time: int, added: int) -> Meta:
    """Empty the older table of ids step by step, faster than the newer one grows; once it is empty they swap."""
    older = 1 - meta.seen_current
    gone = connection.execute(
        f"DELETE FROM seen_{older} WHERE id IN (SELECT id FROM seen_{older} ORDER BY id LIMIT ?)",  # noqa: S608  0 or 1
        (max(_PRUNED_AT_LEAST, 2 * added),),
    )
    if gone.rowcount:
        return meta
    return _mark(connection, meta, seen_current=older, seen_since=time)


def _mark(connection: sqlite3.Connection, meta: Meta, **marks: int) -> Meta:
    """Store some metadata within the current transaction; returns the metadata as of its commit."""
    write_meta(connection, marks)
    return msgspec.structs.replace(meta, **marks)


def _json(values: Iterable[object]) -> str:
    return msgspec.json.encode(values).decode()
