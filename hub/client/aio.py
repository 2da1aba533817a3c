"""The client for asyncio: ``async with AsyncClient("127.0.0.1:50051", key) as hub: ... hub.subscribe()``.

Lives here: the same as in ``sync.py``, with tasks for threads. What to do next is decided in ``session.py``.
"""

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message
from tickets.hub.v1.event_pb2 import Event
from tickets.hub.v1.event_service_pb2 import (
    BatchEmitEventsRequest,
    CommitCursorRequest,
    CommitCursorResponse,
    EmitEventRequest,
    EmitEventResponse,
)
from tickets.hub.v1.event_service_pb2_grpc import EventServiceStub

from hub.client.aio_subscription import AsyncAccess, AsyncCommitter, AsyncSubscription, wait
from hub.client.failure import HubCallError
from hub.client.requests import Wanted, batches, subscribe_request, with_id
from hub.client.session import DEFAULT_POLICY, Attempts, Notice, Policy, StreamSession
from hub.client.transport import (
    LAST_COMMITS,
    Options,
    channel_credentials,
    channel_options,
    closed_error,
    failure_of,
    key_metadata,
    log_notice,
)

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)


class AsyncClient:
    """A connection to the hub with one key, for the tasks of one loop; ``async with`` closes it.

    The arguments are those of ``hub.client.Client``.
    """

    def __init__(  # noqa: PLR0913  two are needed, the others are for those who look for them
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
        self.channel = open_channel(target, secured, channel_options(options))
        self._events = EventServiceStub(self.channel)
        self._subscriptions = weakref.WeakSet[AsyncSubscription]()
        self._access = AsyncAccess(self._events, self.metadata)
        self._committing = set[asyncio.Task[None]]()
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

    async def commit(self, cursor: str, *, subscription_id: str = "", force: bool = False) -> CommitCursorResponse:
        """Have the hub keep a place for a subscription; see ``Client.commit``."""
        request = CommitCursorRequest(cursor=cursor, subscription_id=subscription_id, force=force)
        return await self._repeat(self._events.CommitCursor, request)

    def subscribe(
        self,
        *,
        on_notice: Callable[[Notice], None] = log_notice,
        auto_commit: bool = False,
        **wanted: Unpack[Wanted],
    ) -> AsyncSubscription:
        """The events that this key may see, as an endless asynchronous iterator; see ``Client.subscribe``."""
        if self._closed.is_set():
            raise closed_error()
        request = subscribe_request(wanted)
        committer = AsyncCommitter(self._access, request.subscription_id, self._policy) if auto_commit else None
        subscription = AsyncSubscription(self._access, StreamSession(request, self._policy), on_notice, committer)
        self._subscriptions.add(subscription)
        if committer:
            self._committing.add(committer.task)
            committer.task.add_done_callback(self._committing.discard)
        return subscription

    async def aclose(self) -> None:
        """End all subscriptions and waiting calls, and the connection; last commits have two seconds to get through."""
        self._closed.set()
        for subscription in list(self._subscriptions):
            await subscription.aclose()
        if self._committing:
            _, late = await asyncio.wait(self._committing, timeout=LAST_COMMITS)
            for task in late:
                task.cancel()
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

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


def open_channel(target: str, credentials: grpc.ChannelCredentials | None, options: Options) -> grpc.aio.Channel:
    """A channel, secured or not."""
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)
