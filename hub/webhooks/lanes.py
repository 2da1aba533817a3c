"""Slots for requests in flight: slow and failing endpoints cannot use those of quick ones.

Which slot a request has, and for how long. It does not know what a request is.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hub import metrics
from hub.clock import Clock
from hub.webhooks.resolver import Resolver
from hub.webhooks.schedule import QUICK, Pace

T = TypeVar("T")

Send = Callable[[Resolver], Coroutine[Any, Any, T]]
"""Sends a request; names are looked up by the resolver that it is given."""

LOOKUPS = 4
"""Look-ups for each place: a name that hangs does so for longer than its request has a place."""


class Lane:
    """Places, and a resolver of their own."""

    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.resolver = Resolver(LOOKUPS * places)


class Lanes:
    """A lane for each pace: quick endpoints have the places of the setting, the others a quarter in addition."""

    def __init__(self, places: int, clock: Clock) -> None:
        beside = max(1, places // 4)
        self._quick, self._slow = Lane(places), Lane(beside)
        self._lanes = {Pace.QUICK: self._quick, Pace.SLOW: self._slow, Pace.FAILING: Lane(beside)}
        self._clock = clock

    async def run(self, pace: Pace, send: Send[T]) -> tuple[T | None, float]:
        """Wait for a place, send, and return the result and the seconds that it took.

        A request in a quick endpoint's place that is not quick moves to a slow one's. It ends without a result (None)
        where none of those is free and its own is needed.
        """
        lane, sending = self._lanes[pace], None
        try:
            async with lane.places:
                began = self._clock.monotonic()
                sending = asyncio.create_task(send(lane.resolver))
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
