"""Retention of the audit trail: removes superseded entries of state, and the owners of integrations that are deleted.

An entry is removed only once its successor is too old as well: the state as of any later moment can still be rebuilt.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.errors import Conflict
from hub.model import Actor, Change, Entry, Kind, State
from hub.privacy.restored import METHOD
from hub.slices import slices
from hub.state import ENDPOINT, INSTALLATION, INTEGRATION, OVERSIGHT, decode_change, integration_of
from hub.storage import Log

PERIOD = 3_600.0
"""Seconds between two searches at most; with a short `audit_retention` a tenth of that."""
PAGE = 500
"""Entries of state that are read, and removed, at once."""
PSEUDONYM = "former-owner-"
"""The pseudonyms of owners begin with it; the id of no Discord user does."""
PSEUDONYM_LENGTH = 16
REASON = "the integration was deleted longer ago than audit_retention: a pseudonym replaces its owner"

log = structlog.get_logger()


class AuditRetention:
    """Removes what is older than `audit_retention`. Two hubs may do so at once: each step is harmless if repeated."""

    def __init__(self, store: Log, registry: Registry, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock
        self._keep = round(settings.audit_retention * 1_000_000)
        self._period = min(PERIOD, settings.audit_retention / 10)
        self._due = clock.monotonic()
        self._is_flush_due = False
        self._anonymous: set[str] = set()

    async def remove_old(self) -> None:
        """Remove what is too old by now, if the last search is long enough ago.

        Raises:
            StorageFull, StorageUnavailable: not now; the next call goes on.
        """
        if self._clock.monotonic() < self._due:
            return
        cutoff = self._clock.now() - self._keep
        before = await self._store.position_at(cutoff) + 1
        if before > 1:
            await self._forget_owners(cutoff)
            await self._remove_superseded(before)
            if self._is_flush_due:
                await self._store.remove_superseded((), flush=True)
                self._is_flush_due = False
        self._due = self._clock.monotonic() + self._period

    async def _remove_superseded(self, before: int) -> None:
        """Remove the entries whose successor lies before a position."""
        newest: set[str] = set()
        count = 0
        while before > 1:
            page = await self._store.history(before, PAGE)
            gone: list[int] = []
            for entry in page.entries:
                if entry.key in newest:
                    gone.append(entry.position)
                newest.add(entry.key)
            await self._remove(gone)
            count += len(gone)
            before = page.through
            await asyncio.sleep(0)
        if count:
            log.info("old entries of the audit trail are removed", entries=count)

    async def _remove(self, positions: Sequence[int]) -> None:
        if positions:
            self._is_flush_due = True
            await self._store.remove_superseded(positions, flush=False)

    async def _forget_owners(self, cutoff: int) -> None:
        """Replace the owners of integrations that were deleted before a time by pseudonyms."""
        for record, _, _ in list(self._registry.integrations.values()):
            is_due = record.state is State.DELETED and record.update_time < cutoff
            if is_due and record.integration_id not in self._anonymous:
                try:
                    await self._forget_owner(record.integration_id)
                except Conflict:  # another hub was faster
                    continue
                self._anonymous.add(record.integration_id)

    async def _forget_owner(self, integration_id: str) -> None:
        """Replace the owners of an integration in its newest records, and remove earlier entries that name them.

        The integration's own earlier entries say who they were: these go last, so that a killed hub finds them again.
        """
        own, endpoints = [await self._history(kind.key(integration_id)) for kind in (INTEGRATION, ENDPOINT)]
        owners = {decode_change(entry.body).actor.user_id for entry in (*own, *endpoints)}
        owners |= {INTEGRATION.decode(entry.body).record.owner_user_id for entry in own}
        names = {owner: self._pseudonym(owner) for owner in owners if owner.isdigit()}
        if not names:
            return
        others = [await self._history(kind.key(integration_id)) for kind in (INSTALLATION, OVERSIGHT)]
        for entries in (endpoints, *others, own):
            await self._rename(entries, names)
        log.info("the owner of a deleted integration is replaced by a pseudonym", integration_id=integration_id)

    async def _rename(self, entries: Sequence[Entry], names: dict[str, str]) -> None:
        """Append the newest entry of each key without these names, and remove every entry with one of them.

        Raises:
            Conflict: another hub has changed one meanwhile.
        """
        names_one = re.compile(r"(?<!\d)(?:" + "|".join(names) + r")(?!\d)")
        naming = [entry for entry in entries if names_one.search(entry.body.decode())]
        newest = {entry.key: entry.position for entry in reversed(entries)}
        for entry in naming:
            if entry.position == newest[entry.key]:
                await self._append(entry, names_one, names)
        for some in slices(naming, PAGE):
            await self._remove([entry.position for entry in some])

    async def _append(self, entry: Entry, names_one: "re.Pattern[str]", names: dict[str, str]) -> None:
        """Append the same record with pseudonyms. A deleted integration gets nothing: no position in it counts."""
        record = msgspec.json.decode(decode_change(entry.body).record)
        renamed = msgspec.json.encode(_replaced(record, names_one, names))
        body = msgspec.json.encode(replace(Change(Actor(), METHOD, reason=REASON), record=msgspec.Raw(renamed)))
        later = Entry(Kind.STATE, self._clock.now(), body, key=entry.key)
        [appended] = await self._store.append([later], {entry.key: entry.position})
        await self._registry.wait_applied(appended.position)

    async def _history(self, prefix: str) -> list[Entry]:
        """The audited entries of one kind about an integration, the newest first."""
        entries: list[Entry] = []
        before = self._registry.through + 1
        integration_id = integration_of(prefix)
        while before:
            page = await self._store.history(before, PAGE, prefix)
            entries += [entry for entry in page.entries if integration_of(entry.key) == integration_id]
            before = page.through
        return entries

    def _pseudonym(self, owner: str) -> str:
        """An owner's pseudonym: always the same under one secret of the hub, which is needed to make it."""
        return PSEUDONYM + self._registry.hidden.erasures.keys.name(f"owner/{owner}")[:PSEUDONYM_LENGTH]


def _replaced(value: Any, names_one: "re.Pattern[str]", names: dict[str, str]) -> Any:  # noqa: ANN401  any JSON value
    """A JSON value with other names in its texts."""
    if isinstance(value, str):
        return names_one.sub(lambda found: names[found[0]], value)
    if isinstance(value, list):
        return [_replaced(one, names_one, names) for one in value]
    if isinstance(value, dict):
        return {name: _replaced(one, names_one, names) for name, one in value.items()}
    return value
