"""The blocklist of developers, as of the last entry applied."""

from bisect import bisect_left, bisect_right, insort

from hub.control.versioned import Versioned
from hub.errors import DeveloperBlocked
from hub.model import BlockRecord, Entry
from hub.state import BLOCK


class Blocklist:
    """The developers who are, or were, blocked."""

    def __init__(self) -> None:
        self._records: dict[str, Versioned[BlockRecord]] = {}
        self._blocked: list[str] = []

    def apply(self, entry: Entry) -> str:
        """Apply an entry; returns the user that it is about."""
        record = BLOCK.decode(entry.body).record
        was_blocked = self.is_blocked(record.user_id)
        self._records[record.user_id] = Versioned(record, entry.position)
        if record.blocked and not was_blocked:
            insort(self._blocked, record.user_id)
        elif was_blocked and not record.blocked:
            del self._blocked[bisect_left(self._blocked, record.user_id)]
        return record.user_id

    def last_record(self, user_id: str) -> BlockRecord | None:
        """The newest block of a user, also one that has ended; None if there was none."""
        versioned = self._records.get(user_id)
        return versioned.record if versioned is not None else None

    def position(self, user_id: str) -> int:
        """The position of the newest entry about a user; 0 if there is none."""
        versioned = self._records.get(user_id)
        return versioned.position if versioned is not None else 0

    def block_of(self, user_id: str) -> BlockRecord | None:
        """The block of a user; None if the user is not blocked."""
        record = self.last_record(user_id)
        return record if record is not None and record.blocked else None

    def is_blocked(self, user_id: str) -> bool:
        """Whether a user is blocked."""
        return self.block_of(user_id) is not None

    def unblock_time(self, user_id: str) -> int:
        """When the block of a user ended, in microseconds; 0 if there was none or it has not ended."""
        record = self.last_record(user_id)
        return record.block_time if record is not None and not record.blocked else 0

    def after(self, user_id: str | None, limit: int) -> list[str]:
        """Up to `limit` ids of blocked users, in order, after one of them (None: from the first)."""
        start = bisect_right(self._blocked, user_id) if user_id else 0
        return self._blocked[start : start + limit]

    def require_unblocked(self, user_id: str, *, say_why: bool = True) -> None:
        """Check that a developer is not blocked; `say_why`: name the reason, for the developer alone.

        Raises:
            DeveloperBlocked: the developer is blocked.
        """
        block = self.block_of(user_id)
        if block is not None:
            raise DeveloperBlocked(block.source, block.reason) if say_why else DeveloperBlocked
