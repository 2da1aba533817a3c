"""Draining: counts the calls that have begun, and refuses new ones during a stop."""

import asyncio
import time

from hub.errors import Draining

QUIET_LOOKS = 10
"""gRPC is stopped once so many looks in a row have found no call: it drops those that arrive while it stops."""
LOOK = 0.005
"""Seconds between two looks. They are counted, because on a busy machine the time alone says nothing."""


class Served:
    """Counts the calls that are being served: a context manager around each.

    Attributes:
        calls: how many there are.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __enter__(self) -> None:
        self.calls += 1

    def __exit__(self, *failure: object) -> None:
        self.calls -= 1


class Drain:
    """The calls that are being served, and whether the hub accepts more.

    Attributes:
        serving: a context manager that serves a call to its end.
    """

    def __init__(self) -> None:
        self.serving = Served()
        self._draining = False
        self._arrived = 0

    def enter(self) -> None:
        """Count a call that has arrived.

        Raises:
            Draining: the hub accepts no more calls.
        """
        self._arrived += 1
        if self._draining:
            raise Draining

    def begin(self) -> None:
        """Accept no more calls."""
        self._draining = True

    async def wait(self, time_limit: float) -> None:
        """Wait until all calls have ended and no new ones arrive, for a limited time in seconds."""
        until, quiet = time.monotonic() + time_limit, 0
        while time.monotonic() < until and quiet < QUIET_LOOKS:
            arrived = self._arrived
            await asyncio.sleep(LOOK)
            is_quiet = not self.serving.calls and self._arrived == arrived
            quiet = quiet + 1 if is_quiet else 0
