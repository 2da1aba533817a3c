"""What admins and developers both do to an integration: create, change, rotate, revoke. Requests in, held records out.

Lives here: what is alike whoever asks. Must not know who may ask (``access.py``, ``developer.py``).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from msgspec.structs import replace
from tickets.hub.v1 import integration_pb2

from hub.api import convert
from hub.api.access import check
from hub.api.limits import Buckets
from hub.clock import Clock
from hub.config import Settings
from hub.control import keys, lifecycle
from hub.control.changes import Changes
from hub.control.registry import Held, Registry
from hub.errors import InvalidRequest, TooManyChanges
from hub.model import Caller, IntegrationRecord, KeyRecord, Role, State

PROFILE = ("display_name", "description", "documentation_url", "support_url", "endpoint_url")
"""What a developer may change."""

UPDATABLE = (*PROFILE, "owner_user_id", "guild_access")
"""What an admin may change."""

HOUR = 3_600.0

Decide = Callable[[IntegrationRecord], IntegrationRecord]


class Profile(Protocol):
    """What RegisterIntegration and SubmitApplication say of an integration."""

    display_name: str
    description: str
    owner_user_id: str
    documentation_url: str
    support_url: str
    endpoint_url: str
    guild_access: integration_pb2.GuildAccess.ValueType


class NewKey(NamedTuple):
    """A key that was just made: its text is shown once; `held` is the integration with it."""

    text: str
    record: KeyRecord
    held: Held[IntegrationRecord]


class Commands:
    """Changes integrations."""

    def __init__(self, registry: Registry, changes: Changes, settings: Settings, clock: Clock) -> None:
        self._registry = registry
        self._changes = changes
        self._settings = settings
        self._clock = clock
        self._budgets = Buckets(settings.max_changes, HOUR, clock)

    def charge(self, by: Caller) -> None:
        """Count a change: the log keeps each for good, so nobody but admins makes any number of them.

        Counted for an integration, or for the user for whom the bot speaks: whoever stole a key cannot use up what its
        owner needs.

        Raises:
            TooManyChanges: there were too many within an hour.
        """
        if by.role is Role.ADMIN:
            return
        wait = self._budgets.take(by.user_id or by.integration_id)
        if wait:
            most = self._settings.max_changes
            raise TooManyChanges(
                f"{most} changes an hour are allowed: wait",
                metadata={"limit": str(most)},
                retry_after=wait,
            )

    def _charged(self, by: Caller, decide: Decide) -> Decide:
        """The same decision, charged once: what is refused, or changes nothing, costs nothing."""
        paid = False

        def run(record: IntegrationRecord) -> IntegrationRecord:
            nonlocal paid
            decided = decide(record)
            if decided != record and not paid:
                self.charge(by)
                paid = True
            return decided

        return run

    def record(self, asked: Profile, state: State, now: int) -> IntegrationRecord:
        """A new record of what somebody says of an integration, without scopes and keys."""
        return IntegrationRecord(
            integration_id=keys.random_text(keys.ID_LENGTH),
            display_name=asked.display_name,
            description=asked.description,
            owner_user_id=asked.owner_user_id,
            documentation_url=asked.documentation_url,
            support_url=asked.support_url,
            endpoint_url=asked.endpoint_url,
            guild_access=convert.guild_access(asked.guild_access, self._settings.guild_access),
            create_time=now,
            update_time=now,
            state=state,
        )

    async def create(self, by: Caller, record: IntegrationRecord) -> Held[IntegrationRecord]:
        """Add an integration.

        Raises:
            DeveloperBlocked: its owner is on the blocklist.
            TooManyChanges: whoever it is for has made too many.
        """
        self._registry.require_unblocked(record.owner_user_id)
        self.charge(by)
        return await self._changes.new_integration(by, record)

    async def change(
        self, by: Caller, integration_id: str, decide: Decide, reason: str = "", etag: str = ""
    ) -> integration_pb2.Integration:
        """Change an integration by a decision; returns it as it is now."""
        charged = self._charged(by, decide)
        held = await self._changes.integration(by, integration_id, charged, reason=reason, expected_etag=etag)
        return convert.integration(held, self._registry)

    def update(self, new: integration_pb2.Integration, mask: FieldMask, allowed: Sequence[str]) -> Decide:
        """The decision to take over the fields of a mask.

        Raises:
            InvalidRequest: the mask names a field that cannot be updated; later, that the result breaks a rule.
        """
        names = masked(new, mask, allowed)

        def decide(record: IntegrationRecord) -> IntegrationRecord:
            lifecycle.require("update", record)
            merged = convert.integration(Held(record, 0), self._registry)
            for name in names:
                setattr(merged, name, getattr(new, name))
            check(merged, "integration")
            fields = {name: getattr(merged, name) for name in UPDATABLE}
            access = convert.guild_access(fields.pop("guild_access"), self._settings.guild_access)
            return replace(lifecycle.set_guild_access(record, access), **fields)

        return decide

    async def rotate(
        self, by: Caller, integration_id: str, overlap: Duration | None, reason: str = "", etag: str = ""
    ) -> NewKey:
        """Make a new key; the earlier ones end after the overlap (None: the default)."""
        minted = keys.mint(Role.INTEGRATION, self._registry.pepper, self._clock.now())
        seconds = self._settings.key_overlap if overlap is None else convert.seconds(overlap)

        def decide(record: IntegrationRecord) -> IntegrationRecord:
            lifecycle.require("rotate_key", record)
            rotated = keys.rotate(
                record.keys,
                minted.record,
                round(seconds * convert.MICROS),
                self._clock.now(),
                is_live=self._registry.is_live,
                seconds_left=self._registry.seconds_left,
                was_used=self._registry.was_used,
                max_live=self._settings.max_live_keys,
            )
            return replace(record, keys=rotated)

        charged = self._charged(by, decide)
        held = await self._changes.integration(by, integration_id, charged, reason=reason, expected_etag=etag)
        return NewKey(minted.text, minted.record, held)

    async def revoke(
        self, by: Caller, integration_id: str, key_id: str, reason: str = "", etag: str = ""
    ) -> integration_pb2.Key:
        """End a key at once. Not charged: one that leaked must end, and there are no more than were made."""
        held = await self._changes.integration(
            by,
            integration_id,
            lambda record: replace(record, keys=self.without(record.keys, key_id)),
            reason=reason,
            expected_etag=etag,
        )
        return self.key(next(key for key in held.record.keys if key.key_id == key_id))

    def without(self, held: tuple[KeyRecord, ...], key_id: str) -> tuple[KeyRecord, ...]:
        """Some keys, of which one has ended."""
        return keys.revoke(held, key_id, self._clock.now(), is_live=self._registry.is_live)

    def with_key(self, held: tuple[KeyRecord, ...], new: KeyRecord) -> tuple[KeyRecord, ...]:
        """The service keys with one more."""
        return keys.add(held, new, is_live=self._registry.is_live, max_live=self._settings.max_service_keys)

    def key(self, record: KeyRecord, text: str = "") -> integration_pb2.Key:
        """A key for a reply; with its text only in the one that made it."""
        return convert.key(record, self._registry, text)

    def previous(self, new: NewKey) -> list[integration_pb2.Key]:
        """The keys of an integration but its newest."""
        return [self.key(key) for key in new.held.record.keys if key.key_id != new.record.key_id]


def masked(new: integration_pb2.Integration, mask: FieldMask, allowed: Sequence[str]) -> list[str]:
    """The fields that an update is to change (AIP-134): those of the mask; with none those that are set; "*": all.

    Raises:
        InvalidRequest: the mask names a field that cannot be updated.
    """
    if list(mask.paths) == ["*"]:
        return list(allowed)
    if not mask.paths:
        return [name for name in allowed if getattr(new, name)]
    for path in mask.paths:
        if path not in allowed:
            raise InvalidRequest.field("update_mask", f"cannot change '{path}': name some of {', '.join(allowed)}")
    return list(mask.paths)
