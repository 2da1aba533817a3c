"""The seal of cursors (AES-SIV): callers can keep a cursor and return it, but neither read nor alter it.

A cursor grants no rights, and does not name its owner.
"""

import itertools
import secrets
import struct
from collections.abc import Iterable

from hub.crypto import Seal
from hub.errors import CursorInvalid
from hub.model import Cursor

_INSIDE = struct.Struct(">QQQQ")
_LENGTH = 64
"""Characters of a cursor: 16 bytes of tag and 32 sealed bytes in base64."""


class CursorSeal:
    """Seals and opens cursors under one secret.

    Each text includes a counter with a random start, so that no two are equal, even for one position. AES-SIV needs no
    other nonce, and the counter is sealed, too.
    """

    def __init__(self, secret: bytes, earlier: Iterable[bytes] = ()) -> None:
        """`earlier`: secrets from before a rotation, whose cursors are still accepted."""
        self._seal = Seal(secret, "cursors", earlier)
        self._first = secrets.randbits(63)
        self._counter = itertools.count(self._first)

    def seal(self, cursor: Cursor) -> bytes:
        """A cursor for callers: 64 characters of ASCII, safe in URLs."""
        return self._seal.seal(_INSIDE.pack(next(self._counter), *cursor))

    def next_number(self) -> int:
        """A number that is greater than those of all texts until now, and less than those of all that follow."""
        return next(self._counter)

    def number(self, text: str) -> int | None:
        """The number of a text that this process sealed; None for one that another process sealed."""
        inside = self._seal.open(text)
        number = int(_INSIDE.unpack(inside)[0]) if inside is not None else 0
        return number if self._first <= number < self.next_number() else None

    def open(self, text: str) -> Cursor:
        """The cursor in a text that `seal` made.

        Raises:
            CursorInvalid: it was not sealed under this secret, or was altered since.
        """
        inside = self._seal.open(text) if len(text) == _LENGTH else None
        if inside is None:
            raise CursorInvalid
        return Cursor._make(_INSIDE.unpack(inside)[1:])
