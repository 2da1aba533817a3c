"""EventService: events in from the bot, frames out to integrations.

Must not know who may see what (``delivery/``) or who may call (``access.py``).
"""

import asyncio
import secrets

import grpc
from tickets.hub.v1 import event_pb2, event_service_pb2, event_service_pb2_grpc

from hub import scopes as table
from hub.api import convert
from hub.api.access import caller
from hub.api.failures import Context, abort, to_status
from hub.api.listing import SubscriptionList
from hub.clock import Clock
from hub.config import Settings
from hub.delivery.asked import Start, Subscription
from hub.delivery.feed import Feed
from hub.delivery.stream import Stream
from hub.delivery.streams import Streams
from hub.delivery.subscriptions import Subscriptions
from hub.delivery.views import Narrowing
from hub.errors import EventIdConflict, HubError
from hub.model import Appended, Entry, Kind

DEFAULT_SUBSCRIPTION = "default"
DEFAULT_BATCH = 100


class EventService(event_service_pb2_grpc.EventServiceServicer):
    """The contract's EventService."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self,
        feed: Feed,
        streams: Streams,
        subscriptions: Subscriptions,
        shown: SubscriptionList,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._feed = feed
        self._streams = streams
        self._subscriptions = subscriptions
        self._shown = shown
        self._settings = settings
        self._clock = clock

    async def EmitEvent(  # noqa: N802  the contract's name
        self, request: event_service_pb2.EmitEventRequest, context: Context
    ) -> event_service_pb2.EmitEventResponse:
        """Store one event."""
        del context
        entry = to_entry(request.event, self._clock.now(), "event")
        [appended] = await self._feed.append([entry])
        response = event_service_pb2.EmitEventResponse()
        _tell(response, entry.id, appended)
        return response

    async def BatchEmitEvents(  # noqa: N802
        self, request: event_service_pb2.BatchEmitEventsRequest, context: Context
    ) -> event_service_pb2.BatchEmitEventsResponse:
        """Store some events, all or none."""
        del context
        now = self._clock.now()
        entries = [to_entry(event, now, f"events[{index}]") for index, event in enumerate(request.events)]
        try:
            results = await self._feed.append(entries)
        except EventIdConflict as conflict:
            raise conflict.among([entry.id for entry in entries]) from None
        response = event_service_pb2.BatchEmitEventsResponse()
        for entry, appended in zip(entries, results, strict=True):
            _tell(response.results.add(), entry.id, appended)
        return response

    async def Subscribe(  # type: ignore[override]  # noqa: N802  it writes ready bytes instead of yielding messages
        self, request: event_service_pb2.SubscribeRequest, context: Context
    ) -> None:
        """Stream frames until either side ends it. The frames are ready bytes: ``server.py`` registers it so."""
        async with self._streams.open(caller(), self._subscription(request)) as stream:
            await context.send_initial_metadata(())
            stream.on_stall = Dropper(context)
            await self._write_frames(stream, context)

    async def CommitCursor(  # noqa: N802
        self, request: event_service_pb2.CommitCursorRequest, context: Context
    ) -> event_service_pb2.CommitCursorResponse:
        """Keep a place."""
        del context
        cursor, committed = await self._subscriptions.commit(
            caller().integration_id,
            request.subscription_id or DEFAULT_SUBSCRIPTION,
            request.cursor,
            force=request.force,
        )
        return event_service_pb2.CommitCursorResponse(cursor=cursor, committed=committed)

    async def ListOwnSubscriptions(  # noqa: N802
        self, request: event_service_pb2.ListOwnSubscriptionsRequest, context: Context
    ) -> event_service_pb2.ListOwnSubscriptionsResponse:
        """Every subscription of the caller."""
        del request, context
        return event_service_pb2.ListOwnSubscriptionsResponse(
            subscriptions=await self._shown.of_integration(caller().integration_id)
        )

    async def DeleteSubscription(  # noqa: N802
        self, request: event_service_pb2.DeleteSubscriptionRequest, context: Context
    ) -> event_service_pb2.DeleteSubscriptionResponse:
        """Forget one."""
        del context
        await self._subscriptions.forget(caller().integration_id, request.subscription_id or DEFAULT_SUBSCRIPTION)
        return event_service_pb2.DeleteSubscriptionResponse()

    async def _write_frames(self, stream: Stream, context: Context) -> None:
        """Write what the stream has until the reader has gone; else it ends by an exception.

        No await stands between frame and write.
        """
        now = self._clock.monotonic
        while True:
            data = await stream.next_frame()
            began = stream.write_began = now()
            try:
                await context.write(data)
            except grpc.aio.InternalError:  # the connection broke in the middle of it
                return
            stream.write_began = 0.0
            stream.wrote(now() - began)

    def _subscription(self, request: event_service_pb2.SubscribeRequest) -> Subscription:
        shard = (request.shard.index, request.shard.count) if request.HasField("shard") else None
        heartbeat = (
            min(60.0, convert.seconds(request.heartbeat_interval))
            if request.HasField("heartbeat_interval")
            else self._settings.heartbeat_interval
        )
        since = convert.micros(request.since, "since") if request.HasField("since") else 0
        return Subscription(
            subscription_id=request.subscription_id or DEFAULT_SUBSCRIPTION,
            start=Start(request.WhichOneof("start") or "", request.cursor, since),
            gaps=request.on_expired_cursor == event_service_pb2.ON_EXPIRED_CURSOR_EARLIEST,
            narrowing=Narrowing(frozenset(request.scopes), frozenset(int(guild) for guild in request.guild_ids), shard),
            batch=request.max_batch_size or DEFAULT_BATCH,
            heartbeat=heartbeat,
        )


def to_entry(event: event_pb2.Event, now: int, field: str, *, position: int = 0, test: bool = False) -> Entry:
    """An event as the log keeps it: without what the contract does not know, and without its accept time.

    Args:
        event: what was sent; it is changed.
        now: microseconds.
        field: where it stands in the request.
        position: of a sample, which is never in the log, the place that it would have.
        test: mark it as one where nothing has happened.

    Raises:
        InvalidRequest: `occur_time` is no time; names it below `field`.
    """
    if event.HasField("occur_time"):
        convert.micros(event.occur_time, f"{field}.occur_time")
    event.ClearField("accept_time")
    event.test = test
    event.DiscardUnknownFields()
    if not event.id:
        event.id = time_ordered_id(now)
    body = event.SerializeToString(deterministic=True)
    event_type = table.EVENT_TYPES[event.WhichOneof("payload") or ""]
    return Entry(Kind.EVENT, now, body, "", event.id, event_type, int(event.guild_id), position)


def time_ordered_id(now: int) -> str:
    """A fresh id that sorts by time, like a UUIDv7: such ids keep the dedupe index quick."""
    return f"{now // 1_000:012x}-{secrets.token_hex(10)}"


def _tell(result: event_service_pb2.EmitEventResponse, event_id: str, appended: Appended) -> None:
    """Fill in what became of an event; in place, because messages made apart would be copied into their list."""
    result.event_id = event_id
    result.duplicate = appended.duplicate
    seconds, micros = divmod(appended.time, convert.MICROS)
    result.accept_time.seconds = seconds
    result.accept_time.nanos = micros * 1_000


class Dropper:
    """Drops a stream whose reader takes nothing: start the abort, which blocks too, then cancel the handler."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._handler = asyncio.current_task()
        self._abort: asyncio.Task[None] | None = None

    def __call__(self, ending: HubError) -> asyncio.Task[None] | None:
        """Drop it for a reason; returns what ends when nothing of the call is left. A second time does nothing."""
        if self._abort is not None or self._handler is None:
            return None
        self._abort = asyncio.create_task(abort(self._context, to_status(ending)))
        self._abort.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._handler.cancel()
        return self._abort
