"""The keys by id: the owner of each, whether it is live, when it was last used."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from hub.clock import Clock, Expiries, rfc3339
from hub.control import keys
from hub.control.hub_secret import HubSecret
from hub.control.usage import Usage
from hub.crypto import Mac, derive
from hub.errors import KeyExpired, KeyRevoked, KeyUnknown
from hub.model import KeyRecord, Role


class KeyOwner(NamedTuple):
    """A key and the integration that it belongs to; "" for a service key."""

    integration_id: str
    key: KeyRecord


class Keyring:
    """The keys of all integrations and the service keys."""

    def __init__(self, secret: HubSecret, usage: Usage, clock: Clock) -> None:
        self._peppers = [Mac(derive(one, "keys", 32)) for one in (secret.current, *(old for old, _ in secret.earlier))]
        self._usage = usage
        self._clock = clock
        self._owners: dict[str, KeyOwner] = {}
        self._expiries = Expiries(clock)

    def mint(self, role: Role, *, expire_time: int = 0, display_name: str = "") -> keys.Minted:
        """Make a key, which is not valid until its record is stored. `expire_time`: microseconds; 0 = never."""
        now = self._clock.now()
        return keys.mint(role, self._peppers[0], now, expire_time=expire_time, display_name=display_name)

    def replace(self, integration_id: str, before: Iterable[KeyRecord], after: Iterable[KeyRecord]) -> None:
        """Replace the keys of an integration, or ("") the service keys."""
        former = {key.key_id for key in before}
        for key_id in former:
            self._owners.pop(key_id, None)
        for key in after:
            self._owners[key.key_id] = KeyOwner(integration_id, key)
            self.seconds_left(key)
        for key_id in former - self._owners.keys():
            self._expiries.forget(key_id)

    def authenticate(self, text: str) -> KeyOwner:
        """The owner of a key that was presented, in constant time; notes that the key was used.

        A key that fits under an earlier secret of the hub gets a digest under the newest one.

        Raises:
            KeyUnknown: the text is malformed, or the key is unknown.
            KeyRevoked, KeyExpired: the key is not live any more.
        """
        key_id = keys.read_id(text)
        owner = self._owners.get(key_id) if key_id else None
        stored = (owner.key.digest, self._usage.digests.get(owner.key.key_id, "")) if owner else ()
        pepper = keys.matching_pepper(text, stored, self._peppers)
        if pepper is None or owner is None:
            raise KeyUnknown
        self.require_live(owner.key.key_id)
        self._usage.note_key(owner.key.key_id)
        if pepper is not self._peppers[0]:
            self._usage.note_digest(owner.key.key_id, keys.digest(text, self._peppers[0]))
        return owner

    def owner(self, key_id: str) -> KeyOwner | None:
        """The owner of a key; None if the key is unknown or forgotten."""
        return self._owners.get(key_id)

    def require_live(self, key_id: str) -> KeyRecord:
        """The newest record of a key, which must still be live.

        Raises:
            KeyRevoked, KeyExpired: the key is no longer live.
        """
        owner = self._owners.get(key_id)
        if owner is None or owner.key.revoke_time:
            raise KeyRevoked("this key was revoked: use a newer one", metadata={"key_id": key_id})
        if not self.is_live(owner.key):
            metadata = {"key_id": key_id, "expire_time": rfc3339(owner.key.expire_time)}
            raise KeyExpired("this key has expired: use a newer one", metadata=metadata)
        return owner.key

    def is_live(self, key: KeyRecord) -> bool:
        """Whether a key is neither revoked nor expired."""
        return not key.revoke_time and self.seconds_left(key) > 0

    def seconds_left(self, key: KeyRecord) -> float:
        """Seconds until a key expires; infinite if it does not."""
        return self._expiries.seconds_left(key.key_id, key.expire_time) if key.expire_time else math.inf

    def was_used(self, key_id: str) -> bool:
        """Whether a key was ever used."""
        return key_id in self._usage.keys

    def last_use_time(self, key_id: str) -> int:
        """When a key was last used, in microseconds; 0 if never."""
        return self._usage.keys.get(key_id, 0)
