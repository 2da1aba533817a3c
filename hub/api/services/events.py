"""EventService: the bot emits events, integrations subscribe, admins tail.

Visibility is decided in ``delivery/``, permission to call in ``access.py``.
"""

import asyncio
from contextlib import AbstractAsyncContextManager

import grpc
from google.protobuf.message import Message
from tickets.hub.v1 import event_service_pb2, event_service_pb2_grpc

from hub.api import convert
from hub.api.access import caller, required
from hub.api.services.intake import Intake
from hub.api.services.subscription_status import SubscriptionList
from hub.api.status import Context, abort, to_status
from hub.clock import Clock
from hub.config import Settings
from hub.control.transactions import Changes
from hub.delivery.linger import effective_linger
from hub.delivery.options import Start, SubscribeOptions
from hub.delivery.stream import Stream
from hub.delivery.streams import Streams
from hub.delivery.subscriptions import Subscriptions
from hub.delivery.tails import Tails
from hub.delivery.view import Narrowing
from hub.delivery.writes import OnStall
from hub.errors import HubError, IntegrationNotFound, InvalidRequest
from hub.model import OversightRecord, Role

DEFAULT_BATCH = 100


class EventService(event_service_pb2_grpc.EventServiceServicer):
    """The contract's EventService."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self,
        intake: Intake,
        streams: Streams,
        tails: Tails,
        subscriptions: Subscriptions,
        changes: Changes,
        subscription_list: SubscriptionList,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._intake = intake
        self._streams = streams
        self._tails = tails
        self._changes = changes
        self._subscriptions = subscriptions
        self._subscription_list = subscription_list
        self._settings = settings
        self._clock = clock

    async def EmitEvent(
        self, request: event_service_pb2.EmitEventRequest, context: Context
    ) -> event_service_pb2.EmitEventResponse:
        """Store one event."""
        return await self._intake.one(request.event)

    async def BatchEmitEvents(
        self, request: event_service_pb2.BatchEmitEventsRequest, context: Context
    ) -> event_service_pb2.BatchEmitEventsResponse:
        """Store events: all or none, or (`independent`) each that is valid."""
        if request.independent:
            return await self._intake.each(request)
        return await self._intake.all(request)

    async def Subscribe(  # type: ignore[override]  # it writes ready bytes instead of yielding messages
        self, request: event_service_pb2.SubscribeRequest, context: Context
    ) -> None:
        """Stream frames until either side ends it; as bytes, since ``server.py`` registers it without a serializer."""
        async with self._opened(request, Dropper(context)) as stream:
            await context.send_initial_metadata(())
            await self._write_frames(stream, context)

    async def CommitCursor(
        self, request: event_service_pb2.CommitCursorRequest, context: Context
    ) -> event_service_pb2.CommitCursorResponse:
        """Commit a cursor."""
        cursor, committed = await self._subscriptions.commit(
            caller().integration_id,
            request.subscription_id or convert.DEFAULT_SUBSCRIPTION,
            request.cursor,
            force=request.force,
            confirms=not request.keep_notices,
        )
        return event_service_pb2.CommitCursorResponse(cursor=cursor, committed=committed)

    async def ListOwnSubscriptions(
        self, request: event_service_pb2.ListOwnSubscriptionsRequest, context: Context
    ) -> event_service_pb2.ListOwnSubscriptionsResponse:
        """Every subscription of the caller."""
        return event_service_pb2.ListOwnSubscriptionsResponse(
            subscriptions=await self._subscription_list.of_integration(caller().integration_id)
        )

    async def DeleteSubscription(
        self, request: event_service_pb2.DeleteSubscriptionRequest, context: Context
    ) -> event_service_pb2.DeleteSubscriptionResponse:
        """Delete a subscription; the audit trail records it if an admin does."""
        by, integration_id = caller(), integration_of(request.integration_id)
        subscription_id = request.subscription_id or convert.DEFAULT_SUBSCRIPTION
        audit = []
        if by.role is Role.ADMIN:
            record = OversightRecord(integration_id, "delete_subscription", subscription_id)
            audit.append(self._changes.oversight_entry(by, record, request.reason))
        else:
            refuse_field(request, "reason", "is for admins")
        await self._subscriptions.forget(integration_id, subscription_id, audit)
        return event_service_pb2.DeleteSubscriptionResponse()

    def _opened(
        self, request: event_service_pb2.SubscribeRequest, on_stall: OnStall
    ) -> AbstractAsyncContextManager[Stream]:
        """Open a stream; for an admin a tail, which has neither a subscription name nor a committed cursor.

        Raises:
            InvalidRequest: a field is set that this caller may not use.
            IntegrationNotFound: the request names another integration than the caller's own.
        """
        by, integration_id = caller(), integration_of(request.integration_id)
        if by.role is not Role.ADMIN:
            refuse_field(request, "reason", "is for admins")
            return self._streams.open(by, self._options(request), on_stall)
        for field in ("subscription_id", "committed"):
            refuse_field(request, field, "is for integrations: a tail has no name and no committed cursor")
        options = self._options(request)
        if not options.start.kind:
            options = options._replace(start=Start("latest"))
        options = options._replace(subscription_id="")
        return self._tails.open(by, integration_id, options, request.reason, on_stall)

    async def _write_frames(self, stream: Stream, context: Context) -> None:
        """Write frames until the reader disconnects. There is no await between a frame and its write.

        Raises:
            HubError: the stream has ended, for this reason.
        """
        now = self._clock.monotonic
        while True:
            data = await stream.next_frame()
            stream.writes.begin(now())
            try:
                await context.write(data)
            except grpc.aio.InternalError:  # the connection broke in the middle of it
                return
            stream.writes.finish(now())

    def _options(self, request: event_service_pb2.SubscribeRequest) -> SubscribeOptions:
        shard = (request.shard.index, request.shard.count) if request.HasField("shard") else None
        heartbeat = (
            convert.span(request.heartbeat_interval) / convert.MICROS
            if request.HasField("heartbeat_interval")
            else self._settings.heartbeat_interval
        )
        since = convert.micros(request.since, "since") if request.HasField("since") else 0
        return SubscribeOptions(
            subscription_id=request.subscription_id or convert.DEFAULT_SUBSCRIPTION,
            start=Start(request.WhichOneof("start") or "", request.cursor, since),
            gaps=request.on_expired_cursor == event_service_pb2.ON_EXPIRED_CURSOR_EARLIEST,
            narrowing=Narrowing(frozenset(request.scopes), frozenset(int(guild) for guild in request.guild_ids), shard),
            batch=request.max_batch_size or DEFAULT_BATCH,
            heartbeat=heartbeat,
            linger=effective_linger(convert.span(request.linger) / convert.MICROS, heartbeat),
        )


def integration_of(integration_id: str) -> str:
    """The integration of a call: the caller's own, or the one that an admin names.

    Raises:
        InvalidRequest: an admin names none.
        IntegrationNotFound: an integration names another.
    """
    by = caller()
    if by.role is Role.ADMIN:
        return required(integration_id)
    if integration_id not in ("", by.integration_id):
        raise IntegrationNotFound(integration_id)
    return by.integration_id


def refuse_field(request: Message, field: str, why: str) -> None:
    """Refuse a field that is for callers of another role.

    Raises:
        InvalidRequest: it is set.
    """
    descriptor = request.DESCRIPTOR.fields_by_name[field]
    if request.HasField(field) if descriptor.has_presence else getattr(request, field):
        raise InvalidRequest.field(field, why)


class Dropper:
    """Drops a stream whose reader does not read: starts the abort, which blocks as well, then cancels the handler."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._handler = asyncio.current_task()
        self._abort: asyncio.Task[None] | None = None

    def __call__(self, ending: HubError) -> asyncio.Task[None] | None:
        """Drop it; see `OnStall`. A second call has no effect."""
        if self._abort is not None or self._handler is None:
            return None
        self._abort = asyncio.create_task(abort(self._context, to_status(ending)))
        self._abort.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._handler.cancel()
        return self._abort
