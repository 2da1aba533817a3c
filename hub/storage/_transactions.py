"""What the embedded store does in one transaction, from its first statement to COMMIT or an error.

Lives here: the SQL that writes, as plain functions of a connection: each is one trip to the thread that owns it,
however many statements it has. Must not know the event loop, nor who waits. After an error the caller rolls back.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from hub.errors import Conflict, EventIdConflict
from hub.model import Entry, Kind
from hub.storage import EPHEMERAL_PREFIXES
from hub.storage._group import Group, Seen, wanted
from hub.storage._schema import Meta
from hub.storage._writer import Outcome, Request

_ROWS = 256
"""Rows in one INSERT at most. The driver lets go of the interpreter for each statement, and then has to wait for it."""
_PRUNED_AT_LEAST = 500

_SEEN = (
    "SELECT id, position, time, digest FROM seen_0 WHERE id IN (SELECT value FROM json_each(?1)) UNION ALL "
    "SELECT id, position, time, digest FROM seen_1 WHERE id IN (SELECT value FROM json_each(?1))"
)
_HEADS = (
    "SELECT key, max(position) FROM entries WHERE key <> '' AND key IN (SELECT value FROM json_each(?)) GROUP BY key"
)
_FORGOTTEN = " OR ".join(f"key GLOB '{prefix}*'" for prefix in EPHEMERAL_PREFIXES)
_TRIM = (
    "DELETE FROM entries WHERE position IN (SELECT position FROM entries WHERE position >= ? AND position < ? "  # noqa: S608  constants
    f"AND (kind <> {Kind.STATE:d} OR (body = x'' AND ({_FORGOTTEN}))) ORDER BY position LIMIT ?) "
    "RETURNING position, time, kind"
)


class Written(NamedTuple):
    """What became of a group: an outcome for each request, what is new, what holds now, and about its pages of WAL."""

    outcomes: list[Outcome]
    entries: list[Entry]
    meta: Meta
    pages: int


def append(connection: sqlite3.Connection, requests: Sequence[Request], meta: Meta, window: int) -> Written:
    """Store a group; `window`: how long an id is known, in microseconds."""
    group = _new_group(connection, requests, meta, window)
    outcomes = [_add(group, request) for request in requests]
    if not group.entries:
        return Written(outcomes, [], meta, 0)
    _insert(connection, "INSERT INTO entries", group.entry_rows())
    meta = msgspec.structs.replace(meta, last=group.position, last_time=group.time)
    if superseded := group.superseded():
        connection.executemany("DELETE FROM entries WHERE key <> '' AND key = ? AND position < ?", superseded)
    if seen := group.seen_rows():
        _insert(connection, f"INSERT OR REPLACE INTO seen_{meta.seen_current}", seen)
        if group.time - meta.seen_since > window:
            meta = _forget(connection, meta, group.time, len(seen))
    connection.commit()
    return Written(outcomes, group.entries, meta, 4 + len(seen) + sum(len(e.body) for e in group.entries) // 2_048)


def trim(connection: sqlite3.Connection, meta: Meta, before: int, limit: int) -> Meta:
    """Remove up to so many entries before a position; returns what holds now."""
    removed = connection.execute(_TRIM, (meta.first, before, limit)).fetchall()
    position, time = max(
        ((position, time) for position, time, kind in removed if kind != Kind.STATE),
        default=(meta.first - 1, meta.trimmed_time),
    )
    # The newest entry may be among the removed: from now on the marks say where the log stands.
    meta = _mark(connection, meta, first=position + 1, last=meta.last, last_time=meta.last_time, trimmed_time=time)
    connection.commit()
    return meta


def erase(connection: sqlite3.Connection, positions: Sequence[int]) -> None:
    """Leave nothing of these events but their places. ``secure_delete`` overwrites what the rows give up."""
    connection.executemany(
        f"UPDATE entries SET kind = {Kind.ERASED:d}, id = '', event_type = 0, guild_id = 0, body = x'' "  # noqa: S608  a number
        f"WHERE position = ? AND kind = {Kind.EVENT:d}",
        [(position,) for position in positions],
    )
    connection.commit()


def _new_group(connection: sqlite3.Connection, requests: Sequence[Request], meta: Meta, window: int) -> Group:
    """Look up what the requests depend on. No transaction is needed for it: nobody else writes."""
    ids, keys = wanted((request.entries, request.expect) for request in requests)
    seen: dict[str, Seen] = {}
    if ids:
        for id_, *rest in connection.execute(_SEEN, (_json(ids),)).fetchall():
            known = Seen(*rest)
            if id_ not in seen or seen[id_].position < known.position:
                seen[id_] = known
    heads = dict(connection.execute(_HEADS, (_json(keys),)).fetchall()) if keys else {}
    return Group(meta.last, meta.last_time, window, seen, heads)


def _add(group: Group, request: Request) -> Outcome:
    """A request that conflicts fails alone: the others of its group go on."""
    try:
        return group.add(request.entries, request.expect)
    except (Conflict, EventIdConflict) as error:
        return error


def _insert(connection: sqlite3.Connection, into: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows, many with each statement: by powers of two, so that there are few statements to prepare."""
    row = f"({', '.join('?' * len(rows[0]))})"
    start = 0
    while start < len(rows):
        count = min(_ROWS, 1 << (len(rows) - start).bit_length() - 1)
        values = [value for one in rows[start : start + count] for value in one]
        connection.execute(f"{into} VALUES {', '.join([row] * count)}", values)
        start += count


def _forget(connection: sqlite3.Connection, meta: Meta, time: int, added: int) -> Meta:
    """Empty the older table of ids step by step, faster than the other grows; once it is empty they swap."""
    older = 1 - meta.seen_current
    gone = connection.execute(
        f"DELETE FROM seen_{older} WHERE id IN (SELECT id FROM seen_{older} ORDER BY id LIMIT ?)",  # noqa: S608  0 or 1
        (max(_PRUNED_AT_LEAST, 2 * added),),
    )
    if gone.rowcount:
        return meta
    return _mark(connection, meta, seen_current=older, seen_since=time)


def _mark(connection: sqlite3.Connection, meta: Meta, **marks: int) -> Meta:
    """Store marks within the transaction at hand; returns what holds once it is committed."""
    connection.executemany("UPDATE meta SET value = ?2 WHERE name = ?1", list(marks.items()))
    return msgspec.structs.replace(meta, **marks)


def _json(values: Iterable[object]) -> str:
    return msgspec.json.encode(values).decode()
