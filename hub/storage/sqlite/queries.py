"""Queries of the embedded log, one statement for each page."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from hub.errors import StorageUnavailable
from hub.model import Entry, Kind, Page
from hub.slices import in_turns
from hub.state import COMPACTED_PREFIXES
from hub.storage.by_time import position_at
from hub.storage.damage import DamageRecord
from hub.storage.sqlite.connection import Connection
from hub.storage.sqlite.rows import COLUMNS, INDEXED_AS_STATE, Row, decoded, events_gone, plausible
from hub.storage.sqlite.schema import Meta
from hub.subjects import Subject, SubjectKind, concerns

SCANNED_POSITIONS = 10_000
"""Positions that one page scans for its kinds, so that a page of few entries among many delays no other read."""
_AT_LEAST = 64
_DECODED_AT_ONCE = 250
"""Rows checked and decoded in one step of the event loop: under a millisecond."""
_ALL = frozenset({Kind.EVENT, Kind.STATE, Kind.ERASED})
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_NOT_COMPACTED = " AND ".join(f"key NOT GLOB '{prefix}*'" for prefix in COMPACTED_PREFIXES)


class SqliteReads:
    """The reading part of the embedded log."""

    def __init__(self, connection: Connection, newest_meta: Callable[[], Meta], damage: DamageRecord) -> None:
        """Read with a connection that cannot write.

        Args:
            connection: whose texts come as bytes.
            newest_meta: the metadata as of the newest commit; never ahead of what a statement sees.
            damage: where damaged entries are recorded.
        """
        self._connection = connection
        self._newest_meta = newest_meta
        self._damage = damage

    @property
    def _meta(self) -> Meta:
        return self._newest_meta()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        """All rows of one SELECT.

        Raises:
            StorageUnavailable: the store does not answer.
        """
        try:
            return await self._connection.rows(sql, parameters)
        except (sqlite3.Error, ValueError) as error:  # aiosqlite raises ValueError on a closed connection
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN:
                self._damage.add(0, is_state=True)  # a broken page may hold anything
            raise StorageUnavailable from error

    async def snapshot(self) -> tuple[list[Entry], int]:
        """See `Log.snapshot`."""
        through = self._meta.last
        entries = await self._entries(
            "WHERE position IN (SELECT max(position) FROM entries WHERE key <> '' GROUP BY key) ORDER BY position"
        )
        # One statement sees one state of the store, never older than `through` and at least as new as its newest row.
        return entries, max(through, entries[-1].position if entries else 0)

    async def read(self, after: int, limit: int, kinds: frozenset[Kind] | None) -> Page:
        """See `Log.read`."""
        last = self._meta.last
        if kinds is None or kinds >= _ALL:
            return await self._page("WHERE position > ? ORDER BY position LIMIT ?", (after, limit), after, limit, last)
        last = min(last, after + SCANNED_POSITIONS)
        entries: list[Entry] = []
        through = after
        while through < last and len(entries) < limit:
            most = max(limit - len(entries), _AT_LEAST)
            page = await self._page(
                "WHERE position > ? AND position <= ? ORDER BY position LIMIT ?",
                *((through, last, most), through, most, last),
            )
            # By kind only now that the rows are checked: a kind with a flipped bit would be left out unseen.
            entries += [entry for entry in page.entries if entry.kind in kinds or entry.kind is Kind.DAMAGED]
            through = page.through
        if len(entries) > limit or (entries and len(entries) == limit):
            entries = entries[:limit]
            through = entries[-1].position
        return Page(tuple(entries), through)

    async def _page(self, where: str, parameters: tuple[int, ...], after: int, limit: int, last: int) -> Page:
        """Consecutive rows as entries; a hole that no trim or erasure explains is DAMAGED, too.

        Args:
            where: which rows, in order.
            parameters: of `where`.
            after: the position that they follow.
            limit: how many there are at most.
            last: the position through which the log is read if there are fewer.
        """
        newest_event = self._meta.event
        rows = await self._rows(f"SELECT {COLUMNS} FROM entries {where}", parameters)  # noqa: S608  our own words
        entries = await self._decoded(rows)
        reached, gone = events_gone(rows, entries, after)
        entries = plausible(entries, after, last, is_full=len(rows) >= limit)
        through = max(last, after, entries[-1].position if entries else 0)
        if len(rows) >= limit:
            through = entries[-1].position if entries else after
        if reached < newest_event <= through and (not entries or entries[-1].position < newest_event):
            gone.append(newest_event)
        if gone and (gone := await self._not_trimmed(gone)):
            entries = self._with_gone(entries, gone)
        if len(entries) > limit:
            entries = entries[:limit]
            through = entries[-1].position
        return Page(tuple(entries), through)

    def _with_gone(self, entries: list[Entry], gone: list[int]) -> list[Entry]:
        known = {entry.position for entry in entries}
        missing = [Entry(Kind.DAMAGED, 0, b"", position=position) for position in gone if position not in known]
        for entry in missing:
            self._damage.add(entry.position, is_state=False)
        return sorted([*entries, *missing], key=lambda entry: entry.position)

    async def _not_trimmed(self, positions: list[int]) -> list[int]:
        """The positions that no trim has removed so far."""
        rows = await self._rows("SELECT value FROM meta WHERE name = 'first'")
        if not rows or not isinstance(rows[0][0], int):
            self._damage.add(0, is_state=True)
            raise StorageUnavailable
        return [position for position in positions if position >= rows[0][0]]

    async def find(self, after: int, limit: int, subject: Subject) -> Page:
        """See `Log.find`. SQLite compares the bytes in its own thread, off the event loop."""
        through = min(self._meta.last, after + SCANNED_POSITIONS)
        is_guild = subject.kind is SubjectKind.GUILD
        test, value = ("guild_id = ?", subject.id) if is_guild else ("instr(body, ?)", str(subject.id).encode())
        entries = await self._entries(
            f"WHERE position > ? AND position <= ? AND kind = {Kind.EVENT:d} AND {test} ORDER BY position LIMIT ?",
            *(after, through, value, limit),
        )
        if entries and len(entries) == limit:
            through = entries[-1].position
        found = tuple(entry for entry in entries if entry.kind is Kind.EVENT and concerns(entry, subject))
        return Page(found, max(through, after))

    async def history(self, before: int, limit: int, key_prefix: str) -> Page:
        """See `Log.history`."""
        index = "state_by_key" if key_prefix else "state_by_position"
        entries = await self._entries(
            # Positions first, from the index alone: sorting whole entries would carry their bodies along.
            f"WHERE position IN (SELECT position FROM entries INDEXED BY {index} WHERE key <> '' "  # noqa: S608  our own words
            f"AND key >= ? AND key < ? AND position < ? AND {_NOT_COMPACTED} ORDER BY position DESC LIMIT ?) "
            "ORDER BY position DESC",
            *(key_prefix, key_prefix + "\U0010ffff", before, limit),
        )
        return Page(tuple(entries), entries[-1].position if entries and len(entries) == limit else 0)

    async def position_at(self, time: int) -> int:
        """See `Log.position_at`."""
        return await position_at(
            time,
            last=self._meta.last,
            trimmed_time=lambda: self._meta.trimmed_time,
            read=self.read,
        )

    async def _entries(self, where: str, *parameters: object) -> list[Entry]:
        return await self._decoded(await self._rows(f"SELECT {COLUMNS} FROM entries {where}", parameters))  # noqa: S608  our own words

    async def _decoded(self, rows: list[Row]) -> list[Entry]:
        """Rows as entries, all checked.

        Raises:
            StorageUnavailable: one is damaged and may be state; from then on nothing is served.
        """
        entries: list[Entry] = []
        async for some in in_turns(rows, _DECODED_AT_ONCE):
            entries += [decoded(row) for row in some]
        for entry in entries:
            if entry.kind is Kind.DAMAGED:
                is_state = bool(entry.key or await self._rows(INDEXED_AS_STATE, (entry.position,)))
                self._damage.add(entry.position, is_state=is_state)
                if is_state:
                    raise StorageUnavailable
        return entries
