"""The damaged entries found since the log was opened: counted, logged once, and fatal if they are state."""

import structlog

MAX_COUNTED = 10_000
"""Damaged entries that are counted and logged; further ones are neither."""

log = structlog.get_logger(__name__)


class DamageRecord:
    """The damage that was found so far.

    Attributes:
        is_unsafe: whether an entry of state is damaged. It may be a revocation, so nothing may be served.
        unsafe_at: the position of the first such entry; 0: none, or unknown.
    """

    def __init__(self) -> None:
        self.is_unsafe = False
        self.unsafe_at = 0
        self._positions: set[int] = set()

    @property
    def count(self) -> int:
        """How many damaged entries were found."""
        return len(self._positions)

    def add(self, position: int, *, is_state: bool) -> None:
        """Record a damaged entry; `is_state`: it is, or may be, one of state."""
        if is_state and not self.is_unsafe:
            self.is_unsafe, self.unsafe_at = True, position
            log.error("the store is damaged: nothing is served until it is restored", position=position)
        elif position not in self._positions and self.count < MAX_COUNTED:
            log.error("an event is damaged", position=position)
        if self.count < MAX_COUNTED:
            self._positions.add(position)
