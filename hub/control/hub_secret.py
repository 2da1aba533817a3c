"""The hub's own secret: which one is in force, and how another one replaces it.

Everything that the hub signs or seals depends on it: digests of keys, cursors, page tokens. After a rotation the log
holds the earlier secrets, sealed under the new one, so that nothing that was issued earlier stops working at once.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hub.crypto import cipher, state_check
from hub.errors import StartError
from hub.model import EarlierSecret, Entry, SecretRecord
from hub.state import SECRET, SECRET_KEY

EARLIER = "earlier secrets"


class HubSecret(NamedTuple):
    """The secret in force, and the earlier ones with the times of their rotation, the newest first."""

    current: bytes
    earlier: tuple[tuple[bytes, int], ...] = ()

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"<HubSecret, {len(self.earlier)} earlier>"

    @property
    def record(self) -> SecretRecord:
        """The record that the log keeps."""
        seal = cipher(self.current, EARLIER)
        earlier = tuple(EarlierSecret(seal.encrypt(secret, None), time) for secret, time in self.earlier)
        return SecretRecord(state_check(self.current), earlier)

    def followed_by(self, secret: bytes, now: int) -> "HubSecret":
        """The secrets after a rotation to another one."""
        return HubSecret(secret, ((self.current, now), *self.earlier))


def choose(candidates: Sequence[bytes], entries: Iterable[Entry]) -> HubSecret:
    """The secret of a store: the candidate that matches its state, or the first one while there is no state.

    Raises:
        StartError: none matches.
    """
    entry = next((entry for entry in entries if entry.key == SECRET_KEY), None)
    if entry is None:
        return HubSecret(candidates[0])
    record = SECRET.decode(entry.body).record
    for secret in candidates:
        if state_check(secret) == record.check:
            seal = cipher(secret, EARLIER)
            return HubSecret(secret, tuple((seal.decrypt(one.sealed, None), one.rotate_time) for one in record.earlier))
    raise StartError(does_not_fit())


def does_not_fit() -> str:
    """The error text for a secret that is not the store's."""
    return (
        "the hub's secret does not match this store: its keys and cursors were made with another one; set HUB_SECRET "
        "to that, or unset it where the store keeps its own; to change the secret there is 'hub rotate-secret'"
    )
