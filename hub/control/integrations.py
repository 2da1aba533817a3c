"""The commands of admins and developers on integrations: register, apply, update, decide, rotate and revoke keys.

Whether the caller may do it is not decided here (``api/access.py``, ``api/services/developer.py``), nor what becomes of
a record (``lifecycle.py``, ``keys.py``).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from hub.clock import Clock
from hub.config import Settings
from hub.control import keys, lifecycle
from hub.control.links import is_public
from hub.control.registry import Registry
from hub.control.token_buckets import TokenBuckets
from hub.control.transactions import Changes, DecideIntegration, Intent
from hub.control.versioned import Versioned
from hub.errors import InvalidRequest, TooManyChanges, Violation
from hub.model import Caller, GuildAccess, IntegrationRecord, KeyRecord, Role, ScopeRequestRecord, State

LINKS = ("documentation_url", "support_url", "endpoint_url")
PROFILE = ("display_name", "description", *LINKS)
"""The fields that a developer may change."""

UPDATABLE = (*PROFILE, "owner_user_id", "guild_access")
"""The fields that an admin may change."""

HOUR = 3_600.0
MICROS = 1_000_000


class Profile(NamedTuple):
    """The profile of a new integration; `guild_access`: None = the default of the settings."""

    display_name: str
    description: str
    owner_user_id: str
    documentation_url: str
    support_url: str
    endpoint_url: str
    guild_access: GuildAccess | None


class Rotated(NamedTuple):
    """A new key with its text, which is shown once, and the other keys of the integration."""

    minted: keys.Minted
    previous: Sequence[KeyRecord]


class Integrations:
    """Creates and changes integrations."""

    def __init__(self, registry: Registry, changes: Changes, settings: Settings, clock: Clock) -> None:
        self._registry = registry
        self._changes = changes
        self._settings = settings
        self._clock = clock
        self._budgets = TokenBuckets(settings.max_changes, HOUR, clock)

    def charge(self, by: Caller) -> None:
        """Count a change against the caller's budget: the log keeps each change for years. Admins have no limit.

        The budget is the integration's, or that of the user for whom the bot speaks, so that a stolen key cannot use
        up the budget of its owner.

        Raises:
            TooManyChanges: the budget of this hour is used up.
        """
        if by.role is Role.ADMIN:
            return
        wait = self._budgets.take(by.user_id or by.integration_id)
        if wait:
            limit = self._settings.max_changes
            raise TooManyChanges(
                f"at most {limit} changes an hour are allowed: wait", metadata={"limit": str(limit)}, retry_after=wait
            )

    async def register(
        self, by: Caller, profile: Profile, scopes: Sequence[ScopeRequestRecord], key_expire_time: int = 0
    ) -> tuple[keys.Minted, Versioned[IntegrationRecord]]:
        """Add an integration that is ACTIVE at once; returns its first key and its record.

        Raises:
            InvalidRequest: a link cannot be reached by others, or a scope is named twice.
            DeveloperBlocked: its owner is on the blocklist.
        """
        minted = self._registry.keyring.mint(Role.INTEGRATION, expire_time=key_expire_time)
        now = minted.record.create_time
        record = replace(
            self._new_record(profile, State.ACTIVE, now),
            grants=lifecycle.grants(scopes, now, by.key_id),
            keys=(minted.record,),
            active_time=now,
            scopes_time=now,
        )
        return minted, await self._add(by, record)

    async def apply_for(
        self, by: Caller, profile: Profile, scopes: Sequence[ScopeRequestRecord]
    ) -> Versioned[IntegrationRecord]:
        """Add an integration that waits for an admin's decision.

        Raises:
            InvalidRequest, DeveloperBlocked: as `register`.
            TooManyChanges: the caller's budget is used up.
        """
        lifecycle.grants(scopes, 0, "")  # refuses a scope that is named twice
        record = replace(
            self._new_record(profile, State.PENDING, self._clock.now()),
            requested_scopes=tuple(scopes),
            rules_version=self._settings.rules_version,
        )
        return await self._add(by, record)

    async def update(
        self, intent: Intent, integration_id: str, fields: Mapping[str, str | GuildAccess | None]
    ) -> Versioned[IntegrationRecord]:
        """Change some of the `UPDATABLE` fields; their values follow the contract's rules.

        Raises:
            InvalidRequest: a link cannot be reached by others.
            StateForbids: the integration is deleted.
            What `change` raises.
        """
        return await self.change(intent, integration_id, partial(self._updated, fields=fields))

    async def change(
        self, intent: Intent, integration_id: str, decide: DecideIntegration
    ) -> Versioned[IntegrationRecord]:
        """Change an integration by a decision; a change counts against the caller's budget.

        Raises:
            IntegrationNotFound, EtagMismatch: as `Changes.update_integration`.
            TooManyChanges: the caller's budget is used up.
            What `decide` raises.
        """
        return await self._changes.update_integration(intent, integration_id, decide, self.charge)

    async def rotate(self, intent: Intent, integration_id: str, overlap: int | None, expire_time: int = 0) -> Rotated:
        """Add a key; the earlier ones end after the overlap.

        Args:
            intent: who, why, and on which version.
            integration_id: names the integration.
            overlap: microseconds; None = the default of the settings.
            expire_time: when the new key ends, in microseconds; 0 = never.

        Raises:
            RotationInProgress: the limit of live keys is reached.
            What `change` raises.
        """
        minted = self._registry.keyring.mint(Role.INTEGRATION, expire_time=expire_time)
        span = round(self._settings.key_overlap * MICROS) if overlap is None else overlap
        changed = await self.change(intent, integration_id, partial(self._rotated, new=minted.record, overlap=span))
        return Rotated(minted, [key for key in changed.record.keys if key.key_id != minted.record.key_id])

    async def revoke(self, intent: Intent, integration_id: str, key_id: str) -> KeyRecord:
        """End a key at once. It costs no budget: a key that leaked must end.

        Raises:
            KeyNotFound: the integration has no such key.
            IntegrationNotFound, EtagMismatch: as `Changes.update_integration`.
        """
        changed = await self._changes.update_integration(
            intent, integration_id, partial(self._without_key, key_id=key_id)
        )
        return keys.find(changed.record.keys, key_id)

    async def _add(self, by: Caller, record: IntegrationRecord) -> Versioned[IntegrationRecord]:
        self._registry.blocklist.require_unblocked(record.owner_user_id)
        self.charge(by)
        return await self._changes.add_integration(by, record)

    def _new_record(self, profile: Profile, state: State, now: int) -> IntegrationRecord:
        fields = profile._asdict()
        self._require_public(fields)
        return IntegrationRecord(
            **fields | {"guild_access": self._access(profile.guild_access)},
            integration_id=keys.random_text(keys.ID_LENGTH),
            create_time=now,
            update_time=now,
            state=state,
        )

    def _updated(self, record: IntegrationRecord, fields: Mapping[str, str | GuildAccess | None]) -> IntegrationRecord:
        lifecycle.require("update", record)
        self._require_public(fields, "integration.")
        texts = {name: value for name, value in fields.items() if name != "guild_access"}
        if "guild_access" in fields:
            record = lifecycle.set_guild_access(record, self._access(fields["guild_access"]))
        return replace(record, **texts)

    def _rotated(self, record: IntegrationRecord, new: KeyRecord, overlap: int) -> IntegrationRecord:
        lifecycle.require("rotate_key", record)
        keyring = self._registry.keyring
        rotated = keys.rotate(
            record.keys,
            new,
            overlap,
            self._clock.now(),
            is_live=keyring.is_live,
            seconds_left=keyring.seconds_left,
            was_used=keyring.was_used,
            max_live=self._settings.max_live_keys,
        )
        return replace(record, keys=rotated)

    def _without_key(self, record: IntegrationRecord, key_id: str) -> IntegrationRecord:
        is_live = self._registry.keyring.is_live
        return replace(record, keys=keys.revoke(record.keys, key_id, self._clock.now(), is_live=is_live))

    def _access(self, requested: object) -> GuildAccess:
        """The requested guild access, or the default of the settings."""
        return requested if isinstance(requested, GuildAccess) else GuildAccess[self._settings.guild_access.upper()]

    def _require_public(self, fields: Mapping[str, object], prefix: str = "") -> None:
        """Check that others can reach the links among some fields, unless the settings allow private ones.

        Raises:
            InvalidRequest: a link names localhost or a private address.
        """
        if self._settings.private_links:
            return
        private = [name for name in LINKS if fields.get(name) and not is_public(str(fields[name]))]
        if private:
            text = "names localhost or a private address, which others cannot reach: use a public one"
            raise InvalidRequest(Violation(prefix + name, text) for name in private)
