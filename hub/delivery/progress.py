"""The position of a stream in the log, and whether the log still has what follows."""

from hub.delivery.bounds import expired
from hub.delivery.deps import StreamDeps
from hub.delivery.sent_log import Unsaved
from hub.model import Cursor


class Progress:
    """The position of one stream.

    Attributes:
        epoch: of the log that `position` belongs to.
        position: the stream has sent everything up to it.
        time: microseconds; when the log reached `position`, or some time before.
        unsaved: what it was sent since the last save.
        accepts_any_start: the stream starts at `earliest`, and has delivered nothing yet.
    """

    __slots__ = ("_deps", "accepts_any_start", "epoch", "position", "time", "unsaved")

    def __init__(self, deps: StreamDeps, start: Cursor, *, accepts_any_start: bool) -> None:
        self._deps = deps
        self.epoch, self.position, self.time = start
        self.accepts_any_start = accepts_any_start
        self.unsaved = Unsaved()

    def move(self, cursor: Cursor) -> None:
        """Continue from another position."""
        self.epoch, self.position, self.time = cursor

    def reach(self, time: int) -> Cursor:
        """Record when the position was reached (0: unknown); returns the cursor after it."""
        self.time = time or self._known_time()
        return Cursor(self.epoch, self.position, self.time)

    def _known_time(self) -> int:
        """The newest time at which the position was certainly reached; at the end of the log that is now."""
        deps = self._deps
        at_end = self.position >= deps.feed.through and not self.is_restored
        return deps.clock.now() if at_end and deps.freshness.is_fresh() else self.time

    @property
    def is_restored(self) -> bool:
        """Whether the position predates a restore of the log."""
        return self.epoch != self._deps.feed.earliest.epoch

    @property
    def is_expired(self) -> bool:
        """Whether some of what follows the position is gone."""
        earliest = self._deps.feed.earliest
        return self.epoch != earliest.epoch or self.position < earliest.position

    @property
    def cause(self) -> str:
        """Why what follows is gone."""
        return "RESTORE" if self.is_restored else "RETENTION"

    def require_history(self, *, gaps: bool) -> None:
        """Check that the stream may continue from here; `gaps`: it accepts a Gap.

        Raises:
            CursorExpired: some of what follows is gone, and the stream accepts no Gap.
        """
        if self.is_expired and not gaps and not self.accepts_any_start:
            raise expired(self.cause)
