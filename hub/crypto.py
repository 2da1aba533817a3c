"""What the hub does with its own secret: derive keys from it, seal text under it, and recognise it."""

import base64
import binascii
import hmac
import re
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(secret: bytes, purpose: str, length: int) -> bytes:
    """Bytes for one purpose, by HKDF (RFC 5869); they reveal neither the secret nor the bytes of other purposes."""
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=f"tickets-hub {purpose}".encode()).derive(secret)


def cipher(secret: bytes, purpose: str) -> AESSIV:
    """AES-256-SIV under a key of its own for each purpose: authenticated, and safe without a nonce."""
    return AESSIV(derive(secret, purpose, 64))


class Mac:
    """HMAC-SHA256 under one secret.

    The event loop computes one at each call. `hmac.digest` looks the hash function up every time, and releases the GIL,
    for which the loop then waits beside other threads: 70 us of a call under load. A copy of a ready state takes 6.
    """

    def __init__(self, secret: bytes) -> None:
        self._ready = HMAC(secret, SHA256())

    def digest(self, content: bytes) -> bytes:
        """The 32 bytes for some content."""
        state = self._ready.copy()
        state.update(content)
        return state.finalize()


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


class Seal:
    """Seals bytes into URL-safe base64 that only the hub can make, read or alter."""

    def __init__(self, secret: bytes, purpose: str, earlier: Iterable[bytes] = ()) -> None:
        """`earlier`: secrets that were rotated away; what was sealed under them still opens."""
        self._cipher, *self._earlier = (cipher(one, purpose) for one in (secret, *earlier))

    def seal(self, inside: bytes, *context: bytes) -> bytes:
        """ASCII text of the bytes; it opens only with the same context. Equal bytes give equal text."""
        sealed = self._cipher.encrypt(inside, list(context))
        return binascii.b2a_base64(sealed, newline=False).translate(_URL_SAFE)

    def open(self, text: str, *context: bytes) -> bytes | None:
        """The bytes in a text; None if the text was altered, or sealed under another secret, purpose or context."""
        try:
            sealed = base64.b64decode(text, altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            return None
        for one in (self._cipher, *self._earlier):
            with suppress(InvalidTag):
                return one.decrypt(sealed, list(context))
        return None


def secret_check(secret: bytes) -> bytes:
    """The digest by which a store, a backup or an export tells whether a secret is its own, without its log."""
    return hmac.digest(secret, b"tickets hub: the secret of this store", "sha256")


def state_check(secret: bytes) -> str:
    """The digest by which the state in the log tells whether a secret is its own, in hex.

    It is not `secret_check`, because it goes with the log to other stores, and existing stores hold both.
    """
    return derive(secret, "check", 16).hex()


def derived_secrets(text: str) -> list[bytes]:
    """The secrets of 32 bytes that a text of the settings may mean.

    The first is the SHA-256 of the text. 64 hexadecimal digits may also be those of a secret that a store has made, so
    that such a store can move to HUB_SECRET.
    """
    secrets = [sha256(text.encode()).digest()]
    if re.fullmatch(r"[0-9a-f]{64}", text):
        secrets.append(bytes.fromhex(text))
    return secrets
