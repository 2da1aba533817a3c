"""File descriptors: each connection takes one, and the hub needs some itself; without a free one, connections hang."""

import asyncio
import os
import resource
from contextlib import suppress

import structlog

from hub.config import Settings

RESERVE = 64
"""Descriptors that connections never get: for the store, NATS, certificates that are read again."""

MOST = 2**30
"""Practically no limit; with the largest integer gRPC's core ends the process."""

OPEN_MAX = 10_240
"""What macOS accepts where its hard limit is "unlimited"; see its setrlimit(2)."""

PERIOD = 1.0
"""Seconds between two checks of how many are in use."""

log = structlog.get_logger()


def limit() -> int:
    """How many descriptors this process may have; the system's soft limit is raised, if possible to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, max(soft, OPEN_MAX)):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted if 0 <= wanted < MOST else MOST
    return soft


def lowest_free() -> int:
    """The number of the next descriptor, which is about how many are in use; the limit if none is left."""
    try:
        descriptor = os.dup(0)
    except OSError:
        return limit()
    os.close(descriptor)
    return descriptor


class Connections:
    """The limit of connections.

    Attributes:
        most: the limit; gRPC closes further connections at once, which would otherwise hang.
    """

    def __init__(self, settings: Settings) -> None:
        self._limit = limit()
        self._wanted = settings.max_streams + settings.max_open_calls + RESERVE
        self.most = max(1, self._limit - RESERVE - lowest_free())
        self._is_full = False

    @property
    def option(self) -> tuple[str, int]:
        """The option of gRPC's core."""
        return "grpc.max_allowed_incoming_connections", self.most

    def warn(self) -> None:
        """Log a warning if the system allows fewer descriptors than the settings allow streams."""
        if self._limit < self._wanted:
            log.warning("few file descriptors", limit=self._limit, connections=self.most, wanted=self._wanted)

    async def watch(self) -> None:
        """Log when the last free connection is taken and when there is room again, for as long as the hub runs."""
        full = self._limit - RESERVE
        while True:
            used = lowest_free()
            if self._is_full and used < full * 0.9:
                self._is_full = False
                log.info("there is room for connections again", used=used, limit=self._limit)
            elif not self._is_full and used >= full:
                self._is_full = True
                log.error("no room for connections: new ones are closed", used=used, limit=self._limit)
            await asyncio.sleep(PERIOD)
