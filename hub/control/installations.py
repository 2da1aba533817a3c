"""Which guild installed or excluded which integration, and which scopes it agreed to, as of the last entry applied.

A guild's agreement covers, scope by scope, the positions after the entry that stored it. Tables that were returned
never change: each shows one moment of the log.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from heapq import nsmallest
from itertools import islice
from typing import TypeVar

from msgspec.structs import replace

from hub.control.versioned import Versioned
from hub.model import AgreedScope, Entry, InstallationRecord
from hub.state import INSTALLATION

Agreed = Mapping[int, Mapping[int, int]]
"""By guild, the scopes agreed to, and the position from which each counts."""

Excluded = Mapping[int, float]
"""By excluded guild, the position up to which nothing is delivered; infinite while the exclusion lasts."""


Of = TypeVar("Of")


class Installations:
    """All installations, as of the last entry applied."""

    def __init__(self) -> None:
        self._records: dict[str, dict[int, InstallationRecord]] = {}
        self._positions: dict[str, int] = {}
        self._agreed: dict[str, dict[int, dict[int, int]]] = {}
        self._excluded: dict[str, dict[int, float]] = {}
        self._by_guild: dict[int, set[str]] = {}
        self._changed: dict[str, int] = {}
        self._ids: list[str] = []
        self._copied: set[tuple[int, str]] = set()

    def begin(self) -> None:
        """Begin to apply a batch of entries: each table that changes is copied once for all of them."""
        self._copied.clear()

    def apply(self, entry: Entry) -> tuple[str, ...]:
        """Apply an entry; returns the integration that it concerns."""
        record = INSTALLATION.decode(entry.body).record
        record = replace(record, agreed=tuple(_placed(scope, entry.position) for scope in record.agreed))
        self._positions[entry.key] = self._changed[record.integration_id] = entry.position
        self._exclude(record, entry.position)
        agreed = self._own(self._agreed, record.integration_id)
        if record.installed:
            if record.integration_id not in self._records:
                insort(self._ids, record.integration_id)
            self._records.setdefault(record.integration_id, {})[record.guild_id] = record
            agreed[record.guild_id] = {scope.scope: scope.position for scope in record.agreed}
            self._by_guild.setdefault(record.guild_id, set()).add(record.integration_id)
        else:
            self._records.get(record.integration_id, {}).pop(record.guild_id, None)
            agreed.pop(record.guild_id, None)
            self._by_guild.get(record.guild_id, set()).discard(record.integration_id)
        return (record.integration_id,)

    def agreed(self, integration_id: str) -> Agreed:
        """What the guilds that installed an integration agreed to."""
        return self._agreed.get(integration_id, _NOBODY)

    def excluded(self, integration_id: str) -> Excluded:
        """The guilds that exclude an integration, or have done so."""
        return self._excluded.get(integration_id, _NO_GUILDS)

    def changed(self, integration_id: str) -> int:
        """The position of the newest entry about an integration's guilds; 0: there is none."""
        return self._changed.get(integration_id, 0)

    def in_guild(self, guild_id: int) -> Iterable[str]:
        """The integrations that a guild has installed."""
        return self._by_guild.get(guild_id, ())

    def record(self, integration_id: str, guild_id: int) -> InstallationRecord | None:
        """One installation; None where the guild has none."""
        return self._records.get(integration_id, {}).get(guild_id)

    def versioned(self, integration_id: str, guild_id: int) -> Versioned[InstallationRecord | None]:
        """One installation (None where the guild has none), and the position of the newest entry of its key."""
        position = self._positions.get(INSTALLATION.key(integration_id, guild_id), 0)
        return Versioned(self.record(integration_id, guild_id), position)

    def of_integration(self, integration_id: str) -> list[InstallationRecord]:
        """The installations of one integration, by guild."""
        return [record for _, record in sorted(self._records.get(integration_id, {}).items())]

    def count(self, integration_id: str) -> int:
        """How many guilds have installed an integration."""
        return len(self._records.get(integration_id, ()))

    def after(
        self, place: tuple[str, int], limit: int, integration_id: str = "", guild_id: int = 0
    ) -> list[InstallationRecord]:
        """Up to `limit` installations after a place (integration, guild), of one integration or guild, or of all."""
        if integration_id:
            integration_ids = [integration_id]
        else:
            integration_ids = sorted(self._by_guild.get(guild_id, ())) if guild_id else self._ids
        found: list[InstallationRecord] = []
        for one in islice(integration_ids, bisect_left(integration_ids, place[0]), None):
            records = self._records.get(one, {})
            guilds = (guild for guild in records if guild_id in (0, guild) and (one, guild) > place)
            found += [records[guild] for guild in nsmallest(limit - len(found), guilds)]
            if len(found) >= limit:
                break
        return found

    def _exclude(self, record: InstallationRecord, position: int) -> None:
        """Record the position from which a guild's events count."""
        until = math.inf if record.excluded else position if record.counts_from < 0 else record.counts_from
        if self.excluded(record.integration_id).get(record.guild_id, 0) != until:
            self._own(self._excluded, record.integration_id)[record.guild_id] = until

    def _own(self, tables: dict[str, dict[int, Of]], integration_id: str) -> dict[int, Of]:
        """An integration's table that may be changed: a copy of the one that was returned to callers."""
        name = (id(tables), integration_id)
        if name not in self._copied:
            self._copied.add(name)
            tables[integration_id] = dict(tables.get(integration_id, {}))
        return tables[integration_id]


def _placed(scope: AgreedScope, position: int) -> AgreedScope:
    return scope if scope.position else replace(scope, position=position)


_NOBODY: Agreed = {}
_NO_GUILDS: Excluded = {}
