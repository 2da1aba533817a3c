"""The commands on service keys, the keys of bots and admins: create, rename, revoke."""

from functools import partial

from msgspec.structs import replace

from hub.clock import Clock
from hub.config import Settings
from hub.control import keys
from hub.control.registry import Registry
from hub.control.transactions import Changes, Intent
from hub.errors import RulesNotMet
from hub.model import KeyRecord, Role, ServiceRecord

LASTING_DAYS = 7
"""The last admin keys must last this long, or another one cannot be revoked."""


class ServiceKeys:
    """Changes service keys."""

    def __init__(self, registry: Registry, changes: Changes, settings: Settings, clock: Clock) -> None:
        self._registry = registry
        self._changes = changes
        self._settings = settings
        self._clock = clock

    async def create(self, intent: Intent, role: Role, display_name: str, expire_time: int = 0) -> keys.Minted:
        """Add a key; `expire_time`: microseconds, 0 = never.

        Raises:
            RulesNotMet: the limit of live keys is reached.
        """
        minted = self._registry.keyring.mint(role, expire_time=expire_time, display_name=display_name)
        await self._changes.update_service_keys(intent, partial(self._with_key, new=minted.record))
        return minted

    async def rename(self, intent: Intent, key_id: str, display_name: str | None) -> KeyRecord:
        """Give a key another name; None keeps the one that it has.

        Raises:
            KeyNotFound: there is no such service key.
        """
        if display_name is not None:
            decide = partial(_renamed, key_id=key_id, display_name=display_name)
            await self._changes.update_service_keys(intent, decide)
        return keys.find(self._registry.keys_of(""), key_id)

    async def revoke(self, intent: Intent, key_id: str) -> KeyRecord:
        """End a key at once.

        Raises:
            KeyNotFound: there is no such service key.
            RulesNotMet: no admin key that lasts would be left.
        """
        changed = await self._changes.update_service_keys(intent, partial(self._without_key, key_id=key_id))
        return keys.find(changed.record.keys, key_id)

    def _with_key(self, record: ServiceRecord, new: KeyRecord) -> ServiceRecord:
        is_live, limit = self._registry.keyring.is_live, self._settings.max_service_keys
        return replace(record, keys=keys.add(record.keys, new, is_live=is_live, max_live=limit))

    def _without_key(self, record: ServiceRecord, key_id: str) -> ServiceRecord:
        is_live = self._registry.keyring.is_live
        left = replace(record, keys=keys.revoke(record.keys, key_id, self._clock.now(), is_live=is_live))
        ends_an_admin = any(key.key_id == key_id and key.role is Role.ADMIN for key in record.keys) and left != record
        if ends_an_admin and not any(self._lasts(key) for key in left.keys):
            raise RulesNotMet(
                f"no admin key would remain that is valid for {LASTING_DAYS} days or more: create another one first",
                ["last_admin_key"],
            )
        return left

    def _lasts(self, key: KeyRecord) -> bool:
        """Whether a key is an admin key that remains valid for `LASTING_DAYS`."""
        lasting = LASTING_DAYS * 24 * 3_600
        return key.role is Role.ADMIN and not key.revoke_time and self._registry.keyring.seconds_left(key) >= lasting


def _renamed(record: ServiceRecord, key_id: str, display_name: str) -> ServiceRecord:
    return replace(record, keys=keys.rename(record.keys, key_id, display_name))
