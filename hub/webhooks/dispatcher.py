"""One endpoint: takes frames of its stream, posts them, and moves its place on a 2xx.

A frame that the receiver does not take is dropped. The stream goes back to the place, and the next body is made
of the log again, through the view of that moment: nothing that was revoked meanwhile is in it.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf
from typing import NamedTuple

from msgspec.structs import replace

from hub import metrics
from hub.clock import Clock
from hub.control.endpoint_changes import DELIVERING
from hub.control.endpoints import name_of
from hub.control.registry import Registry
from hub.delivery.cursor import CursorSeal
from hub.delivery.options import Start, SubscribeOptions
from hub.delivery.stream import Stream
from hub.delivery.streams import Streams
from hub.delivery.view import Narrowing, ViewVersion, shows_less
from hub.endpoint_model import AttemptsRecord, EndpointRecord, EndpointState, PlaceRecord
from hub.errors import EndpointNotFound, HubError
from hub.model import Cursor
from hub.webhooks import bodies
from hub.webhooks.attempts import Attempts
from hub.webhooks.bodies import Bodies, Body
from hub.webhooks.envelope import Envelope
from hub.webhooks.places import Places
from hub.webhooks.schedule import Outcome, Pace, Verdict, after, batch_after, longest_wait, pace_of
from hub.webhooks.sender import Outdated, Request, Sender

HEARTBEAT = 60.0
"""Seconds after which a stream without events reports its position."""

QUIET = 600.0
"""Seconds that a place stays where it is while the endpoint sees nothing."""

MAX_BODY = 256 * 1024
"""Bytes of a body, unless one event alone is larger."""


class Parts(NamedTuple):
    """The parts of all dispatchers. `give_up_after`: seconds of failures after which an endpoint is disabled."""

    registry: Registry
    streams: Streams
    seal: CursorSeal
    sender: Sender
    envelope: Envelope
    bodies: Bodies
    places: Places
    clock: Clock
    give_up_after: float


OnVerdict = Callable[["Dispatcher", Verdict], Awaitable[None]]
"""Is called after each attempt: the endpoint's state may have to follow."""


class NextBody(NamedTuple):
    """The next body to send.

    Attributes:
        body: the body.
        place: with what the receiver has learned by it; its cursor is still the one before.
        cursor: the place after it.
        version: of the view by which it was made.
        events: of the body, each as it is serialised.
    """

    body: Body
    place: PlaceRecord
    cursor: Cursor
    version: ViewVersion
    events: Sequence[bytes] = ()


class Dispatcher:
    """Delivers to one endpoint, until its record changes.

    Attributes:
        record: the endpoint.
        name: "<integration>/<endpoint>".
        attempts: its newest requests.
        stream: the stream that it reads; None until it has begun.
        task: the task that runs it; set by the caller that starts it.
    """

    def __init__(self, parts: Parts, record: EndpointRecord, attempts: Attempts, on_verdict: OnVerdict) -> None:
        self.record = record
        self.name = name_of(record)
        self.attempts = attempts
        self.stream: Stream | None = None
        self.task: asyncio.Task[None] | None = None
        self._parts = parts
        self._on_verdict = on_verdict
        self._in_flight: tuple[NextBody, asyncio.Future[Outcome]] | None = None
        self._tried_at = self._due = 0.0
        self._took = inf
        self._is_stopping = False

    @property
    def place(self) -> PlaceRecord:
        """The place of the endpoint."""
        return self._parts.places.of(self.record, self.name)

    @property
    def is_well(self) -> bool:
        """Whether it delivers, and the newest attempt did not fail."""
        return self.stream is not None and self.stream.ending is None and not self.place.attempts.failures

    @property
    def pace(self) -> Pace:
        """How the newest request went."""
        return pace_of(self.place.attempts, self._took)

    async def run(self) -> None:
        """Deliver until delivery to the endpoint has to end.

        Raises:
            HubError: the stream has ended, for this reason.
        """
        record = self.record
        narrowing = Narrowing(frozenset(record.scopes), frozenset(record.guild_ids))
        options = SubscribeOptions("", Start("cursor"), True, narrowing, record.max_batch_size, HEARTBEAT, 0.0)  # noqa: FBT003  it takes gaps
        streams = self._parts.streams
        async with streams.of_endpoint(
            record.integration_id, record.endpoint_id, options, self.place.cursor, self._require
        ) as stream:
            self.stream = stream
            self._set_due(self.place.attempts)
            while not self._is_stopping:
                await self._wait_for_turn()
                await self._deliver(stream, await self._next(stream))

    def _require(self) -> None:
        """Check that the endpoint is unchanged since the start, and still run by this hub.

        Raises:
            EndpointNotFound: it is not.
        """
        found = self._parts.registry.endpoints.find(self.record.integration_id, self.record.endpoint_id)
        if (
            found is None
            or found.record.state not in DELIVERING
            or essence(found.record) != essence(self.record)
            or not self._parts.places.holds(self.name)
        ):
            raise EndpointNotFound(self.record.endpoint_id)

    def refresh(self) -> None:
        """Take in what has changed: the request in flight is cut where it may hold what was taken away."""
        if self.stream is None or self.task is None:
            return
        if self.stream.ending is not None:
            self.task.cancel()
        elif self._in_flight is not None:
            turn, request = self._in_flight
            if self._is_taken_away(self.stream, turn):
                request.cancel()

    def _is_taken_away(self, stream: Stream, sent: NextBody) -> bool:
        """Whether the request in flight has an event, or a field of one, that the receiver may no longer see."""
        now, then = stream.version, sent.version
        hides = self._parts.registry.hidden.hides
        entries = (bodies.entry_of(event, sent.cursor.position) for event in sent.events)
        return now != then and any(
            hides(entry) or shows_less(then.projection, now.projection, entry) for entry in entries
        )

    def stop(self) -> None:
        """End after the request in flight, or at once if there is none."""
        self._is_stopping = True
        if self._in_flight is None and self.task is not None:
            self.task.cancel()

    async def _wait_for_turn(self) -> None:
        """Wait for the end of the back-off, and for the rate limit."""
        due = self._due
        if self._tried_at:
            due = max(due, self._tried_at + 1 / self.record.max_rate)
        wait = due - self._parts.clock.monotonic()
        if wait > 0:
            await self._parts.clock.sleep(wait)

    def _set_due(self, attempts: AttemptsRecord) -> None:
        """Take over when the next attempt is due, to the monotonic clock; a step of the wall clock adds no wait."""
        clock = self._parts.clock
        wait = (attempts.next_time - clock.now()) / 1e6
        self._due = clock.monotonic() + min(max(0.0, wait), longest_wait(attempts))

    async def _next(self, stream: Stream) -> NextBody:
        """The next body for the receiver; waits for it. Notices come first."""
        while True:
            place = self.place
            if (turn := self._notice(stream, place)) is not None:
                return turn
            frame = bodies.parse(await stream.next_frame())
            now, record = self._parts.clock.now(), self.record
            if frame.events:
                body = self._parts.bodies.events(self.name, record.format, frame, now)
                if len(body.data) > MAX_BODY and body.events > 1:
                    stream.writes.batch_limit = max(1, body.events // 2)
                    stream.back_to(place.cursor)
                    continue
            elif (notice := bodies.notice(frame)) is not None:
                kind, content, data = notice
                body = bodies.control(self.name, kind, frame.cursor, now, content, data)
            else:  # a heartbeat, or grants that have changed: the next look at the scopes says so
                self._pass_over(place, stream.writes.cursor)
                continue
            return NextBody(body, place, stream.writes.cursor, stream.version, frame.events)

    def _pass_over(self, place: PlaceRecord, cursor: Cursor) -> None:
        """Move the place over what the endpoint does not see, before retention removes it: that would be a gap."""
        if cursor.time - place.time >= min(QUIET, self._parts.give_up_after / 4) * 1e6:
            self._parts.places.move(self.name, place, cursor)

    def _notice(self, stream: Stream, place: PlaceRecord) -> NextBody | None:
        """The notice that the receiver must get before anything else, if any."""
        before, scopes = frozenset(place.scopes), stream.scopes
        is_new = place.activation != self.record.activations
        if not is_new and before == scopes:
            return None
        content = f"{self.record.activations}:{place.position}:{sorted(before)}:{sorted(scopes)}".encode()
        if is_new:
            kind, fields = "ready", bodies.ready(scopes)
        else:
            reason = self._parts.registry.integration(self.record.integration_id).reason
            kind, fields = "grants_changed", bodies.grants_changed(before, scopes, reason)
        cursor = self._parts.seal.seal(place.cursor).decode()
        body = bodies.control(self.name, kind, cursor, self._parts.clock.now(), content, fields)
        learned = replace(place, activation=self.record.activations, scopes=tuple(sorted(scopes)))
        return NextBody(body, learned, place.cursor, stream.version)

    async def _deliver(self, stream: Stream, next_body: NextBody) -> None:
        """Send a body; then move on, or go back to the place."""
        parts, before = self._parts, self.place.attempts
        request = parts.envelope.request(
            self.record,
            next_body.body,
            before.failures + 1,
            self.pace,
            lambda: stream.may_send and stream.version == next_body.version,
        )
        since_last = parts.clock.monotonic() - self._tried_at if self._tried_at else 0.0
        began, self._tried_at = parts.clock.now(), parts.clock.monotonic()
        outcome = await self._outcome(request, next_body)
        used = stream.statistics.take_used()
        if outcome is None:
            stream.back_to(self.place.cursor)
            return
        made, verdict = after(before, outcome, parts.clock.now(), since_last, random.random(), parts.give_up_after)  # noqa: S311  spreads retries
        stream.writes.batch_limit = batch_after(
            stream.writes.batch_limit, next_body.body.events, outcome, self.record.max_batch_size
        )
        if verdict is Verdict.COMMIT:
            self._took = outcome.seconds
            parts.places.advance(self.name, replace(next_body.place, attempts=made), next_body.cursor)
            parts.registry.usage.note_stream(self.record.integration_id, used)
            metrics.WEBHOOK_EVENTS.add(next_body.body.events)
            with suppress(HubError):  # what is not stored now is confirmed by a later body
                await stream.arrived(next_body.cursor)
        else:
            stream.back_to(self.place.cursor)
            parts.places.note(self.name, made)
        self._set_due(made)
        self.attempts.add(began, next_body.body, outcome, made.next_time)
        if stream.version.hidden != next_body.version.hidden:
            self.attempts.forget_events()  # its event may have been erased in this very moment
        await self._on_verdict(self, verdict)

    async def _outcome(self, request: Request, next_body: NextBody) -> Outcome | None:
        """The outcome of a request; None if it was cut, or not sent, because the view has changed."""
        request_task = asyncio.ensure_future(self._parts.sender.post(request))
        self._in_flight = next_body, request_task
        try:
            await asyncio.wait({request_task})
            return None if request_task.cancelled() else request_task.result()
        except Outdated:
            return None
        finally:
            self._in_flight = None
            request_task.cancel()


def essence(record: EndpointRecord) -> EndpointRecord:
    """A record without the fields that change during delivery: a dispatcher goes on while the rest is unchanged."""
    return replace(record, state=EndpointState.ACTIVE, update_time=0, verify_time=0, forgeries=0)
