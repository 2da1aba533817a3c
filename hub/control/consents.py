"""What guilds decide: to install an integration by agreeing to its scopes, to uninstall it, to share nothing."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from msgspec.structs import replace

from hub import permissions as table
from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.control.transactions import Changes, Charge
from hub.errors import ScopeNotGranted, TooManyInstallations
from hub.model import AgreedScope, Caller, InstallationRecord, IntegrationRecord
from hub.privacy_model import GuildSharing, SharingRecord


class Consents:
    """Changes installations, and what guilds share."""

    def __init__(self, registry: Registry, changes: Changes, settings: Settings, clock: Clock) -> None:
        self._registry = registry
        self._changes = changes
        self._settings = settings
        self._clock = clock
        self._installing: defaultdict[str, Counter[int]] = defaultdict(Counter)

    async def install(
        self, by: Caller, integration_id: str, guild_id: int, agreed: frozenset[int], charge: Charge
    ) -> InstallationRecord | None:
        """Record that a guild agrees to some scopes (none named: all that are granted now); the caller's user acts.

        `charge` is called if there is something to record.

        Raises:
            IntegrationNotFound, IntegrationPending and the like: the integration may not receive events.
            ScopeNotGranted: one of the scopes is not granted.
            TooManyInstallations: the limit of guilds is reached.
        """
        decide = partial(self._installed, by=by, integration_id=integration_id, guild_id=guild_id, agreed=agreed)
        with self._being_installed(integration_id, guild_id):
            return await self._changes.update_installation(by, integration_id, guild_id, decide, charge)

    async def uninstall(self, by: Caller, integration_id: str, guild_id: int) -> None:
        """Record that a guild withdraws its consent: none of its events is delivered to the integration from here on.

        Raises:
            IntegrationNotFound: there is no such integration.
        """
        self._registry.integration(integration_id)
        await self._changes.update_installation(
            by,
            integration_id,
            guild_id,
            partial(self._uninstalled, by=by, integration_id=integration_id, guild_id=guild_id),
        )

    async def share(self, by: Caller, guild_id: int, sharing: GuildSharing, charge: Charge | None) -> None:
        """Record whether a guild's events are delivered to anybody; `charge` is called if that is a change."""

        def decide(before: SharingRecord | None) -> SharingRecord | None:
            if sharing is (before.sharing if before is not None else GuildSharing.ON):
                return before
            return SharingRecord(guild_id, sharing, by.user_id)

        await self._changes.update_sharing(by, guild_id, decide, charge)

    def _installed(
        self,
        before: InstallationRecord | None,
        by: Caller,
        integration_id: str,
        guild_id: int,
        agreed: frozenset[int],
    ) -> InstallationRecord:
        record = self._registry.require_open(integration_id, say_why=False)
        if before is None:
            self._require_room(integration_id, guild_id)
        known = {scope.scope: scope for scope in before.agreed} if before else {}
        chosen, now = chosen_scopes(record, agreed), self._clock.now()
        return InstallationRecord(
            integration_id=integration_id,
            guild_id=guild_id,
            acting_user_id=by.user_id,
            install_time=before.install_time if before else now,
            agree_time=now,
            agreed=tuple(known.get(scope, AgreedScope(scope)) for scope in sorted(chosen)),
            counts_from=self._counts_from(integration_id, guild_id),
        )

    def _counts_from(self, integration_id: str, guild_id: int) -> int:
        """The position after which the guild's events count; -1 (this entry) if this lifts an exclusion."""
        until = self._registry.installations.excluded(integration_id).get(guild_id, 0)
        return -1 if math.isinf(until) else int(until)

    def _uninstalled(
        self, before: InstallationRecord | None, by: Caller, integration_id: str, guild_id: int
    ) -> InstallationRecord | None:
        now = self._clock.now()
        if before is not None:
            return replace(before, installed=False, excluded=True, agreed=(), acting_user_id=by.user_id, agree_time=now)
        if math.isinf(self._registry.installations.excluded(integration_id).get(guild_id, 0)):
            return None
        return InstallationRecord(integration_id, guild_id, by.user_id, now, now, installed=False, excluded=True)

    @contextmanager
    def _being_installed(self, integration_id: str, guild_id: int) -> Iterator[None]:
        """Reserve room for a guild that is being added, so that concurrent calls do not exceed the limit."""
        guilds = self._installing[integration_id]
        guilds[guild_id] += 1
        try:
            yield
        finally:
            guilds[guild_id] -= 1
            if not guilds[guild_id]:
                del guilds[guild_id]
            if not guilds:
                self._installing.pop(integration_id, None)

    def _require_room(self, integration_id: str, guild_id: int) -> None:
        limit, installations = self._settings.max_installations, self._registry.installations
        others = (guild for guild in self._installing[integration_id] if guild != guild_id)
        adding = sum(installations.record(integration_id, guild) is None for guild in others)
        if installations.count(integration_id) + adding >= limit:
            raise TooManyInstallations(
                f"{limit} guilds have installed this integration, which is the limit", metadata={"limit": str(limit)}
            )


def chosen_scopes(record: IntegrationRecord, agreed: frozenset[int]) -> frozenset[int]:
    """The scopes that a guild agrees to (none named: all that are granted now).

    Raises:
        ScopeNotGranted: one of them is not granted.
    """
    granted = frozenset(grant.scope for grant in record.grants)
    if agreed - granted:
        names = table.names_of(agreed - granted)
        raise ScopeNotGranted(
            f"not granted to the integration: {names}; a guild can agree only to granted scopes",
            metadata={"scopes": names.replace(" ", "")},
        )
    return agreed or granted
