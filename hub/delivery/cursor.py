"""Cursors: a position of the log, sealed so that callers can keep it and read nothing from it.

Lives here: the seal (AES-SIV) and what is under it. Must not know whose cursor it is: it gives no right.
"""

import base64
import binascii
import itertools
import secrets
import struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from hub.control.keys import derive
from hub.errors import CursorInvalid

_INSIDE = struct.Struct(">QQQQ")
_LENGTH = 64
"""Characters of a cursor: 16 bytes of tag and 32 sealed bytes in base64."""


class Cursor(NamedTuple):
    """A place in one log: after `position`, which was reached at `time` (microseconds)."""

    epoch: int
    position: int
    time: int


class CursorSeal:
    """Seals and opens cursors under one secret.

    A counter with a random start is sealed along with each, so that no two cursors are alike, not even of one place;
    AES-SIV needs no other nonce, and the counter itself is not to be seen.
    """

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESSIV(derive(secret, "cursors", 64))
        self._counter = itertools.count(secrets.randbits(63))

    def seal(self, epoch: int, position: int, time: int) -> bytes:
        """A cursor for callers: 64 characters of ASCII, safe in URLs."""
        inside = _INSIDE.pack(next(self._counter), epoch, position, time)
        return base64.urlsafe_b64encode(self._cipher.encrypt(inside, None))

    def open(self, text: str) -> Cursor:
        """The place that a cursor stands for.

        Raises:
            CursorInvalid: it was not sealed under this secret, or was altered since.
        """
        try:
            if len(text) != _LENGTH:
                raise CursorInvalid
            inside = self._cipher.decrypt(base64.b64decode(text, altchars=b"-_", validate=True), None)
        except (ValueError, binascii.Error, InvalidTag):
            raise CursorInvalid from None
        return Cursor._make(_INSIDE.unpack(inside)[1:])
