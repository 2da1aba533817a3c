"""Reading the one request of a call: within a time limit, and for a limited number of calls at a time."""

import asyncio
from typing import Any

import grpc

from hub.api.limits import HalfOpenLimit
from hub.api.status import Context
from hub.config import Settings
from hub.errors import InvalidRequest, RequestTimeout
from hub.model import Caller

LESS = 10
"""One integration, or the callers without a key at one address, may have 1/LESS of the half-open calls."""


class Receiver:
    """Reads requests, and limits the calls whose request has not arrived."""

    def __init__(self, half_open: HalfOpenLimit, settings: Settings) -> None:
        self._half_open = half_open
        self._limit = TimeLimit(settings.request_timeout)
        self._most = settings.max_half_open_calls
        self._less = max(1, settings.max_half_open_calls // LESS)
        self._integration = max(self._less, settings.max_streams_per_integration)  # all at once

    async def receive(self, context: Context, address: str, caller: Caller | None) -> bytes:
        """The request of a call.

        Raises:
            TooManyCalls: too many calls of this address or key still wait for their request.
            RequestTimeout: it took too long.
            InvalidRequest: there is none, or more than one.
        """
        with self._half_open.place((address, self._most), self._holder(address, caller)), self._limit:
            return await only_message(context)

    def _holder(self, address: str, caller: Caller | None) -> tuple[str, int]:
        if caller is None:
            return f"{address} without a key", self._less
        if caller.integration_id:
            return caller.integration_id, self._integration
        return caller.key_id, self._most


class TimeLimit:
    """The time limit of a part of a call: a context manager that all calls share.

    Their times are up in the order in which they began, so one timer serves them all. With `asyncio.timeout`, which
    sets one for each, a call takes 4 % more processor time (docs/adr/0007-hot-path.md).
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadlines: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        """Begin to count, for the task that runs."""
        loop = asyncio.get_running_loop()
        self._deadlines[current_task()] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._interrupt_late)

    def __exit__(self, kind: type[BaseException] | None, *failure: object) -> None:
        """Stop counting.

        Raises:
            RequestTimeout: the time was up, and nobody else has cancelled the task.
        """
        task = current_task()
        self._deadlines.pop(task, None)
        if task in self._late:
            self._late.discard(task)
            if not task.uncancel() and kind is asyncio.CancelledError:
                raise RequestTimeout(self._seconds) from None

    def _interrupt_late(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        for task, deadline in list(self._deadlines.items()):
            if deadline > loop.time():
                self._timer = loop.call_at(deadline, self._interrupt_late)
                return
            del self._deadlines[task]
            self._late.add(task)
            task.cancel()


def current_task() -> asyncio.Task[Any]:
    """The task that runs."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("no task is running")
    return task


async def only_message(context: Context) -> bytes:
    """The one message that a client sends before it ends its side of the call."""
    message = await context.read()
    if message is grpc.aio.EOF:
        raise InvalidRequest.field("", "the call ended without a request: send one message")
    if await context.read() is not grpc.aio.EOF:
        raise InvalidRequest.field("", "the call has more than one request: send one message")
    assert isinstance(message, bytes)  # noqa: S101  no deserializer is set
    return message
