"""Stores the events in the bot's requests, and reports the outcome of each.

Must not know who may call (``access.py``), nor who gets the events (``delivery/``).
"""

import asyncio
from collections.abc import Mapping

import structlog
from tickets.hub.v1 import event_pb2, event_service_pb2

from hub.api import convert
from hub.api.status import to_status
from hub.api.validation import below, check, check_apart
from hub.clock import Clock
from hub.delivery.feed import Feed
from hub.delivery.numbered import NumberedAppends
from hub.errors import EventIdConflict, HubError, InvalidRequest
from hub.model import Appended, Entry
from hub.slices import in_turns

SLICE = 250
"""The most events of a batch that are handled in one step of the event loop: other tasks run in between."""

log = structlog.get_logger()


class Intake:
    """Stores the events of requests."""

    def __init__(self, feed: Feed, numbered: NumberedAppends, clock: Clock) -> None:
        self._feed = feed
        self._numbered = numbered
        self._clock = clock

    async def one(self, event: event_pb2.Event) -> event_service_pb2.EmitEventResponse:
        """Store an event.

        Raises:
            What `convert.event_entry` and `Feed.append` raise.
        """
        try:
            entry = convert.event_entry(event, self._clock.now())
        except InvalidRequest as error:
            raise below("event", error) from None
        [appended] = await self._feed.append([entry])
        response = event_service_pb2.EmitEventResponse()
        _fill_result(response, entry.id, appended)
        return response

    async def all(self, request: event_service_pb2.BatchEmitEventsRequest) -> event_service_pb2.BatchEmitEventsResponse:
        """Store all events of a batch, or none.

        Raises:
            InvalidRequest, EventIdConflict: of one of them; names which.
            What `Feed.append` raises.
        """
        check(request)
        if request.HasField("emitter"):
            raise InvalidRequest.field("independent", "is required if emitter is set")
        await _pause_after(request)
        now, entries = self._clock.now(), list[Entry]()
        async for events in in_turns(request.events, SLICE):
            for event in events:
                try:
                    entries.append(convert.event_entry(event, now))
                except InvalidRequest as error:
                    raise below(f"events[{len(entries)}]", error) from None
        try:
            results = await self._feed.append(entries)
        except EventIdConflict as conflict:
            raise conflict.among([entry.id for entry in entries]) from None
        response = event_service_pb2.BatchEmitEventsResponse()
        async for stored in in_turns([*zip(entries, results, strict=True)], SLICE):
            for entry, appended in stored:
                _fill_result(response.results.add(), entry.id, appended)
        return response

    async def each(
        self, request: event_service_pb2.BatchEmitEventsRequest
    ) -> event_service_pb2.BatchEmitEventsResponse:
        """Store the valid events of a batch, and report what is wrong with each of the others.

        Raises:
            InvalidRequest: of the batch as a whole.
            What `Feed.append` raises.
        """
        refused: dict[int, HubError] = {**check_apart(request, "events")}
        await _pause_after(request)
        now, entries = self._clock.now(), dict[int, Entry]()
        async for events in in_turns([*enumerate(request.events)], SLICE):
            for index, event in events:
                if index not in refused:
                    try:
                        entries[index] = convert.event_entry(event, now)
                    except InvalidRequest as error:
                        refused[index] = below(f"events[{index}]", error)
        results = await self._stored(request, entries)
        response = event_service_pb2.BatchEmitEventsResponse()
        async for events in in_turns([*enumerate(request.events)], SLICE):
            for index, event in events:
                result = response.results.add()
                result.event_id = event.id
                if index in refused:
                    result.error.CopyFrom(to_status(refused[index]))
                else:
                    _report(result, request, index, results[index])
        return response

    async def _stored(
        self, request: event_service_pb2.BatchEmitEventsRequest, entries: dict[int, Entry]
    ) -> Mapping[int, Appended | None]:
        """Store the entries of an independent batch; None: the emitter's number is known."""
        if request.HasField("emitter"):
            emitter, count = request.emitter, len(request.events)
            return await self._numbered.append(emitter.emitter_id, emitter.first_sequence, count, entries)
        appended = await self._feed.append(list(entries.values()), independent=True)
        return dict(zip(entries, appended, strict=True))


async def _pause_after(request: event_service_pb2.BatchEmitEventsRequest) -> None:
    """Let other tasks run after the check of a large batch, which takes as long as its first slices."""
    if len(request.events) > SLICE:
        await asyncio.sleep(0)


def _report(
    result: event_service_pb2.EmitEventResponse,
    request: event_service_pb2.BatchEmitEventsRequest,
    index: int,
    outcome: Appended | None,
) -> None:
    """Report the outcome of one valid event of an independent batch; None: the emitter's number is known."""
    if outcome is None:
        result.duplicate = True
    elif outcome.conflict:
        result.error.CopyFrom(to_status(EventIdConflict(result.event_id, index)))
        if request.HasField("emitter"):  # it uses up its number: sent again, it is a duplicate
            log.warning(
                "a numbered event was refused for its id",
                emitter_id=request.emitter.emitter_id,
                number=request.emitter.first_sequence + index,
                event_id=result.event_id,
            )
    else:
        _fill_result(result, result.event_id, outcome)


def _fill_result(result: event_service_pb2.EmitEventResponse, event_id: str, appended: Appended) -> None:
    """Fill the result in place: appending a separate message would copy it."""
    result.event_id = event_id
    result.duplicate = appended.duplicate
    seconds, micros = divmod(appended.time, convert.MICROS)
    result.accept_time.seconds = seconds
    result.accept_time.nanos = micros * 1_000
