"""The client for asyncio: ``async with AsyncClient("127.0.0.1:50051", key) as hub: ... hub.subscribe()``.

Lives here: the same as in ``sync.py`` and ``subscription.py``, with tasks for threads. What to do next is decided in
``session.py``.
"""

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Self, TypeAlias, TypeVar, Unpack

import grpc
from google.protobuf.message import Message
from tickets.hub.v1.event_pb2 import Event
from tickets.hub.v1.event_service_pb2 import (
    BatchEmitEventsRequest,
    EmitEventRequest,
    EmitEventResponse,
    SubscribeRequest,
    SubscribeResponse,
)
from tickets.hub.v1.event_service_pb2_grpc import EventServiceStub

from hub.client.failure import HubCallError
from hub.client.requests import Wanted, batches, subscribe_request, with_id
from hub.client.session import DEFAULT_POLICY, Attempts, Notice, Policy, StreamSession
from hub.client.transport import (
    CHANNEL_OPTIONS,
    Options,
    channel_credentials,
    clean_end,
    closed_error,
    failure_of,
    key_metadata,
    log_notice,
)

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)
Call: TypeAlias = "grpc.aio.UnaryStreamCall[SubscribeRequest, SubscribeResponse]"  # generic in its stubs only


class AsyncSubscription(AsyncIterator[Event]):
    """The events of one subscription, as ``Subscription`` has them, for one task; made by ``AsyncClient.subscribe``.

    Ended by ``aclose``, by ``async with``, by cancelling the task that waits for an event.
    """

    def __init__(
        self,
        open_stream: Callable[[SubscribeRequest], Call],
        session: StreamSession,
        on_notice: Callable[[Notice], None],
    ) -> None:
        self._open_stream = open_stream
        self._session = session
        self._on_notice = on_notice
        self._call: Call | None = None
        self._closed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def cursor(self) -> str:
        """After the last frame of which every event was handed over; empty before the first. See ``Subscription``."""
        return self._session.cursor

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            HubCallError: the stream ended in a way that opening it again does not mend; the subscription is closed.
            StopAsyncIteration: the subscription was closed.
        """
        try:
            while not self._closed.is_set():
                event = self._session.take()
                if event is not None:
                    return event
                await self._step()
        except BaseException:
            await self.aclose()
            raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End it now, from any task of the loop: a blocked ``async for`` ends, too. Closing again does nothing."""
        self._closed.set()
        self._end_stream()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # After a plain `break` nobody else ends the call: its own tasks keep it alive.
        call = getattr(self, "_call", None)
        if call and not self._loop.is_closed():
            call.cancel()

    async def _step(self) -> None:
        """Read one frame, or take note of the stream's end."""
        if self._call is None:
            self._call = self._open_stream(self._session.request())
        frame = await self._read(self._call)
        if isinstance(frame, HubCallError):
            await self._reconnect(frame)
            return
        notice = self._session.received(frame)
        if notice is not None:
            self._on_notice(notice)

    async def _read(self, call: Call) -> SubscribeResponse | HubCallError:
        """The next frame, or what the stream ended with."""
        now = self._loop.time()
        self._session.waiting(now)
        try:
            async with asyncio.timeout(self._session.remaining(now)):
                frame = await call.read()
            return frame if isinstance(frame, SubscribeResponse) else clean_end()
        except TimeoutError:
            return self._session.silence()
        except grpc.aio.AioRpcError as error:
            return failure_of(error)
        except asyncio.CancelledError:
            # gRPC raises this also where aclose() cancelled the call, and then nobody cancelled this task.
            task = asyncio.current_task()
            if not self._closed.is_set() or (task and task.cancelling()):
                raise
            return closed_error()

    async def _reconnect(self, failure: HubCallError) -> None:
        """Wait as long as the session says before the next stream is opened; raise what cannot be mended."""
        self._end_stream()
        if self._closed.is_set():
            return
        reconnecting = self._session.ended(failure)
        self._on_notice(reconnecting)
        await wait(self._closed, reconnecting.delay)

    def _end_stream(self) -> None:
        if self._call:
            self._call.cancel()
        self._call = None


class AsyncClient:
    """A connection to the hub with one key, for the tasks of one loop; ``async with`` closes it.

    The arguments are those of ``hub.client.Client``.
    """

    def __init__(  # noqa: PLR0913 - two are needed, the others are for those who look for them
        self,
        target: str,
        key: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        insecure: bool = False,
        options: Options = (),
        policy: Policy = DEFAULT_POLICY,
    ) -> None:
        self.metadata = key_metadata(key)
        self._policy = policy
        secured = channel_credentials(target, credentials, insecure=insecure)
        self.channel = open_channel(target, secured, (*CHANNEL_OPTIONS, *options))
        self._events = EventServiceStub(self.channel)
        self._subscriptions = weakref.WeakSet[AsyncSubscription]()
        self._closed = asyncio.Event()

    async def emit(self, event: Event) -> EmitEventResponse:
        """Have one event stored; see ``Client.emit``."""
        return await self._repeat(self._events.EmitEvent, EmitEventRequest(event=with_id(event, time.time())))

    async def emit_batch(self, events: Iterable[Event]) -> list[EmitEventResponse]:
        """Have many events stored, in this order, 1,000 a call; see ``Client.emit_batch``."""
        results: list[EmitEventResponse] = []
        for batch in batches(events, time.time):
            try:
                answer = await self._repeat(self._events.BatchEmitEvents, BatchEmitEventsRequest(events=batch))
            except HubCallError as error:
                error.results = tuple(results)
                raise
            results.extend(answer.results)
        return results

    def subscribe(
        self, *, on_notice: Callable[[Notice], None] = log_notice, **wanted: Unpack[Wanted]
    ) -> AsyncSubscription:
        """The events that this key may see, as an endless asynchronous iterator; see ``Client.subscribe``."""
        if self._closed.is_set():
            raise closed_error()
        session = StreamSession(subscribe_request(wanted), self._policy)
        subscription = AsyncSubscription(self._open_stream, session, on_notice)
        self._subscriptions.add(subscription)
        return subscription

    async def aclose(self) -> None:
        """End all subscriptions and waiting calls, and the connection."""
        self._closed.set()
        for subscription in list(self._subscriptions):
            await subscription.aclose()
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _open_stream(self, request: SubscribeRequest) -> Call:
        return self._events.Subscribe(request, metadata=self.metadata)

    async def _repeat(self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Answer]", request: Request) -> Answer:
        """Call a method that may be repeated without harm, until it succeeds or another try makes no sense."""
        clock = asyncio.get_running_loop().time
        attempts = Attempts(self._policy, clock())
        while True:
            if self._closed.is_set():
                raise closed_error()
            try:
                return await method(request, timeout=attempts.timeout(clock()), metadata=self.metadata)
            except grpc.aio.AioRpcError as error:
                failure = failure_of(error)
            await wait(self._closed, attempts.failed(failure, clock()))


async def wait(closed: asyncio.Event, seconds: float) -> None:
    """Return when the seconds are over, or at once when it closes."""
    try:
        async with asyncio.timeout(seconds):
            await closed.wait()
    except TimeoutError:
        pass


def open_channel(target: str, credentials: grpc.ChannelCredentials | None, options: Options) -> grpc.aio.Channel:
    """A channel, secured or not."""
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)
