"""The projection that a stream applies, and the fan-out group that it belongs to."""

import asyncio

from hub.delivery.fanout import FanoutGroup
from hub.delivery.feed import Feed
from hub.delivery.linger import Pending
from hub.delivery.turns import Turn
from hub.delivery.view import ProjectionSpan
from hub.delivery.wakeup import Wakeup


class Membership:
    """A stream's place in the fan-out.

    Attributes:
        projection: the one that applies after the stream's position.
        until: `projection` holds through this position.
        group: the streams of the projection that holds for good.
        changes: how often the integration has changed.
        turn: among the streams that catch up.
    """

    __slots__ = ("_feed", "_wakeup", "changes", "group", "projection", "turn", "until")

    def __init__(self, feed: Feed, wakeup: Wakeup, span: ProjectionSpan) -> None:
        self._feed = feed
        self._wakeup = wakeup
        self.turn = Turn(feed.turns, wakeup.wake)
        self.projection, self.until, final = span
        self.group = feed.join(final)
        self.changes = 0

    def refresh(self, span: ProjectionSpan) -> None:
        """Apply the newest view of the integration."""
        self.move(span)
        self.changes += 1

    def move(self, span: ProjectionSpan) -> None:
        """Apply another projection, and change the group if the projection that holds for good is another one."""
        self.projection, self.until, final = span
        if final is not self.group.projection:
            left, self.group = self.group, self._feed.join(final)
            self._leave(left)

    def wait(self) -> asyncio.Future[None]:
        """A future that is done with the group's next event, or at another wake-up of the stream."""
        self.group.waiters.add(self._wakeup.wake)
        return self._wakeup.sleep()

    def linger(self, pending: Pending) -> asyncio.Future[None]:
        """A future that is done once more events have made a full frame of the pending ones, or at another wake-up."""
        self.group.lingerers.add(self._wakeup.wake, pending)
        return self._wakeup.sleep()

    def stop_lingering(self) -> None:
        """Forget the wait for a full frame."""
        self.group.lingerers.discard(self._wakeup.wake)

    def leave(self) -> None:
        """Leave the group, for good."""
        self._leave(self.group)

    def _leave(self, group: FanoutGroup) -> None:
        group.waiters.discard(self._wakeup.wake)
        group.lingerers.discard(self._wakeup.wake)
        self._feed.leave(group)
