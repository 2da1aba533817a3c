"""Slots for requests in flight: slow and failing endpoints cannot use those of quick ones.

Which slot a request has, and for how long. It does not know what a request is.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from hub import metrics
from hub.clock import Clock
from hub.webhooks.schedule import QUICK, Pace

T = TypeVar("T")

Send = Callable[[ThreadPoolExecutor], Coroutine[Any, Any, T]]
"""Sends a request; names are looked up by the threads that it is given."""


class Lane:
    """Places, and as many threads that look names up: a resolver that hangs takes no more of them than its requests."""

    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.lookups = ThreadPoolExecutor(places, thread_name_prefix="webhook-dns")


class Lanes:
    """A lane for each pace: quick endpoints have the places of the setting, the others a quarter in addition."""

    def __init__(self, places: int, clock: Clock) -> None:
        beside = max(1, places // 4)
        self._quick, self._slow = Lane(places), Lane(beside)
        self._lanes = {Pace.QUICK: self._quick, Pace.SLOW: self._slow, Pace.FAILING: Lane(beside)}
        self._clock = clock

    def close(self) -> None:
        """End the threads."""
        for lane in self._lanes.values():
            lane.lookups.shutdown(wait=False, cancel_futures=True)

    async def run(self, pace: Pace, send: Send[T]) -> tuple[T | None, float]:
        """Wait for a place, send, and return the result and the seconds that it took.

        A request in a quick endpoint's place that is not quick moves to a slow one's. It ends without a result (None)
        where none of those is free and its own is needed.
        """
        lane, sending = self._lanes[pace], None
        try:
            async with lane.places:
                began = self._clock.monotonic()
                sending = asyncio.create_task(send(lane.lookups))
                await (self._while_quick(sending) if pace is Pace.QUICK else asyncio.wait({sending}))
            if not sending.done() and not self._slow.places.locked():
                async with self._slow.places:
                    await asyncio.wait({sending})
            return sending.result() if sending.done() else None, self._clock.monotonic() - began
        finally:
            if sending is not None:
                sending.cancel()

    async def _while_quick(self, sending: asyncio.Task[T]) -> None:
        """Wait until a request has ended, or must leave its place."""
        metrics.LIMIT_USED.add(1, "webhook_requests")
        try:
            while True:
                await asyncio.wait({sending}, timeout=QUICK)
                if sending.done() or self._quick.places.locked() or not self._slow.places.locked():
                    return
        finally:
            metrics.LIMIT_USED.add(-1, "webhook_requests")
