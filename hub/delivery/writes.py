"""The writes of a stream's handler: the current one, and the batch size that the reader keeps up with."""

import asyncio
from collections.abc import Callable

from hub.errors import HubError
from hub.model import Cursor

SLOW_WRITE = 1.0
"""Seconds: a write that takes longer halves the next frame."""

OnStall = Callable[[HubError], asyncio.Future[None] | None]
"""Drops a stream, with this failure, when a write takes too long. Returns a future that is done when nothing of the
stream is left, which may be as late as the end of its reader's connection. None: it is being dropped already."""


class Writes:
    """The writes of one stream, one after the other.

    Attributes:
        began: when the handler began the current write, by the monotonic clock; 0 = there is none.
        cursor: the cursor of the frame that was made last.
        delivered: the cursor of the last frame that the transport took.
        batch_limit: the maximum number of events in the next frame.
        dropped_for: the reason for which the stream was dropped in the middle of a write.
    """

    __slots__ = ("_max_batch", "_on_stall", "batch_limit", "began", "cursor", "delivered", "dropped_for")

    def __init__(self, start: Cursor, max_batch: int, on_stall: OnStall) -> None:
        self.began = 0.0
        self.cursor = self.delivered = start
        self.batch_limit = self._max_batch = max_batch
        self.dropped_for = ""
        self._on_stall = on_stall

    def begin(self, now: float) -> None:
        """Note that the handler begins to write the frame that was made last."""
        self.began = now

    def finish(self, now: float) -> None:
        """Note that the transport took the frame. Slow readers get smaller frames, quick ones full ones again."""
        seconds, self.began = now - self.began, 0.0
        self.delivered = self.cursor
        if seconds > SLOW_WRITE:
            self.batch_limit = max(1, self.batch_limit // 2)
        elif self.batch_limit < self._max_batch:
            self.batch_limit = min(self._max_batch, self.batch_limit * 2)

    def drop(self, failure: HubError) -> asyncio.Future[None] | None:
        """Drop the stream in the middle of a write; see `OnStall`."""
        self.dropped_for = self.dropped_for or failure.reason()
        return self._on_stall(failure)
