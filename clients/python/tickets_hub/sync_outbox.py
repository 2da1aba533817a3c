"""Sends what an outbox holds, for the threads of a client; what a call carries is decided in ``outbox.py``."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from tickets_hub.failure import HubCallError
from tickets_hub.outbox import Forwarder, Outbox, OutboxError, OutboxStatus, announce, logger, prepared, warn_once
from tickets_hub.outbox_file import OutboxFile
from tickets_hub.outbox_thread import OutboxThread
from tickets_hub.session import Policy
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import BatchEmitEventsRequest, BatchEmitEventsResponse, EmitEventResponse

Result = TypeVar("Result")
Send = Callable[[BatchEmitEventsRequest], BatchEmitEventsResponse | HubCallError]

LAST_CALL = 2.0
"""Seconds that closing waits for the thread whose call was just cut off."""


class OutboxEmitter:
    """Takes events into a file, and has one thread send them, in order."""

    def __init__(self, settings: Outbox, send: Send, policy: Policy) -> None:
        """Open the file, and begin to send what it holds; `send` makes one try of a call.

        Raises:
            OutboxError: the file cannot be opened.
        """
        self._settings = settings
        self._send = send
        self._file = OutboxThread(settings, _tell)
        self._forwarder = Forwarder.of(policy)
        self._ending: HubCallError | None = None
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._sender = threading.Thread(target=self._run, name="hub outbox", daemon=True)
        self._sender.start()

    @property
    def status(self) -> OutboxStatus:
        """The status of the outbox."""
        return OutboxStatus.of(self._file.counts, self._forwarder.failure, time.time())

    def emit(self, events: Sequence[Event], *, is_list: bool = False) -> list[EmitEventResponse]:  # noqa: ARG002  as `Emitter.emit`
        """Take events; they are on disk when it returns.

        Raises:
            OutboxError: there is no room, or the disk failed.
            HubCallError: the client is closed.
        """
        if self._ending is not None:
            raise self._ending.of([event.id for event in events])
        taken = [prepared(event, time.time()) for event in events]
        self._on_file(lambda file: file.put(taken), self._arrived.set)
        return [EmitEventResponse(event_id=event.id) for event in events]

    def finish(self, seconds: float, error: HubCallError) -> tuple[str, ...]:
        """Refuse new events, and send the earlier ones for at most so many seconds; the rest stays in the file.

        Returns:
            No ids: the next client of the file finds out what became of the last call.
        """
        self._ending = error
        self._arrived.set()
        self._sender.join(seconds)
        self._stopping.set()
        return ()

    def stop(self) -> None:
        """Close the file, once calls are cut off."""
        self._sender.join(LAST_CALL)
        self._file.close()

    def _run(self) -> None:
        """Send until there is nothing, and wait for more. Closing ends it once all is sent, or the time is over."""
        while not self._stopping.is_set():
            self._arrived.clear()
            is_last_look = self._ending is not None  # before the look: an event may come between it and the closing
            try:
                delay = self._step()
            except OutboxError as error:
                logger.warning("%s", error)
                delay = self._forwarder.backoff.failed()
            if delay is None:
                if is_last_look:
                    return
                self._arrived.wait()
            elif delay:
                self._stopping.wait(delay)

    def _step(self) -> float | None:
        """Make a call with the oldest events. Returns the seconds to wait after it; None: there are no events."""
        batch = self._on_file(lambda file: file.head(self._forwarder.most))
        if batch is None:
            return None
        before = self._forwarder.failure
        verdict = self._forwarder.judge(batch, self._send(batch.request()))
        warn_once(before, self._forwarder.failure)
        self._on_file(lambda file: file.settle(batch, verdict))
        announce(verdict.rejected, self._settings.on_rejected)
        return verdict.delay

    def _on_file(self, work: Callable[[OutboxFile], Result], durable: Callable[[], None] | None = None) -> Result:
        """Work on the file, and wait for it. `durable` is called afterwards, also if the caller no longer waits."""
        outcome: Future[Result] = Future()

        def done(result: Result | Exception) -> None:
            if isinstance(result, Exception):
                outcome.set_exception(result)
                return
            if durable is not None:
                durable()
            outcome.set_result(result)

        self._file.submit(work, done)
        return outcome.result()


def _tell(outcomes: Sequence[Callable[[], None]]) -> None:
    for tell in outcomes:
        tell()
