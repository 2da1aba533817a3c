"""Which guild installed which integration, and what it agreed to: materialised from the log's entries.

A guild's agreement counts, scope by scope, for positions after the entry that brought it. The tables handed out are
never changed afterwards: who holds one sees a moment of the log.
"""

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from hub.model import AgreedScope, Change, Entry, InstallationRecord

_change = msgspec.json.Decoder(Change)
_installation = msgspec.json.Decoder(InstallationRecord)

Agreed = Mapping[int, Mapping[int, int]]
"""By guild, the scopes agreed to, and the position from which each counts."""


class Installations:
    """All installations, as of the last entry applied."""

    def __init__(self) -> None:
        self.records: dict[str, dict[int, InstallationRecord]] = {}
        self.positions: dict[str, int] = {}
        self._agreed: dict[str, dict[int, dict[int, int]]] = {}
        self._by_guild: dict[int, set[str]] = {}
        self._copied: set[str] = set()

    def begin(self) -> None:
        """Some entries are about to be applied: each table that changes is copied once for all of them."""
        self._copied.clear()

    def apply(self, entry: Entry) -> tuple[str, ...]:
        """Take an entry in; returns the integration that it concerns."""
        record = _installation.decode(_change.decode(entry.body).record)
        record = replace(record, agreed=tuple(_placed(scope, entry.position) for scope in record.agreed))
        self.positions[entry.key] = entry.position
        agreed = self._own_table(record.integration_id)
        if record.installed:
            self.records.setdefault(record.integration_id, {})[record.guild_id] = record
            agreed[record.guild_id] = {scope.scope: scope.position for scope in record.agreed}
            self._by_guild.setdefault(record.guild_id, set()).add(record.integration_id)
        else:
            self.records.get(record.integration_id, {}).pop(record.guild_id, None)
            agreed.pop(record.guild_id, None)
            self._by_guild.get(record.guild_id, set()).discard(record.integration_id)
        return (record.integration_id,)

    def agreed(self, integration_id: str) -> Agreed:
        """What the guilds that installed an integration agreed to."""
        return self._agreed.get(integration_id, _NOBODY)

    def in_guild(self, guild_id: int) -> Iterable[str]:
        """The integrations that a guild has installed."""
        return self._by_guild.get(guild_id, ())

    def record(self, integration_id: str, guild_id: int) -> InstallationRecord | None:
        """One installation; None where the guild has none."""
        return self.records.get(integration_id, {}).get(guild_id)

    def count(self, integration_id: str) -> int:
        """How many guilds have installed an integration."""
        return len(self.records.get(integration_id, ()))

    def after(
        self, place: tuple[str, int], limit: int, integration_id: str = "", guild_id: int = 0
    ) -> list[InstallationRecord]:
        """Up to `limit` installations after a place (integration, guild), of one integration or guild, or of all."""
        if integration_id:
            integration_ids = [integration_id]
        else:
            integration_ids = sorted(self._by_guild.get(guild_id, ()) if guild_id else self.records)
        found: list[InstallationRecord] = []
        for one in integration_ids:
            if len(found) >= limit or one < place[0]:
                continue
            records = self.records.get(one, {})
            guilds = sorted(guild for guild in records if guild_id in (0, guild) and (one, guild) > place)
            found += [records[guild] for guild in guilds]
        return found[:limit]

    def _own_table(self, integration_id: str) -> dict[int, dict[int, int]]:
        if integration_id not in self._copied:
            self._copied.add(integration_id)
            self._agreed[integration_id] = dict(self._agreed.get(integration_id, {}))
        return self._agreed[integration_id]


def _placed(scope: AgreedScope, position: int) -> AgreedScope:
    return scope if scope.position else replace(scope, position=position)


_NOBODY: Agreed = {}
