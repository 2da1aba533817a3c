"""Draining: counts the calls that have begun, and refuses new ones during a stop."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hub.errors import Draining

QUIET = 0.05
"""Seconds without a new call after which gRPC is stopped: it drops those that come while it stops."""


class Drain:
    """The calls that are being served, and whether the hub accepts more."""

    def __init__(self) -> None:
        self._draining = False
        self._inside = 0
        self._latest = 0.0

    def enter(self) -> None:
        """Count a call that has arrived.

        Raises:
            Draining: the hub accepts no more calls.
        """
        self._latest = time.monotonic()
        if self._draining:
            raise Draining

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve a call to its end."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def begin(self) -> None:
        """Accept no more calls."""
        self._draining = True

    async def wait(self, time_limit: float) -> None:
        """Wait until all calls have ended and no new ones arrive, for a limited time in seconds."""
        until = time.monotonic() + time_limit
        while time.monotonic() < until and (self._inside or time.monotonic() - self._latest < QUIET):  # noqa: ASYNC110  calls come and end one by one
            await asyncio.sleep(QUIET / 5)
