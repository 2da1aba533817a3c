"""Sends events for the tasks of one loop; the order and what a call carries are decided in ``outgoing.py``."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tickets_hub.failure import HubCallError
from tickets_hub.outgoing import Answer, Call, Outgoing, Parcel
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import (
    BatchEmitEventsRequest,
    BatchEmitEventsResponse,
    EmitEventRequest,
    EmitEventResponse,
)

Send = Callable[[EmitEventRequest | BatchEmitEventsRequest], Awaitable[EmitEventResponse | BatchEmitEventsResponse]]


class AsyncEmitter:
    """Makes one call at a time: a lone event goes from its caller's task, what comes meanwhile shares the next call."""

    def __init__(self, send: Send, patience: float) -> None:
        """`send` makes a call, with its repetitions; `patience`: seconds that they take at most."""
        self._send = send
        self._patience = patience
        self._line = Outgoing()
        self._idle = asyncio.Event()
        self._idle.set()
        self._sender: asyncio.Task[None] | None = None

    async def emit(self, events: Sequence[Event], *, is_list: bool = False) -> list[EmitEventResponse]:
        """Store the events of one caller, after all earlier ones.

        Raises:
            HubCallError: they were refused, or the time was over.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        parcel = Parcel(events, lambda: _end(done), since=loop.time(), is_list=is_list)
        call = self._line.enter(parcel)
        self._idle.clear()
        if call is not None:
            try:
                await self._make(call)
            finally:
                self._go_on()
        else:
            try:
                await done
            except asyncio.CancelledError:
                self._line.withdraw(parcel)
                raise
        return parcel.outcome()

    async def finish(self, seconds: float, error: HubCallError) -> tuple[str, ...]:
        """Refuse new events, wait at most so many seconds until the earlier ones are sent, and fail the rest.

        Returns:
            The ids of the events of the call that is still under way: whether they are stored is not known.
        """
        self._line.end(error)
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            self._line.drop(error)
        return self._line.unknown

    async def _make(self, call: Call) -> None:
        answer: Answer
        try:
            answer = await self._send(call.request)
        except HubCallError as error:
            answer = error
        self._line.settle(call, answer)
        if isinstance(answer, HubCallError) and answer.mends_by_repeating():
            self._line.expire(asyncio.get_running_loop().time() - self._patience, answer)

    def _go_on(self) -> None:
        call = self._line.next_call()
        if call is None:
            self._idle.set()
        else:
            self._sender = asyncio.create_task(self._run(call), name="hub emitter")

    async def _run(self, call: Call) -> None:
        """Make calls until nothing waits."""
        following: Call | None = call
        try:
            while following is not None:
                await self._make(following)
                await asyncio.sleep(0)  # callers that got their answer may emit again, into the next call
                following = self._line.next_call()
        except BaseException as error:
            self._line.give_up(HubCallError("UNKNOWN", "", f"the client could not send it: {error!r}"))
            raise
        finally:
            self._idle.set()


def _end(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
