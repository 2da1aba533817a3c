"""The timers of a stream: the next heartbeat, the end of its key, and of its pending events' wait."""

import asyncio
import math
from collections.abc import Callable

from hub.clock import Clock
from hub.delivery.linger import HEARTBEAT_SHARE, Linger
from hub.delivery.wakeup import Wakeup


class Timers:
    """Wakes a stream when a heartbeat is due, and calls back when its key ends.

    Attributes:
        heartbeat_after: seconds of silence after which a heartbeat is due.
        last_frame: when the last frame was made, by the monotonic clock.
        linger: how long pending events wait for others.
    """

    __slots__ = ("_clock", "_key_timer", "_silence_timer", "_wakeup", "heartbeat_after", "last_frame", "linger")

    def __init__(self, clock: Clock, wakeup: Wakeup, interval: float, linger: float) -> None:
        self._clock = clock
        self._wakeup = wakeup
        self.heartbeat_after = interval * HEARTBEAT_SHARE
        self.last_frame = clock.monotonic()
        self.linger = Linger(clock, wakeup, linger)
        self._silence_timer: asyncio.TimerHandle | None = None
        self._key_timer: asyncio.TimerHandle | None = None

    @property
    def is_heartbeat_due(self) -> bool:
        """Whether the stream has been silent for long enough."""
        return self._clock.monotonic() - self.last_frame >= self.heartbeat_after

    def watch_silence(self) -> None:
        """Wake the stream whenever a heartbeat is due. One timer a stream, set again only when it fires."""
        left = self.last_frame + self.heartbeat_after - self._clock.monotonic()
        if left <= 0:
            self._wakeup.wake()
            left = self.heartbeat_after
        self._silence_timer = asyncio.get_running_loop().call_later(left, self.watch_silence)

    def watch_key(self, seconds_left: float, on_end: Callable[[], None]) -> None:
        """Call `on_end` when the key ends; infinite `seconds_left`: never. Replaces the call of an earlier one."""
        if self._key_timer is not None:
            self._key_timer.cancel()
        if math.isfinite(seconds_left):
            self._key_timer = asyncio.get_running_loop().call_later(seconds_left + 0.001, on_end)

    def cancel(self) -> None:
        """Stop all of them."""
        self.linger.cancel()
        for timer in (self._silence_timer, self._key_timer):
            if timer is not None:
                timer.cancel()
