"""Reading the embedded log: a page at a time, each a statement of its own.

Lives here: SQL that reads. Must not know how a statement is run, nor how entries are written.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from hub.model import Bounds, Entry, Kind, Page
from hub.storage import EPHEMERAL_PREFIXES
from hub.storage._schema import Meta

SCANNED_POSITIONS = 10_000
"""How far one page looks for the kinds it wants: a page of few among many does not hold up the others."""

_KINDS = {int(kind): kind for kind in Kind}
_COLUMNS = "kind, time, body, key, id, event_type, guild_id, position"
_NOT_EPHEMERAL = " AND ".join(f"key NOT GLOB '{prefix}*'" for prefix in EPHEMERAL_PREFIXES)


class Reads(ABC):
    """The half of `Log` that reads."""

    _meta: Meta
    """What holds after the newest commit: never ahead of what a statement sees."""

    @abstractmethod
    async def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        """All rows of one SELECT.

        Raises:
            StorageUnavailable: the store does not answer.
        """

    async def bounds(self) -> Bounds:
        """See `Log.bounds`. From memory."""
        return Bounds(self._meta.epoch, self._meta.first, self._meta.last)

    async def newest(self) -> int:
        """See `Log.newest`. Nobody else writes."""
        return self._meta.last

    async def snapshot(self) -> tuple[list[Entry], int]:
        """See `Log.snapshot`."""
        through = self._meta.last
        entries = await self._entries(
            "WHERE position IN (SELECT max(position) FROM entries WHERE key <> '' GROUP BY key) ORDER BY position"
        )
        # One statement sees one state of the store, never older than `through` and at least as new as its newest row.
        return entries, max(through, entries[-1].position if entries else 0)

    async def read(self, after: int, limit: int, kinds: frozenset[Kind] | None = None) -> Page:
        """See `Log.read`."""
        last = self._meta.last
        if kinds is None:
            entries = await self._entries("WHERE position > ? ORDER BY position LIMIT ?", after, limit)
        else:
            last = min(last, after + SCANNED_POSITIONS)
            entries = await self._entries(
                "WHERE position > ? AND position <= ? AND kind IN (SELECT value FROM json_each(?)) "
                "ORDER BY position LIMIT ?",
                *(after, last, json.dumps(sorted(kinds)), limit),
            )
        if len(entries) < limit:
            return Page(tuple(entries), max(last, after, entries[-1].position if entries else 0))
        return Page(tuple(entries), entries[-1].position if entries else after)

    async def history(self, before: int, limit: int, key_prefix: str = "") -> Page:
        """See `Log.history`."""
        index = "state_by_key" if key_prefix else "state_by_position"
        entries = await self._entries(
            # Positions first, from the index alone: sorting whole entries would carry their bodies along.
            f"WHERE position IN (SELECT position FROM entries INDEXED BY {index} WHERE key <> '' "  # noqa: S608  our own words
            f"AND key >= ? AND key < ? AND position < ? AND {_NOT_EPHEMERAL} ORDER BY position DESC LIMIT ?) "
            "ORDER BY position DESC",
            *(key_prefix, key_prefix + "\U0010ffff", before, limit),
        )
        return Page(tuple(entries), entries[-1].position if entries and len(entries) == limit else 0)

    async def position_at(self, time: int) -> int:
        """See `Log.position_at`. A binary search: accept times never decrease."""
        low, high = 1, self._meta.last + 1
        found = high
        while low < high:
            middle = (low + high) // 2
            rows = await self._rows(
                "SELECT position, time FROM entries WHERE position >= ? AND position < ? ORDER BY position LIMIT 1",
                (middle, high),
            )
            if not rows:
                high = middle
            elif rows[0][1] >= time:
                found, high = rows[0][0], middle
            else:
                low = rows[0][0] + 1
        return found - 1 if time > self._meta.trimmed_time else low - 1

    async def _entries(self, where: str, *parameters: object) -> list[Entry]:
        rows = await self._rows(f"SELECT {_COLUMNS} FROM entries {where}", parameters)  # noqa: S608  our own words
        return [Entry(_KINDS[kind], *rest) for kind, *rest in rows]
