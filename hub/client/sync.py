"""The client for threads: ``with Client("127.0.0.1:50051", key) as hub: for event in hub.subscribe(): ...``.

Lives here: the channel, and blocking calls with their repetitions. What to do next is decided in ``session.py``.
"""

import threading
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

from hub.client.failure import HubCallError
from hub.client.requests import Wanted, batches, subscribe_request, with_id
from hub.client.session import DEFAULT_POLICY, Attempts, Notice, Policy, StreamSession
from hub.client.subscription import Access, Clock, Committer, RealClock, Subscription
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


class Client:
    """A connection to the hub with one key; safe to use from many threads. ``with`` closes it.

    Args:
        target: "host:port". Nothing is sent before the first call.
        key: "tkt_bot_..." to emit, "tkt_integration_..." to subscribe.
        credentials: ``grpc.ssl_channel_credentials(...)`` for a private authority or for mTLS. Unless given:
            plaintext to this machine, TLS to any other.
        insecure: plaintext to another machine, too: whoever sits between can read the key.
        options: more channel options; they win over ours.
        policy: how patient to be.
        channel: use this one instead of opening one; it is closed with the client.
        clock: another clock, for tests.
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
        channel: grpc.Channel | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.metadata = key_metadata(key)
        self._policy = policy
        secured = channel_credentials(target, credentials, insecure=insecure)
        self.channel = channel or open_channel(target, secured, channel_options(options))
        self._events = EventServiceStub(self.channel)
        self._access = Access(self._events, self.metadata, clock or RealClock())
        self._subscriptions = weakref.WeakSet[Subscription]()
        self._committing = weakref.WeakSet[threading.Thread]()
        self._waits = set[threading.Event]()
        self._lock = threading.Lock()
        self._closed = False

    def emit(self, event: Event) -> EmitEventResponse:
        """Have one event stored; when this returns, it is on disk.

        Repeated with the same id while the hub is away or busy, for as long as the policy says. An event without an id
        is given one (the argument is not changed); who wants to repeat it after an error names it, by ``event_id``.

        Returns:
            Its id, when it was accepted, and whether it was known already (of a repetition: maybe by its first try).

        Raises:
            HubCallError: it was refused, or the time was over (then it may be stored nevertheless).
        """
        return self._repeat(self._events.EmitEvent, EmitEventRequest(event=with_id(event, time.time())))

    def emit_batch(self, events: Iterable[Event]) -> list[EmitEventResponse]:
        """Have many events stored, in this order, 1,000 a call; each call stores all of its events or none.

        Returns:
            One result for each event, in order.

        Raises:
            HubCallError: as ``emit``; its ``results`` are those of the calls before.
        """
        results: list[EmitEventResponse] = []
        for batch in batches(events, time.time):
            try:
                answer = self._repeat(self._events.BatchEmitEvents, BatchEmitEventsRequest(events=batch))
            except HubCallError as error:
                error.results = tuple(results)
                raise
            results.extend(answer.results)
        return results

    def commit(self, cursor: str, *, subscription_id: str = "", force: bool = False) -> CommitCursorResponse:
        """Have the hub keep a place for a subscription: without a start it resumes there, in any later run.

        Args:
            cursor: ``Subscription.cursor``, once everything up to there was dealt with.
            subscription_id: "default" unless given.
            force: go backwards, too; else a place before the one that is kept changes nothing.

        Raises:
            HubCallError: it was refused, or the time was over.
        """
        request = CommitCursorRequest(cursor=cursor, subscription_id=subscription_id, force=force)
        return self._repeat(self._events.CommitCursor, request)

    def subscribe(
        self,
        *,
        on_notice: Callable[[Notice], None] = log_notice,
        auto_commit: bool = False,
        **wanted: Unpack[Wanted],
    ) -> Subscription:
        """The events that this key may see, as an endless iterator; what it can be told is in ``Wanted``.

        Args:
            on_notice: told, in the iterating thread, what else the hub says, and when the stream broke. Unless given,
                a broken stream is a warning in the log ``hub.client``.
            auto_commit: have the hub keep the place, beginning with where the stream starts: a later run goes on there.
                An event counts as dealt with when the next one is asked for; those of a frame that was not finished
                come again. A commit that fails for good is raised while iterating.
            wanted: subscription_id, start, on_expired_cursor, scopes, guild_ids, shard, max_batch_size,
                heartbeat_interval.
        """
        request = subscribe_request(wanted)
        with self._lock:
            if self._closed:
                raise closed_error()
            committer = Committer(self._access, request.subscription_id, self._policy) if auto_commit else None
            subscription = Subscription(self._access, StreamSession(request, self._policy), on_notice, committer)
            self._subscriptions.add(subscription)
            if committer:
                self._committing.add(committer.thread)
        return subscription

    def close(self) -> None:
        """End all subscriptions and waiting calls, and the connection; last commits have two seconds to get through."""
        with self._lock:
            self._closed = True
            waits, subscriptions = list(self._waits), list(self._subscriptions)
        for subscription in subscriptions:
            subscription.close()
        for wake in waits:
            wake.set()
        last_moment = time.monotonic() + LAST_COMMITS
        for thread in list(self._committing):
            thread.join(max(0, last_moment - time.monotonic()))
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _repeat(self, method: "grpc.UnaryUnaryMultiCallable[Request, Answer]", request: Request) -> Answer:
        """Call a method that may be repeated without harm, until it succeeds or another try makes no sense."""
        clock = self._access.clock
        attempts = Attempts(self._policy, clock.time())
        while True:
            if self._closed:
                raise closed_error()
            answer = self._try(method, request, attempts.timeout(clock.time()))
            if not isinstance(answer, HubCallError):
                return answer
            self._wait(attempts.failed(answer, clock.time()))

    def _try(
        self, method: "grpc.UnaryUnaryMultiCallable[Request, Answer]", request: Request, timeout: float
    ) -> Answer | HubCallError:
        try:
            return method(request, timeout=timeout, metadata=self.metadata)
        except grpc.RpcError as error:
            return failure_of(error)

    def _wait(self, seconds: float) -> None:
        """Wait; ``close`` ends it."""
        wake = threading.Event()
        with self._lock:
            if self._closed:
                return
            self._waits.add(wake)
        try:
            self._access.clock.wait(wake, seconds)
        finally:
            with self._lock:
                self._waits.discard(wake)


def open_channel(target: str, credentials: grpc.ChannelCredentials | None, options: Options) -> grpc.Channel:
    """A channel, secured or not."""
    if credentials is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, credentials, options=options)
