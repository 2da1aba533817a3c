"""The files of the pages: read once, at the start, and served from memory."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "static"

KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
KINDS |= {"json": "application/json", "atom": "application/atom+xml"}
"""Content types by file extension."""


class Asset(NamedTuple):
    """A file: its content, its content type, and a tag that changes with the content."""

    body: bytes
    kind: str
    tag: str


def asset(body: bytes, name: str) -> Asset:
    """An asset with some content."""
    return Asset(body, KINDS[name.rpartition(".")[2]], tag_of(body))


def tag_of(body: bytes) -> str:
    """A tag that changes with the content."""
    return sha256(body).hexdigest()[:16]


def read_assets(names: Iterable[str]) -> dict[str, Asset]:
    """Read files, by name. Style sheets begin with the part that all pages share. Blocks."""
    shared = (FOLDER / "base.css").read_bytes()
    return {
        name: asset((shared if name.endswith(".css") else b"") + (FOLDER / name).read_bytes(), name) for name in names
    }
