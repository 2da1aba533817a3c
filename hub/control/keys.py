"""Keys: the format ``tkt_<role>_<key id>_<secret><crc>`` and the rules of rotation, as functions without state."""

import hmac
import re
import secrets
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from hub.crypto import Mac
from hub.errors import KeyNotFound, RotationInProgress, RulesNotMet
from hub.model import KeyRecord, Role

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 12
SECRET_LENGTH = 28  # 28 base62 characters hold 166 bits
CHECK_LENGTH = 6  # 62^6 > 2^32
_PAIRS = [high + low for high in ALPHABET for low in ALPHABET]
MAX_ENDED_KEYS = 20
"""Ended keys that a record keeps, so that their use is answered KEY_REVOKED or KEY_EXPIRED."""

_NAMES = {Role.BOT: "bot", Role.INTEGRATION: "integration", Role.ADMIN: "admin"}
_FORMAT = re.compile(
    rf"tkt_({'|'.join(_NAMES.values())})_([{ALPHABET}]{{{ID_LENGTH}}})"
    rf"_[{ALPHABET}]{{{SECRET_LENGTH}}}([{ALPHABET}]{{{CHECK_LENGTH}}})"
)


class Minted(NamedTuple):
    """A new key: its record, and its text, which is shown once."""

    record: KeyRecord
    text: str

    def __repr__(self) -> str:
        """Without the text, which a traceback would show."""
        return f"<Minted {self.record.key_id}>"


def random_text(length: int) -> str:
    """Random base62 text; each character holds 5.95 bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def mint(role: Role, pepper: Mac, now: int, *, expire_time: int = 0, display_name: str = "") -> Minted:
    """Make a key.

    Args:
        role: the role of the callers that use it.
        pepper: the hub's secret for keys; the record's digest is made under it.
        now: microseconds, becomes the time of creation.
        expire_time: microseconds; 0 = it does not expire.
        display_name: what it is for, for people.
    """
    key_id = random_text(ID_LENGTH)
    body = f"tkt_{_NAMES[role]}_{key_id}_{random_text(SECRET_LENGTH)}"
    text = body + checksum(body)
    record = KeyRecord(key_id, role, digest(text, pepper), now, expire_time, display_name=display_name)
    return Minted(record, text)


def checksum(body: str) -> str:
    """The CRC32 of the preceding text of a key, in base62: rejects a typo or a scanner's guess without a look-up."""
    rest, low = divmod(zlib.crc32(body.encode()), len(_PAIRS))
    high, middle = divmod(rest, len(_PAIRS))
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


def read_id(text: str) -> str | None:
    """The id of a well-formed key; None for any other text."""
    match = _FORMAT.fullmatch(text)
    if match is None or checksum(text[:-CHECK_LENGTH]) != match[3]:
        return None
    return match[2]


def digest(text: str, pepper: Mac) -> str:
    """The digest that is stored instead of a key: HMAC-SHA256 under the hub's secret, in hex."""
    return pepper.digest(text.encode()).hex()


def matching_pepper(text: str, stored: Sequence[str], peppers: Sequence[Mac]) -> Mac | None:
    """The pepper under which a key matches one of the stored digests; None if it matches none.

    In constant time for each number of digests; an unknown key, with no digest, takes as long as one that is wrong.
    """
    found = None
    for pepper in peppers:
        made = digest(text, pepper)
        for known in stored or ("0" * 64,):
            if hmac.compare_digest(made, known) and found is None and stored:
                found = pepper
    return found


def rotate(  # noqa: PLR0913  a rotation has this many sides
    keys: Sequence[KeyRecord],
    new: KeyRecord,
    overlap: int,
    now: int,
    *,
    is_live: Callable[[KeyRecord], bool],
    seconds_left: Callable[[KeyRecord], float],
    was_used: Callable[[str], bool],
    max_live: int,
) -> tuple[KeyRecord, ...]:
    """The keys of a holder after a rotation, the newest first.

    Args:
        keys: the keys until now, the newest first.
        new: the key that is added.
        overlap: microseconds that the earlier keys live on; 0 ends them at once. It never lengthens a key's life.
        now: microseconds.
        is_live: whether a key is valid now.
        seconds_left: how long a key remains valid; used instead of comparing times, as the wall clock may be stepped.
        was_used: whether a key, by its id, was ever used.
        max_live: how many keys may be valid at a time.

    Raises:
        RotationInProgress: the limit of live keys is reached, and the newest is in use.
    """
    live = [key.key_id for key in keys if is_live(key)]
    ended: set[str] = set()
    if not overlap:
        ended = set(live)
    elif live and not was_used(live[0]):
        ended = {live[0]}
    elif len(live) >= max_live:
        raise RotationInProgress(
            f'{len(live)} keys are live already: wait until one expires, revoke one, or rotate with overlap "0s"',
            metadata={"live_keys": ",".join(live)},
        )
    overlapping = set(live) - ended
    shortened = {key.key_id for key in keys if key.key_id in overlapping and seconds_left(key) * 1e6 > overlap}
    kept = (_ended(key, ended, now) for key in keys)
    kept = (_expiring(key, shortened, now + overlap) for key in kept)
    return _remembered([new, *kept], {new.key_id} | overlapping)


def add(
    keys: Sequence[KeyRecord], new: KeyRecord, *, is_live: Callable[[KeyRecord], bool], max_live: int
) -> tuple[KeyRecord, ...]:
    """The keys of a holder with one more, the newest first.

    Raises:
        RulesNotMet: the limit of live keys is reached.
    """
    live = {key.key_id for key in keys if is_live(key)}
    if len(live) >= max_live:
        raise RulesNotMet(f"{len(live)} keys are live already: revoke one that is not needed", ["max_service_keys"])
    return _remembered([new, *keys], live | {new.key_id})


def _ended(key: KeyRecord, ended: set[str], now: int) -> KeyRecord:
    return replace(key, revoke_time=now) if key.key_id in ended else key


def _expiring(key: KeyRecord, shortened: set[str], at: int) -> KeyRecord:
    return replace(key, expire_time=at) if key.key_id in shortened else key


def _remembered(keys: Sequence[KeyRecord], live: set[str]) -> tuple[KeyRecord, ...]:
    """All live keys, and the newest ended ones."""
    forgotten = [key.key_id for key in keys if key.key_id not in live][MAX_ENDED_KEYS:]
    return tuple(key for key in keys if key.key_id not in forgotten)


def revoke(
    keys: Sequence[KeyRecord], key_id: str, now: int, *, is_live: Callable[[KeyRecord], bool]
) -> tuple[KeyRecord, ...]:
    """The keys of a holder after one was revoked; revoking an ended key changes nothing.

    Raises:
        KeyNotFound: the holder has no key with this id.
    """
    find(keys, key_id)
    return tuple(_ended(key, {key_id} if is_live(key) else set(), now) for key in keys)


def rename(keys: Sequence[KeyRecord], key_id: str, display_name: str) -> tuple[KeyRecord, ...]:
    """The keys of a holder after one was renamed; an ended key may be renamed, too.

    Raises:
        KeyNotFound: the holder has no key with this id.
    """
    find(keys, key_id)
    return tuple(replace(key, display_name=display_name) if key.key_id == key_id else key for key in keys)


def find(keys: Sequence[KeyRecord], key_id: str) -> KeyRecord:
    """The key with this id.

    Raises:
        KeyNotFound: the holder has no such key.
    """
    for key in keys:
        if key.key_id == key_id:
            return key
    raise KeyNotFound(key_id)
