"""The client for threads: ``with Client("127.0.0.1:50051", key) as hub: for event in hub.subscribe(): ...``."""

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from tickets_hub.failure import HubCallError
from tickets_hub.key import ClientKey, KeyMetadata
from tickets_hub.outbox import Outbox, OutboxStatus, settings_of
from tickets_hub.requests import SubscribeOptions, batches, rotate_request, subscribe_request, with_id
from tickets_hub.session import DEFAULT_POLICY, Attempts, Notice, Policy, StreamSession
from tickets_hub.sync_emitter import Emitter
from tickets_hub.sync_outbox import OutboxEmitter
from tickets_hub.sync_subscription import Access, Clock, Committer, RealClock, Subscription
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


class Client:
    """A connection to the hub with one key; safe to use from many threads. ``with`` closes it.

    Args:
        target: "host:port". Nothing is sent before the first call.
        key: "tkt_bot_..." to emit, "tkt_integration_..." to subscribe.
        credentials: ``grpc.ssl_channel_credentials(...)`` for a private authority or for mTLS. Unless given:
            plaintext to this machine, TLS to any other.
        insecure: plaintext to another machine, too: everyone on the way can read the key.
        proxy: an HTTP proxy to connect through, "host:port" or "http://host:port". Without it none is used, whatever
            ``http_proxy`` says.
        options: more channel options; they win over ours.
        policy: timeouts, delays and limits.
        outbox: a file that keeps events until the hub has them: its path, or an ``Outbox`` with limits. ``emit`` then
            returns once the event is in the file, and the client sends what is there, in order, once the hub is there,
            also after a restart. OutboxError where another process has the file.
        channel: use this one instead of opening one; it is closed with the client.
        clock: another clock, for tests.
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
        channel: grpc.Channel | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._key = ClientKey(key)
        self._policy = policy
        chosen = channel_options(options, proxy)
        secured = channel_credentials(target, credentials, chosen, insecure=insecure)
        self.channel = channel or open_channel(target, secured, chosen)
        self._events = EventServiceStub(self.channel)
        self._access = Access(self._events, self._key, clock or RealClock())
        self._subscriptions = weakref.WeakSet[Subscription]()
        self._committing = weakref.WeakSet[threading.Thread]()
        self._waits = set[threading.Event]()
        self._lock = threading.Lock()
        self._closed = False
        self._emitter: Emitter | OutboxEmitter
        if outbox is None:
            self._emitter = Emitter(self._send, self._access.clock.time, policy.call_timeout)
        else:
            self._emitter = OutboxEmitter(settings_of(outbox), self._forward, policy)

    @property
    def metadata(self) -> KeyMetadata:
        """The metadata that carries the key, for calls of other services over ``channel``."""
        return self._key.metadata

    @property
    def outbox(self) -> OutboxStatus:
        """The status of the outbox. RuntimeError: this client has none."""
        if not isinstance(self._emitter, OutboxEmitter):
            raise RuntimeError("this client has no outbox: it was made without one")  # noqa: TRY004  not a wrong type
        return self._emitter.status

    def emit(self, event: Event) -> EmitEventResponse:
        """Emit one event; when this returns, it is on the hub's disk.

        Repeated with the same id while the hub is away or busy, for as long as the policy says. An event without an id
        gets one, in the message itself: sent again after an error, it is stored once. Make a new message for each
        event.

        With an outbox it is on this machine's disk when this returns, and reaches the hub later. An event without an
        ``occur_time`` then gets one: now.

        Returns:
            Its id, when it was accepted, and whether it was known already (of a repetition: maybe by its first try).
            With an outbox its id alone.

        Raises:
            HubCallError: it was refused, or the time was over (then it may be stored nevertheless).
            OutboxError: the outbox is full (``OutboxFull``), or the disk failed.
            ValueError: with an outbox, an event that is larger than the hub takes.
        """
        [result] = self._emitter.emit([with_id(event, time.time())])
        return result

    def emit_batch(self, events: Iterable[Event]) -> list[EmitEventResponse]:
        """Emit many events, in this order, 1,000 a call; each call stores all of its events or none.

        Returns:
            One result for each event, in order.

        Raises:
            HubCallError: as ``emit``; its ``results`` are those of the calls before. Events after those of its
                ``event_ids`` were not sent.
        """
        results: list[EmitEventResponse] = []
        for batch in batches(events, time.time):
            try:
                results += self._emitter.emit(batch, is_list=True)
            except HubCallError as error:
                error.results = tuple(results)
                raise
        return results

    def commit(self, cursor: str, *, subscription_id: str = "", force: bool = False) -> CommitCursorResponse:
        """Commit a cursor of a subscription: without a start it resumes there, in any later run.

        Args:
            cursor: ``Subscription.cursor``, once everything up to there was processed.
            subscription_id: by default "default".
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
        on_erased: Callable[[Erased], None] = log_erased,
        auto_commit: bool = False,
        **options: Unpack[SubscribeOptions],
    ) -> Subscription:
        """The events that this key may see, as an endless iterator; its options are in ``SubscribeOptions``.

        Args:
            on_notice: called in the iterating thread with each notice, and when the stream broke. Unless given,
                a broken stream is a warning in the log ``tickets_hub``.
            on_erased: called in the iterating thread when a user or a guild is to be forgotten: delete what you store
                about them before it returns. Unless given, auto_commit does not confirm it: it comes again on each
                new stream.
            auto_commit: have the hub keep the place, beginning with where the stream starts: a later run goes on there.
                An event counts as dealt with when the next one is asked for; those of a frame that was not finished
                come again. A commit that fails for good is raised while iterating.
            options: subscription_id, start, on_expired_cursor, scopes, guild_ids, shard, max_batch_size,
                heartbeat_interval, linger; with an admin's key integration_id, reason.
        """
        request = subscribe_request(options)
        with self._lock:
            if self._closed:
                raise closed_error()
            unheard = on_erased is log_erased
            committer = (
                Committer(self._access, request.subscription_id, self._policy, keep_notices=unheard)
                if auto_commit
                else None
            )
            subscription = Subscription(
                self._access, StreamSession(request, self._policy), on_notice, on_erased, committer
            )
            self._subscriptions.add(subscription)
            if committer:
                self._committing.add(committer.thread)
        return subscription

    def rotate_key(self, *, overlap: float | None = None) -> str:
        """Make a new key for this integration, and use it from now on; open subscriptions go on.

        Args:
            overlap: seconds that the earlier keys live on; 0 ends them at once, None leaves it to the hub (24 h).

        Returns:
            The new key: keep it for the next start, before the earlier ones end. It is shown this once.

        Raises:
            HubCallError: there is no new key; ROTATION_IN_PROGRESS while two keys are in use. With an overlap of 0 and
                without an answer of the hub the earlier keys may have ended: then the bot or an admin makes another.
        """
        request = rotate_request(overlap)
        with self._access.rotating:
            reply = self._repeat(DeveloperServiceStub(self.channel).RotateOwnKey, request)
            self._key.replace(reply.key.secret)
        return reply.key.secret

    def use_key(self, key: str) -> None:
        """Use another key of the same integration or bot from the next call on; open subscriptions go on.

        A stream stays with the key that opened it; when that ends, the subscription resumes with the newer one.
        """
        self._key.replace(key)

    def close(self, deadline: float = LAST_EMITS) -> tuple[str, ...]:
        """Send what waits to be emitted, then end everything else, and the connection.

        Last commits have two seconds to get through. What could not be sent fails at its caller, with its ids; in an
        outbox it stays for the next client of the file.

        Args:
            deadline: seconds that sending may take.

        Returns:
            The ids of events that were on their way when the time was over: whether they are stored is not known.
            The log ``tickets_hub`` has them, too.
        """
        unknown = self._emitter.finish(deadline, closed_error())
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
        if isinstance(self._emitter, OutboxEmitter):
            self._emitter.stop()
        log_unknown(unknown)
        return unknown

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, request: EmitEventRequest | BatchEmitEventsRequest) -> EmitEventResponse | BatchEmitEventsResponse:
        if isinstance(request, EmitEventRequest):
            return self._repeat(self._events.EmitEvent, request)
        return self._repeat(self._events.BatchEmitEvents, request)

    def _repeat(self, method: "grpc.UnaryUnaryMultiCallable[Request, Answer]", request: Request) -> Answer:
        """Call an idempotent method until it succeeds or fails permanently."""
        clock = self._access.clock
        attempts = Attempts(self._policy, clock.time())
        while True:
            if self._closed:
                raise closed_error()
            version = self._key.version
            answer = self._try(method, request, attempts.timeout(clock.time()))
            if not isinstance(answer, HubCallError):
                return answer
            newer_key = self._access.has_newer_key(version, answer)
            self._wait(attempts.failed(answer, clock.time(), newer_key=newer_key))

    def _forward(self, request: BatchEmitEventsRequest) -> BatchEmitEventsResponse | HubCallError:
        """Make one try of a call; the outbox repeats it."""
        try:
            return self._try(self._events.BatchEmitEvents, request, self._policy.try_timeout)
        except ValueError:  # gRPC's word for a channel that is closed
            return closed_error()

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
