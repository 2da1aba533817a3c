"""Forms of text: as it is stored, as it is compared, and as it is safe to print on a terminal."""

import re
import unicodedata

_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060\u3164\ufe00-\ufe0f\uffa0]"
)
"""Invisible characters that texts may contain; comparisons ignore them."""


def nfc(text: str) -> str:
    """The text in Unicode's form NFC: one spelling for what looks the same."""
    return unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """The text as searches compare it: without case, compatibility forms and invisible characters."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).casefold())


_JOINERS = "\u200c\u200d"


def escaped(text: str) -> str:
    """The text as one line without control characters: what cannot be printed is escaped as in Python."""
    return "".join(one if one.isprintable() or one in _JOINERS else ascii(one)[1:-1] for one in text)
