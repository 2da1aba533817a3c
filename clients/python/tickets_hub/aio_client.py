"""The client for asyncio: ``async with AsyncClient("127.0.0.1:50051", key) as hub: ... hub.subscribe()``.

The asyncio twin of ``sync_client.py``; ``session.py`` decides what to do next.
"""

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import NamedTuple, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from tickets_hub.aio_emitter import AsyncEmitter
from tickets_hub.aio_outbox import AsyncOutboxEmitter
from tickets_hub.aio_subscription import AsyncAccess, AsyncCommitter, AsyncSubscription, Handler, wait
from tickets_hub.aio_turns import Turns
from tickets_hub.failure import HubCallError
from tickets_hub.key import ClientKey, KeyMetadata
from tickets_hub.outbox import Outbox, OutboxStatus, settings_of
from tickets_hub.requests import SubscribeOptions, batches, rotate_request, subscribe_request, with_id
from tickets_hub.session import DEFAULT_POLICY, Attempts, Notice, Policy, StreamSession
from tickets_hub.transport import (
    LAST_COMMITS,
    LAST_EMITS,
    Options,
    channel_credentials,
    channel_options,
    closed_error,
    failure_of,
    log_erased,
    log_notice,
    log_unknown,
)
from tickets_hub.v1.developer_service_pb2_grpc import DeveloperServiceStub
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import (
    BatchEmitEventsRequest,
    BatchEmitEventsResponse,
    CommitCursorRequest,
    CommitCursorResponse,
    EmitEventRequest,
    EmitEventResponse,
    Erased,
)
from tickets_hub.v1.event_service_pb2_grpc import EventServiceStub

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)


class AsyncClient:
    """A connection to the hub with one key, for the tasks of one loop; ``async with`` closes it.

    It may be made before there is a loop: the channel opens at the first use, and belongs to the loop of that moment.
    The arguments are those of ``tickets_hub.Client``. With an outbox the file is opened at once, and what it
    holds is sent from ``async with`` or the first call on.
    """

    def __init__(  # noqa: PLR0913  two are required, the others have defaults
        self,
        target: str,
        key: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        insecure: bool = False,
        proxy: str | None = None,
        options: Options = (),
        policy: Policy = DEFAULT_POLICY,
        outbox: Outbox | str | os.PathLike[str] | None = None,
    ) -> None:
        self._key = ClientKey(key)
        self._policy = policy
        chosen = channel_options(options, proxy)
        secured = channel_credentials(target, credentials, chosen, insecure=insecure)
        # Not kept as attributes: the options may hold a proxy's password.
        self._connect: Callable[[], grpc.aio.Channel] = lambda: open_channel(target, secured, chosen)
        self._opened: _Opened | None = None
        self._subscriptions = weakref.WeakSet[AsyncSubscription]()
        self._committing = set[asyncio.Task[None]]()
        self._turns = Turns(policy)
        self._closed = asyncio.Event()
        self._emitter: AsyncEmitter | AsyncOutboxEmitter
        if outbox is None:
            self._emitter = AsyncEmitter(self._send, policy.call_timeout)
        else:
            self._emitter = AsyncOutboxEmitter(settings_of(outbox), self._forward, policy)

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel, for calls of other services; opened where it is not.

        Raises:
            RuntimeError: there is no running loop, or the client belongs to another one.
            HubCallError: the client is closed.
        """
        return self._open().channel

    @property
    def metadata(self) -> KeyMetadata:
        """The metadata that carries the key, for calls of other services over ``channel``."""
        return self._key.metadata

    @property
    def outbox(self) -> OutboxStatus:
        """The status of the outbox. RuntimeError: this client has none."""
        if not isinstance(self._emitter, AsyncOutboxEmitter):
            raise RuntimeError("this client has no outbox: it was made without one")  # noqa: TRY004  not a wrong type
        return self._emitter.status

    async def emit(self, event: Event) -> EmitEventResponse:
        """Emit one event; see ``Client.emit``."""
        [result] = await self._emit([with_id(event, time.time())])
        return result

    async def emit_batch(self, events: Iterable[Event]) -> list[EmitEventResponse]:
        """Emit many events, in this order, 1,000 a call; see ``Client.emit_batch``."""
        results: list[EmitEventResponse] = []
        for batch in batches(events, time.time):
            try:
                results += await self._emit(batch, is_list=True)
            except HubCallError as error:
                error.results = tuple(results)
                raise
        return results

    async def commit(self, cursor: str, *, subscription_id: str = "", force: bool = False) -> CommitCursorResponse:
        """Commit a cursor of a subscription; see ``Client.commit``."""
        request = CommitCursorRequest(cursor=cursor, subscription_id=subscription_id, force=force)
        return await self._in_turn(self._open().access.events.CommitCursor, request)

    async def rotate_key(self, *, overlap: float | None = None) -> str:
        """Make a new key for this integration, and use it from now on; see ``Client.rotate_key``."""
        opened, request = self._open(), rotate_request(overlap)
        async with opened.access.rotating:
            reply = await self._repeat(DeveloperServiceStub(opened.channel).RotateOwnKey, request, rotating=True)
            self._key.replace(reply.key.secret)
        return reply.key.secret

    def use_key(self, key: str) -> None:
        """Use another key of the same integration or bot from the next call on; see ``Client.use_key``."""
        self._key.replace(key)

    def subscribe(
        self,
        *,
        on_notice: Handler[Notice] = log_notice,
        on_erased: Handler[Erased] = log_erased,
        auto_commit: bool = False,
        **options: Unpack[SubscribeOptions],
    ) -> AsyncSubscription:
        """The events that this key may see, as an endless asynchronous iterator; see ``Client.subscribe``.

        The handlers may be coroutine functions: iterating goes on, and commits, once they have finished.
        """
        access = self._open().access
        request = subscribe_request(options)
        unheard = on_erased is log_erased
        committer = (
            AsyncCommitter(access, request.subscription_id, self._policy, keep_notices=unheard) if auto_commit else None
        )
        subscription = AsyncSubscription(access, StreamSession(request, self._policy), on_notice, on_erased, committer)
        self._subscriptions.add(subscription)
        if committer:
            self._committing.add(committer.task)
            committer.task.add_done_callback(self._committing.discard)
        return subscription

    async def aclose(self, deadline: float = LAST_EMITS) -> tuple[str, ...]:
        """Send what waits to be emitted, then end everything else, and the connection; see ``Client.close``."""
        unknown = await self._emitter.finish(deadline, closed_error())
        self._closed.set()
        for subscription in list(self._subscriptions):
            await subscription.aclose()
        if self._committing:
            _, late = await asyncio.wait(self._committing, timeout=LAST_COMMITS)
            for task in late:
                task.cancel()
        if self._opened is not None:
            await self._opened.channel.close()
        log_unknown(unknown)
        return unknown

    async def __aenter__(self) -> Self:
        if isinstance(self._emitter, AsyncOutboxEmitter):
            self._open()  # what an earlier run left is sent now
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _open(self) -> "_Opened":
        """The channel and what belongs to it, for the running loop."""
        if self._closed.is_set():
            raise closed_error()
        loop = running_loop()
        if self._opened is None:
            channel = self._connect()
            self._opened = _Opened(loop, channel, AsyncAccess(EventServiceStub(channel), self._key))
            if isinstance(self._emitter, AsyncOutboxEmitter):
                self._emitter.start()
        if self._opened.loop is not loop:
            raise RuntimeError(
                "this AsyncClient belongs to another event loop, in which it was first used: make one for each loop"
            )
        return self._opened

    async def _emit(self, events: Sequence[Event], *, is_list: bool = False) -> list[EmitEventResponse]:
        if not self._closed.is_set():
            self._open()  # a task of another loop must not wait in the line
        return await self._emitter.emit(events, is_list=is_list)

    async def _send(
        self, request: EmitEventRequest | BatchEmitEventsRequest
    ) -> EmitEventResponse | BatchEmitEventsResponse:
        events = self._open().access.events
        if isinstance(request, EmitEventRequest):
            return await self._in_turn(events.EmitEvent, request)
        return await self._in_turn(events.BatchEmitEvents, request)

    async def _forward(self, request: BatchEmitEventsRequest) -> BatchEmitEventsResponse | HubCallError:
        """Make one try of a call; the outbox repeats it."""
        return await self._try(self._open().access.events.BatchEmitEvents, request, self._policy.try_timeout)

    async def _in_turn(self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Answer]", request: Request) -> Answer:
        async with self._turns:
            return await self._repeat(method, request)

    async def _repeat(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Answer]", request: Request, *, rotating: bool = False
    ) -> Answer:
        """Call an idempotent method until it succeeds or fails permanently.

        ``rotating``: this call makes the new key, so it waits neither for a turn nor for a newer key.
        """
        clock, access = asyncio.get_running_loop().time, self._open().access
        attempts = Attempts(self._policy, clock())
        while True:
            version = self._key.version
            answer = await self._try(method, request, attempts.timeout(clock()))
            if not isinstance(answer, HubCallError):
                return answer
            newer_key = not rotating and await access.has_newer_key(version, answer)
            await wait(self._closed, attempts.failed(answer, clock(), newer_key=newer_key))

    async def _try(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Answer]", request: Request, seconds: float
    ) -> Answer | HubCallError:
        if self._closed.is_set():
            raise closed_error()
        try:
            return await method(request, timeout=seconds, metadata=self._key.metadata)
        except grpc.aio.AioRpcError as error:
            return failure_of(error)
        except asyncio.CancelledError:
            # gRPC raises this also if aclose() closed the channel; then this task was not cancelled.
            task = asyncio.current_task()
            if not self._closed.is_set() or (task and task.cancelling()):
                raise
            raise closed_error() from None


class _Opened(NamedTuple):
    """An open channel, the loop that it belongs to, and what calls need of it."""

    loop: asyncio.AbstractEventLoop
    channel: grpc.aio.Channel
    access: AsyncAccess


def running_loop() -> asyncio.AbstractEventLoop:
    """The running loop. RuntimeError says what to do where there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError("an AsyncClient is used inside a running event loop: call it from a coroutine") from None


def open_channel(target: str, credentials: grpc.ChannelCredentials | None, options: Options) -> grpc.aio.Channel:
    """A channel, secured or not."""
    grpc.aio.init_grpc_aio()  # keeps the polling thread: freeing the last channel waits for it, at times for ever
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)
