"""Periodic work of a running hub."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from hub import metrics
from hub.errors import HubError

LOOP_PERIOD = 0.1
"""Seconds between two measurements of how late the event loop is."""

log = structlog.get_logger()


async def every(seconds: float, name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Repeat housekeeping, named in logs and metrics. If the store refuses it (a full disk), the hub goes on."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except HubError as error:
            metrics.PUT_OFF.add(1, name)
            log.warning("put off", work=name, reason=error.reason())


async def watch_loop() -> None:
    """Measure how late the event loop is, for as long as the hub runs."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOP_PERIOD
        await asyncio.sleep(LOOP_PERIOD)
        metrics.LOOP_LAG.add(max(0.0, loop.time() - due))
