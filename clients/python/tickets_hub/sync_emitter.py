"""Sends events for the threads of a client; the order and what a call carries are decided in ``outgoing.py``."""

import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from tickets_hub.failure import HubCallError
from tickets_hub.outgoing import Answer, Call, Outgoing, Parcel
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import (
    BatchEmitEventsRequest,
    BatchEmitEventsResponse,
    EmitEventRequest,
    EmitEventResponse,
)

Send = Callable[[EmitEventRequest | BatchEmitEventsRequest], EmitEventResponse | BatchEmitEventsResponse]


class Emitter:
    """Makes one call at a time: a lone event goes from its caller's thread, what comes meanwhile shares the next call.

    The thread for shared calls begins with the first of them, and ends with `finish`.
    """

    def __init__(self, send: Send, clock: Callable[[], float], patience: float) -> None:
        """`send` makes a call, with its repetitions; `patience`: seconds of `clock` that they take at most."""
        self._send = send
        self._clock = clock
        self._patience = patience
        self._line = Outgoing()
        self._changed = threading.Condition()
        self._shared = SimpleQueue[Call | None]()
        self._sender: threading.Thread | None = None

    def emit(self, events: Sequence[Event], *, is_list: bool = False) -> list[EmitEventResponse]:
        """Store the events of one caller, after all earlier ones.

        Raises:
            HubCallError: they were refused, or the time was over.
        """
        done = threading.Event()
        parcel = Parcel(events, done.set, since=self._clock(), is_list=is_list)
        with self._changed:
            call = self._line.enter(parcel)
        if call is not None:
            try:
                self._make(call)
            finally:
                self._go_on()
        else:
            try:
                done.wait()
            except BaseException:  # an interrupt: the event goes no more where it was not sent
                with self._changed:
                    self._line.withdraw(parcel)
                raise
        return parcel.outcome()

    def finish(self, seconds: float, error: HubCallError) -> tuple[str, ...]:
        """Refuse new events, wait at most so many seconds until the earlier ones are sent, and fail the rest.

        Returns:
            The ids of the events of the call that is still under way: whether they are stored is not known.
        """
        with self._changed:
            self._line.end(error)
            if not self._changed.wait_for(lambda: self._line.is_idle, seconds):
                self._line.drop(error)
            self._shared.put(None)
            return self._line.unknown

    def _make(self, call: Call) -> None:
        answer: Answer
        try:
            answer = self._send(call.request)
        except HubCallError as error:
            answer = error
        with self._changed:
            self._line.settle(call, answer)
            if isinstance(answer, HubCallError) and answer.mends_by_repeating():
                self._line.expire(self._clock() - self._patience, answer)

    def _next_call(self) -> Call | None:
        with self._changed:
            call = self._line.next_call()
            if call is None:
                self._changed.notify_all()
            return call

    def _go_on(self) -> None:
        call = self._next_call()
        if call is None:
            return
        if self._sender is None:
            self._sender = threading.Thread(target=self._run, name="hub emitter", daemon=True)
            self._sender.start()
        self._shared.put(call)

    def _run(self) -> None:
        while (call := self._shared.get()) is not None:
            try:
                while call is not None:
                    self._make(call)
                    time.sleep(0)  # callers that got their answer may emit again, into the next call
                    call = self._next_call()
            except BaseException as error:
                with self._changed:
                    self._sender = None
                    self._line.give_up(HubCallError("UNKNOWN", "", f"the client could not send it: {error!r}"))
                    self._changed.notify_all()
                raise
