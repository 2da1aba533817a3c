"""The format of a store, and which hubs may read and write it: see docs/adr on store formats.

A format is a number that grows with each change of what is stored. A hub knows all formats up to its own. A newer
format may still be safe for older hubs, so a store names two levels beside its format: the oldest format that a hub
must know to read it, and the oldest that it must know to write to it.
"""

import msgspec

from hub.config import version
from hub.errors import StartError

FORMAT = 3
"""What this hub writes. 1: without checksums. 2: a checksum for each entry, and the distance to the event before it.
3: endpoints (state under endpoint/, place/ and hub/, of which the last two are compacted)."""


class Levels(msgspec.Struct, frozen=True, omit_defaults=True):
    """The format in the metadata of a store. A store without one has format 1."""

    format: int = 1
    min_reader: int = 1
    min_writer: int = 1


CURRENT = Levels(format=FORMAT, min_reader=FORMAT, min_writer=FORMAT)
"""The levels of a store that this hub makes."""


def may_write(levels: Levels) -> bool:
    """Whether this hub may write to a store."""
    return levels.min_writer <= FORMAT


def require(what: str, levels: Levels, *, to_write: bool = True) -> None:
    """Check that this hub may open a store; `what` names the store in the error.

    Raises:
        StartError: the store needs a newer hub.
    """
    needed = levels.min_writer if to_write else levels.min_reader
    if needed > FORMAT:
        raise StartError(
            f"{what} has format {levels.format} and needs a hub that knows format {needed}; this hub, version "
            f"{version()}, knows format {FORMAT}: run the hub that upgraded the store, or restore a backup"
        )
