"""A record with the position of its entry."""

from typing import Generic, NamedTuple, TypeVar

import msgspec

Record = TypeVar("Record", bound=msgspec.Struct | None)


class Versioned(NamedTuple, Generic[Record]):
    """A record, the position of its entry (0: there is none yet), and the reason that the entry gives."""

    record: Record
    position: int
    reason: str = ""
