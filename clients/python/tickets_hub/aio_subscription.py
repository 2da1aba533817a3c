"""A subscription for asyncio: streams, one after the other, behind a plain ``async for``.

The asyncio twin of ``sync_subscription.py``; ``session.py`` decides what to do next.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

import grpc

from tickets_hub.commits import Commits
from tickets_hub.failure import HubCallError
from tickets_hub.key import ClientKey, is_key_ending
from tickets_hub.session import Notice, Policy, StreamSession
from tickets_hub.transport import clean_end, closed_error, failure_of
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import CommitCursorRequest, Erased, SubscribeRequest, SubscribeResponse

if TYPE_CHECKING:
    from tickets_hub.v1.event_service_pb2_grpc import EventServiceAsyncStub  # is not there at run time

Heard = TypeVar("Heard", Notice, Erased)
Handler: TypeAlias = Callable[[Heard], Awaitable[None] | None]
"""A function, or a coroutine function; the subscription goes on once it has finished."""

Call: TypeAlias = "grpc.aio.UnaryStreamCall[SubscribeRequest, SubscribeResponse]"  # generic in its stubs only


@dataclass(frozen=True, slots=True)
class AsyncAccess:
    """What a call needs: the service and the key."""

    events: "EventServiceAsyncStub"
    key: ClientKey
    rotating: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held during a rotation of the key."""

    async def has_newer_key(self, version: int, failure: HubCallError) -> bool:
        """Whether a failed call used a key that has ended and there is a newer one; waits for a rotation under way."""
        if not is_key_ending(failure):
            return False
        async with self.rotating:
            return self.key.version != version


class AsyncCommitter:
    """The task that commits for one subscription, so that delivery never waits for it."""

    def __init__(self, access: AsyncAccess, subscription_id: str, policy: Policy, *, keep_notices: bool) -> None:
        """`keep_notices`: the program handles no erasures, so commits must not confirm erasures."""
        self._access = access
        self._keep_notices = keep_notices
        self._subscription_id = subscription_id
        self._timeout = policy.try_timeout
        self._commits = Commits(policy)
        self._wake = asyncio.Event()
        self._stopping = False
        self._failure: HubCallError | None = None
        self._now = asyncio.get_running_loop().time
        self.task = asyncio.create_task(self._run(), name="hub-client-commits")

    def offer(self, cursor: str) -> None:
        """Offer a cursor up to which everything was processed. Raises an earlier commit's permanent failure."""
        if self._failure:
            raise self._failure
        self._commits.offer(cursor)
        self._wake.set()

    def stop(self) -> None:
        """Send the waiting cursor once, and end."""
        self._stopping = True
        self._wake.set()

    async def _run(self) -> None:
        while self._failure is None:
            stopping, due = self._stopping, self._commits.due(self._now())
            if due == 0 or (stopping and due < inf):
                await self._send()
            elif not stopping:
                await wait(self._wake, due)
                self._wake.clear()
            if stopping:
                return

    async def _send(self) -> None:
        """Commit the newest cursor; a permanent error is kept for the reader to raise."""
        cursor = self._commits.take()
        request = CommitCursorRequest(
            cursor=cursor, subscription_id=self._subscription_id, keep_notices=self._keep_notices
        )
        failure: HubCallError | None = None
        version, newer_key = self._access.key.version, False
        try:
            await self._access.events.CommitCursor(request, timeout=self._timeout, metadata=self._access.key.metadata)
        except grpc.aio.AioRpcError as error:
            failure = failure_of(error)
            newer_key = await self._access.has_newer_key(version, failure)
        try:
            self._commits.settled(cursor, failure, self._now(), newer_key=newer_key)
        except HubCallError as final:
            self._failure = final


class AsyncSubscription(AsyncIterator[Event]):
    """The events of one subscription, as ``Subscription`` has them, for one task; made by ``AsyncClient.subscribe``.

    Ended by ``aclose``, by ``async with``, by cancelling the task that waits for an event.
    """

    def __init__(
        self,
        access: AsyncAccess,
        session: StreamSession,
        on_notice: Handler[Notice],
        on_erased: Handler[Erased],
        committer: AsyncCommitter | None = None,
    ) -> None:
        self._access = access
        self._committer = committer
        self._session = session
        self._on_notice = on_notice
        self._on_erased = on_erased
        self._call: Call | None = None
        self._key_version = access.key.version
        self._closed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def cursor(self) -> str:
        """After the last frame of which every event was handed over; empty before the first. See ``Subscription``."""
        return self._session.cursor

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            HubCallError: the stream ended for a reason that reopening does not fix; the subscription is closed.
            StopAsyncIteration: the subscription was closed.
        """
        try:
            while not self._closed.is_set():
                event = self._session.take()
                if event is not None:
                    return event
                if self._committer:
                    self._committer.offer(self._session.cursor)
                await self._step()
        except BaseException:
            await self.aclose()
            raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End it now, from any task of the loop: a blocked ``async for`` ends, too. Closing again does nothing."""
        self._closed.set()
        self._end_stream()
        if self._committer:
            self._committer.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # After a plain `break` nothing else ends the call: its own tasks keep it alive.
        call = getattr(self, "_call", None)
        committer = getattr(self, "_committer", None)
        if self._loop.is_closed():
            return
        if call:
            call.cancel()
        if committer:
            committer.stop()

    async def _step(self) -> None:
        """Read one frame, or handle the stream's end."""
        if self._call is None:
            self._key_version = self._access.key.version
            self._call = self._access.events.Subscribe(self._session.request(), metadata=self._access.key.metadata)
        frame = await self._read(self._call)
        if isinstance(frame, HubCallError):
            await self._reconnect(frame)
            return
        notice = self._session.received(frame)
        if isinstance(notice, Erased):
            await hear(self._on_erased, notice)
        elif notice is not None:
            await hear(self._on_notice, notice)

    async def _read(self, call: Call) -> SubscribeResponse | HubCallError:
        """The next frame, or the failure that ended the stream."""
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
            # gRPC raises this also if aclose() cancelled the call; then this task was not cancelled.
            task = asyncio.current_task()
            if not self._closed.is_set() or (task and task.cancelling()):
                raise
            return closed_error()

    async def _reconnect(self, failure: HubCallError) -> None:
        """Wait as long as the session says before the next stream is opened; raise a permanent failure."""
        self._end_stream()
        if self._closed.is_set():
            return
        newer_key = await self._access.has_newer_key(self._key_version, failure)
        reconnecting = self._session.ended(failure, newer_key=newer_key)
        await hear(self._on_notice, reconnecting)
        await wait(self._closed, reconnecting.delay)

    def _end_stream(self) -> None:
        if self._call:
            self._call.cancel()
        self._call = None


async def hear(handler: Handler[Heard], notice: Heard) -> None:
    """Tell a handler, and wait until it has finished."""
    if (work := handler(notice)) is not None:
        await work


async def wait(closed: asyncio.Event, seconds: float) -> None:
    """Wait some seconds, or until it closes."""
    try:
        async with asyncio.timeout(seconds):
            await closed.wait()
    except TimeoutError:
        pass
