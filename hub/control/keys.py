"""Keys: how they are made, read, checked, rotated and ended.

Lives here: the format ``tkt_<role>_<key id>_<secret><crc>`` and the rules of rotation, as functions without state. Must
not know where keys are kept, or who asks.
"""

import hmac
import re
import secrets
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec.structs import replace

from hub.errors import KeyNotFound, RotationInProgress, RulesNotMet
from hub.model import KeyRecord, Role

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 12
SECRET_LENGTH = 28  # 28 base62 characters hold 166 bits
CHECK_LENGTH = 6  # 62^6 > 2^32
REMEMBERED = 20
"""How many ended keys a holder keeps: so that their use is told from a stranger's, and the record stays small."""

_NAMES = {Role.BOT: "bot", Role.INTEGRATION: "integration", Role.ADMIN: "admin"}
_FORMAT = re.compile(
    rf"tkt_({'|'.join(_NAMES.values())})_([{ALPHABET}]{{{ID_LENGTH}}})"
    rf"_[{ALPHABET}]{{{SECRET_LENGTH}}}([{ALPHABET}]{{{CHECK_LENGTH}}})"
)


class Minted(NamedTuple):
    """A new key: what is kept of it, and the text that is shown once."""

    record: KeyRecord
    text: str


def random_text(length: int) -> str:
    """Random base62 text; each character holds 5.95 bits."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def mint(role: Role, pepper: bytes, now: int, *, expire_time: int = 0, display_name: str = "") -> Minted:
    """Make a key.

    Args:
        role: what it lets its holder be.
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
    """The CRC32 of a key's text before it, in base62: tells a typo, or a scanner's guess, without a look-up."""
    rest, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECK_LENGTH):
        rest, digit = divmod(rest, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def derive(secret: bytes, purpose: str, length: int) -> bytes:
    """Bytes for one purpose, by HKDF (RFC 5869): who learns some of them learns nothing of the secret or the others."""
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=f"tickets-hub {purpose}".encode()).derive(secret)


def read_id(text: str) -> str | None:
    """The id of a well-formed key; None where the text is none."""
    match = _FORMAT.fullmatch(text)
    if match is None or checksum(text[:-CHECK_LENGTH]) != match[3]:
        return None
    return match[2]


def digest(text: str, pepper: bytes) -> str:
    """What is stored of a key: HMAC-SHA256 under the hub's secret, in hex."""
    return hmac.digest(pepper, text.encode(), "sha256").hex()


def matches(text: str, record: KeyRecord | None, pepper: bytes) -> bool:
    """Whether `text` is the key of `record`, in constant time; an unknown key (None) takes as long."""
    stored = record.digest if record is not None else "0" * 64
    return hmac.compare_digest(digest(text, pepper), stored) and record is not None


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
        is_live: whether a key opens the hub.
        seconds_left: how long a live key lives on; asked instead of comparing times, which a stepped clock would spoil.
        was_used: whether a key, by its id, ever opened the hub.
        max_live: how many keys may live side by side.

    Raises:
        RotationInProgress: as many keys live as may, the newest of them in use.
    """
    live = [key.key_id for key in keys if is_live(key)]
    ended: set[str] = set()
    if not overlap:
        ended = set(live)
    elif live and not was_used(live[0]):
        ended = {live[0]}
    elif len(live) >= max_live:
        raise RotationInProgress(
            f'{len(live)} keys live already: wait until one ends, revoke one, or rotate with overlap "0s"',
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
        RulesNotMet: as many live as may.
    """
    live = {key.key_id for key in keys if is_live(key)}
    if len(live) >= max_live:
        raise RulesNotMet(f"{len(live)} keys live already: revoke one that is not needed", ["max_service_keys"])
    return _remembered([new, *keys], live | {new.key_id})


def _ended(key: KeyRecord, ended: set[str], now: int) -> KeyRecord:
    return replace(key, revoke_time=now) if key.key_id in ended else key


def _expiring(key: KeyRecord, shortened: set[str], at: int) -> KeyRecord:
    return replace(key, expire_time=at) if key.key_id in shortened else key


def _remembered(keys: Sequence[KeyRecord], live: set[str]) -> tuple[KeyRecord, ...]:
    """All that live and the newest of those that ended."""
    forgotten = [key.key_id for key in keys if key.key_id not in live][REMEMBERED:]
    return tuple(key for key in keys if key.key_id not in forgotten)


def revoke(
    keys: Sequence[KeyRecord], key_id: str, now: int, *, is_live: Callable[[KeyRecord], bool]
) -> tuple[KeyRecord, ...]:
    """The keys of a holder after one was taken away; revoking one that has ended changes nothing.

    Raises:
        KeyNotFound: the holder has no key with this id.
    """
    key = next((key for key in keys if key.key_id == key_id), None)
    if key is None:
        raise KeyNotFound(key_id)
    return tuple(_ended(key, {key_id} if is_live(key) else set(), now) for key in keys)
