"""The tasks that run while a log is open."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

import structlog

_CANCEL_AGAIN = 0.2

log = structlog.get_logger(__name__)


class BackgroundTasks:
    """The background tasks of a log, all cancelled when it closes. A failure is logged, as no caller awaits it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    async def cancel(self) -> None:
        """Cancel every task, and wait until all have ended."""
        while self._tasks:
            await cancel(self._tasks)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.remove(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task of the store failed", exc_info=error)


async def cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they end: a wait that ends at the same moment swallows a cancellation."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN)
