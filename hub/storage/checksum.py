"""The checksum of an entry: CRC32C over all of its fields, so that a flipped bit is never delivered.

It also covers the distance to the newest event before the entry, so that a reader notices an event that is missing
without a trace. CRC32C finds every single flipped bit and every burst of up to 32 bits.
"""

import struct

import google_crc32c

from hub.model import Entry

_NUMBERS = struct.Struct(">7q")
_crc32c = google_crc32c.value
_pack = _NUMBERS.pack


def checksum(entry: Entry, distance: int) -> int:
    """The checksum of an entry at its position, from -2^31 on: SQLite stores a signed number in four bytes.

    Args:
        entry: with its position.
        distance: how many positions before it the newest event before it lies; its own position if there is none.

    Raises:
        OverflowError: a number of the entry does not fit into 64 bits.
    """
    key = entry.key.encode()
    return checksum_of(
        int(entry.kind),
        entry.time,
        entry.body,
        key,
        entry.id.encode(),
        entry.event_type,
        entry.guild_id,
        entry.position,
        distance,
    )


def checksum_of(  # noqa: PLR0913  the columns of an entry; called once for each entry that is read
    kind: int,
    time: int,
    body: bytes,
    key: bytes,
    id_: bytes,
    event_type: int,
    guild_id: int,
    position: int,
    distance: int,
) -> int:
    """The checksum of an entry from its stored fields."""
    try:
        numbers = _pack(position, kind, time, event_type, guild_id, distance, len(key))
    except struct.error as error:
        raise OverflowError(str(error)) from None
    found: int = _crc32c(b"".join((numbers, key, id_, body)))
    return found - 0x1_0000_0000 if found & 0x8000_0000 else found
