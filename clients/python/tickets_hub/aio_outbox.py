"""Sends what an outbox holds, for the tasks of one loop; what a call carries is decided in ``outbox.py``."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from tickets_hub.failure import HubCallError
from tickets_hub.outbox import Forwarder, Outbox, OutboxError, OutboxStatus, announce, logger, prepared, warn_once
from tickets_hub.outbox_file import OutboxFile
from tickets_hub.outbox_thread import OutboxThread
from tickets_hub.session import Policy
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import BatchEmitEventsRequest, BatchEmitEventsResponse, EmitEventResponse

Result = TypeVar("Result")
Send = Callable[[BatchEmitEventsRequest], Awaitable[BatchEmitEventsResponse | HubCallError]]


class AsyncOutboxEmitter:
    """Takes events into a file, which a thread writes, and has one task send them, in order."""

    def __init__(self, settings: Outbox, send: Send, policy: Policy) -> None:
        """Open the file; `start` begins to send what it holds. `send` makes one try of a call.

        Raises:
            OutboxError: the file cannot be opened.
        """
        self._settings = settings
        self._send = send
        self._file = OutboxThread(settings, self._tell)
        self._forwarder = Forwarder.of(policy)
        self._ending: HubCallError | None = None
        self._arrived = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sender: asyncio.Task[None] | None = None

    @property
    def status(self) -> OutboxStatus:
        """The status of the outbox."""
        return OutboxStatus.of(self._file.counts, self._forwarder.failure, time.time())

    def start(self) -> None:
        """Begin to send in the running loop, unless that has begun."""
        if self._sender is None and self._ending is None:
            self._loop = asyncio.get_running_loop()
            self._sender = asyncio.create_task(self._run(), name="hub outbox")

    async def emit(self, events: Sequence[Event], *, is_list: bool = False) -> list[EmitEventResponse]:  # noqa: ARG002  as `AsyncEmitter.emit`
        """Take events; they are on disk when it returns. One that is cancelled may have taken them, too.

        Raises:
            OutboxError: there is no room, or the disk failed.
            HubCallError: the client is closed.
        """
        if self._ending is not None:
            raise self._ending.of([event.id for event in events])
        taken = [prepared(event, time.time()) for event in events]
        await self._on_file(lambda file: file.put(taken), self._arrived.set)
        return [EmitEventResponse(event_id=event.id) for event in events]

    async def finish(self, seconds: float, error: HubCallError) -> tuple[str, ...]:
        """Refuse new events, send the earlier ones for at most so many seconds, and close the file with the rest.

        Returns:
            No ids: the next client of the file finds out what became of the last call.
        """
        self._ending = error
        self._arrived.set()
        if self._sender is not None:
            await asyncio.wait([self._sender], timeout=seconds)
            self._sender.cancel()
            await asyncio.wait([self._sender])
        await asyncio.to_thread(self._file.close)
        return ()

    async def _run(self) -> None:
        """Send until there is nothing, and wait for more. Closing ends it once all is sent, or by cancelling it."""
        while True:
            self._arrived.clear()
            is_last_look = self._ending is not None  # before the look: an event may come between it and the closing
            try:
                delay = await self._step()
            except OutboxError as error:
                logger.warning("%s", error)
                delay = self._forwarder.backoff.failed()
            if delay is None:
                if is_last_look:
                    return
                await self._arrived.wait()
            elif delay:
                await asyncio.sleep(delay)

    async def _step(self) -> float | None:
        """Make a call with the oldest events. Returns the seconds to wait after it; None: there are no events."""
        batch = await self._on_file(lambda file: file.head(self._forwarder.most))
        if batch is None:
            return None
        before = self._forwarder.failure
        verdict = self._forwarder.judge(batch, await self._send(batch.request()))
        warn_once(before, self._forwarder.failure)
        await self._on_file(lambda file: file.settle(batch, verdict))
        announce(verdict.rejected, self._settings.on_rejected)
        return verdict.delay

    async def _on_file(self, work: Callable[[OutboxFile], Result], durable: Callable[[], None] | None = None) -> Result:
        """Work on the file, and wait for it. `durable` is called afterwards, also if the caller no longer waits."""
        outcome: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def done(result: Result | Exception) -> None:
            if durable is not None and not isinstance(result, Exception):
                durable()
            if outcome.done():
                return
            if isinstance(result, Exception):
                outcome.set_exception(result)
            else:
                outcome.set_result(result)

        self._file.submit(work, done)
        return await outcome

    def _tell(self, outcomes: Sequence[Callable[[], None]]) -> None:
        """In the file's thread: hand the outcomes of a transaction to the loop, all at once."""
        assert self._loop is not None, "work comes from the loop"  # noqa: S101  it narrows the type
        with suppress(RuntimeError):  # the loop has ended: nobody waits
            self._loop.call_soon_threadsafe(_tell_all, outcomes)


def _tell_all(outcomes: Sequence[Callable[[], None]]) -> None:
    for tell in outcomes:
        tell()
