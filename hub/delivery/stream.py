"""One live stream: its view, its next frame, and how it ends.

It knows neither gRPC (a handler asks for the next frame and writes it, with no await in between) nor other streams.
"""

import asyncio
from collections.abc import Awaitable

from hub import metrics
from hub.control.sent import SentSpan
from hub.delivery.bounds import expired
from hub.delivery.chunks import Batch
from hub.delivery.deps import StreamDeps
from hub.delivery.encoding import encode, frame
from hub.delivery.feed import Missing
from hub.delivery.linger import Pending
from hub.delivery.membership import Membership
from hub.delivery.notice_queue import NoticeQueue
from hub.delivery.options import Subscriber
from hub.delivery.progress import Progress
from hub.delivery.sent_log import view_of
from hub.delivery.statistics import Statistics
from hub.delivery.timers import Timers
from hub.delivery.view import ProjectionSpan, ViewVersion
from hub.delivery.wakeup import Wakeup
from hub.delivery.writes import OnStall, Writes
from hub.errors import HubError, StorageUnavailable, StreamEnded, SubscriptionNotFound, SubscriptionTakenOver
from hub.model import Cursor, Entry
from hub.privacy_model import NoticeRecord, SentView


class Stream:
    """One open stream. Only its handler calls `next_frame` and the methods of `writes`.

    Attributes:
        subscriber: its reader.
        progress: its position in the log.
        scopes: those that are granted now and that it requested.
        statistics: what it has delivered.
        writes: the writes of its handler.
        ending: the reason why it ends, after its last notice; None while it goes on.
    """

    def __init__(self, deps: StreamDeps, subscriber: Subscriber, start: Cursor, on_stall: OnStall) -> None:
        """Join the fan-out at a position; `close` ends it, `begin` is due in between."""
        options = subscriber.options
        self.subscriber = subscriber
        self.progress = Progress(deps, start, accepts_any_start=options.start.kind == "earliest")
        self.scopes = deps.views.of(subscriber.integration_id).scopes(options.narrowing)
        self.statistics = Statistics(deps.clock.now())
        self.writes = Writes(start, options.batch, on_stall)
        self.ending: HubError | None = None
        self._deps = deps
        self._queue = NoticeQueue()
        self._wakeup = Wakeup()
        self._timers = Timers(deps.clock, self._wakeup, options.heartbeat, options.linger)
        self._reported_silence = False
        self._membership = Membership(deps.feed, self._wakeup, self._span())

    def begin(self) -> None:
        """Queue Ready, and start the timers.

        Raises:
            CursorExpired: history is gone where it starts, and it does not accept a Gap.
        """
        if not self.subscriber.is_endpoint:  # its dispatcher knows what its receiver has learned
            self._queue.notices.append(self._deps.notices.ready(self))
        self._queue_erased()
        self._require_history()  # where it continues after a Gap, Ready's cursor is still the one before the Gap
        self._watch_key()
        self._timers.watch_silence()

    def close(self) -> None:
        """Release everything; the handler's last call."""
        self._membership.leave()
        self._timers.cancel()

    async def next_frame(self) -> bytes:
        """Wait for the next frame. Write it at once: after an await in between it may be outdated.

        Raises:
            HubError: the stream has ended, for this reason.
        """
        queue = self._queue
        if queue.sending is not None:
            self._note_sent()
        while True:
            if queue.notices:
                return self._frame(queue.notices.pop(0), 0)
            if self.ending is not None:
                raise self.ending
            if not self._deps.freshness.is_fresh():  # a revocation may have been missed
                ready = self._wait_for_store()
            elif queue.erased:
                ready = self._erased(queue.erased.pop(0))
            elif queue.samples and (sample := self._project(queue.samples.pop(0))):
                return self._frame(sample, 0)
            else:
                ready = self._take()
            if isinstance(ready, bytes):
                return ready
            await ready

    def _take(self) -> bytes | Awaitable[None]:
        """The next frame, or a future to wait for before trying again.

        There is no await, so the state cannot change in between.
        """
        progress, membership, damage = self.progress, self._membership, self._deps.feed.damage
        if progress.is_expired:
            self._handle_truncation()
            if self._queue.notices:
                return self._frame(self._queue.notices.pop(0), 0)
        if progress.position >= membership.until:
            membership.move(self._span())
        if not damage:
            return self._take_events(membership.until)
        damaged = damage.after(progress.position)
        if damaged == progress.position + 1:
            return self._pass_damage()
        return self._take_events(min(membership.until, damaged - 1))

    def _take_events(self, until: float) -> bytes | Awaitable[None]:
        """Like `_take`, with the events of the log through a position."""
        progress, membership = self.progress, self._membership
        if self._timers.linger.seconds and (pending := self._pending(until)) is not None:
            return membership.linger(pending)
        group, projection, limit = membership.group, membership.projection, self.writes.batch_limit
        batch = self._deps.feed.take(group, projection, progress.position, until, limit, membership.turn)
        if isinstance(batch, Batch):
            as_of = self._deps.registry.consent_position(self.subscriber.integration_id)
            progress.unsaved.note(membership.projection, as_of, progress.position, batch.through)
            progress.position = batch.through
            if not batch.events:
                progress.reach(batch.time)
                return asyncio.sleep(0)
            progress.accepts_any_start = False
            self.statistics.add(batch.events, batch.scopes)
            if not self.subscriber.is_endpoint:
                metrics.DELIVERED.add(batch.events)
            return self._frame(batch.data, batch.time)
        if self._timers.is_heartbeat_due or self._reported_silence:
            self._reported_silence = False
            return self._frame(self._deps.notices.heartbeat(self, self.lag, caught_up=batch is None), 0)
        if isinstance(batch, Missing):
            return self._load(batch.page)
        return membership.wait() if batch is None else self._wakeup.sleep()

    def _pending(self, until: float) -> Pending | None:
        """The next events, if they may wait for others as this reader asked; never longer than until a heartbeat."""
        progress, membership, timers = self.progress, self._membership, self._timers
        membership.stop_lingering()
        if timers.is_heartbeat_due or self._reported_silence:
            return None
        limit = self.writes.batch_limit
        pending = self._deps.feed.pending(membership.group, membership.projection, progress.position, until, limit)
        return pending if pending is not None and timers.linger.goes_on(pending.first) else None

    def _wait_for_store(self) -> bytes | Awaitable[None]:
        """Say at once, and with each heartbeat, that the store does not answer; the cursor does not move."""
        freshness = self._deps.freshness
        if freshness.is_lost:
            raise StorageUnavailable
        if self._reported_silence and not self._timers.is_heartbeat_due:
            return self._membership.wait()
        self._reported_silence = True
        lag = max(self.lag, freshness.silence)
        return self._frame(self._deps.notices.heartbeat(self, lag, caught_up=False, store_silent=True), 0)

    @property
    def lag(self) -> float:
        """How far it is behind, in seconds: an upper bound of the age of its next event; 0 if no event follows.

        The time for which it lingers does not count, because its reader requested that.
        """
        feed, membership = self._deps.feed, self._membership
        oldest = feed.oldest(membership.group, membership.projection, self.progress.position)
        if oldest is None:
            return 0.0
        since = oldest or max(self.progress.time, feed.earliest.time)
        return max(0.0, (self._deps.clock.now() - since) / 1_000_000 - self._timers.linger.seconds)

    def end(self, ending: HubError, farewell: bytes | None = None) -> None:
        """End the stream for a reason, after a last notice; a second call has no effect."""
        if self.ending is None:
            self.ending = ending
            self._queue.finish(farewell)
            self.wake()

    def send_test(self, entry: Entry) -> bool:
        """Queue a test event; returns False where its projection filters it out, or too many wait already."""
        if not self._project(entry) or self.ending is not None or not self._queue.add_sample(entry):
            return False
        self.wake()
        return True

    def _project(self, entry: Entry) -> bytes:
        """A test event through the current projection; b"" where it is filtered out."""
        mask = self._membership.group.projection.mask(entry)
        return encode(entry, mask) if mask is not None else b""

    def back_to(self, cursor: Cursor) -> None:
        """Continue from an earlier cursor, and drop what waits: what was sent since has not arrived."""
        self._queue.notices.clear()
        self._queue.take_back()
        self._queue_erased()
        self.progress.move(cursor)
        self.progress.accepts_any_start = False
        self._membership.move(self._span())

    @property
    def version(self) -> ViewVersion:
        """The version of what is shown at this moment."""
        membership = self._membership
        return ViewVersion(membership.changes, membership.group.projection, self._deps.registry.hidden.version)

    async def arrived(self, cursor: Cursor) -> None:
        """Note that an endpoint's receiver has everything up to a cursor, which also confirms erasures.

        Raises:
            StorageFull, StorageUnavailable: it is not stored; a later cursor confirms.
        """
        sent = self._queue.sending
        self._note_sent()
        erasure_id = sent.erasure_id if sent is not None else ""
        await self._deps.confirmations.arrived(self.subscriber.integration_id, cursor, erasure_id)

    @property
    def may_send(self) -> bool:
        """Whether a frame that was made may be sent: the stream has not ended, and this replica is fresh."""
        return self.ending is None and self._deps.freshness.is_fresh()

    def wake(self) -> None:
        """Wake the stream, if it sleeps."""
        self._wakeup.wake()

    def refresh(self) -> None:
        """Apply a change of key, state, claim or grants. The next frame is the first one of the new view."""
        if self.ending is not None:
            return  # its last notice is chosen
        try:
            self.require()
        except HubError as ending:
            is_announced = isinstance(ending, StreamEnded)
            goodbye = self._deps.notices.goodbye
            self.end(ending, goodbye(ending.message, ending.retry_after or 0) if is_announced else None)
            return
        integration_id, options = self.subscriber.integration_id, self.subscriber.options
        before, self.scopes = self.scopes, self._deps.views.of(integration_id).scopes(options.narrowing)
        if before != self.scopes:
            reason = self._deps.registry.integration(integration_id).reason
            changed = self._deps.notices.grants_changed(self.scopes - before, before - self.scopes, reason)
            self._queue.notices.append(changed)
        self._membership.refresh(self._span())
        self._queue_erased()
        self._watch_key()
        self.wake()

    def take_sent(self) -> tuple[list[SentSpan], int, SentView]:
        """What it was sent since the last call, its position, and its current view."""
        as_of = self._deps.registry.consent_position(self.subscriber.integration_id)
        return self.progress.unsaved.take(), self.progress.position, view_of(self._membership.group.projection, as_of)

    def _queue_erased(self) -> None:
        """Queue the erasures that are not confirmed; an admin's tail gets none."""
        if not self.subscriber.is_tail:
            notices = self._deps.registry.hidden.erasures.notices
            self._queue.add_erased(notices.unconfirmed(self.subscriber.integration_id))

    def _erased(self, notice: NoticeRecord) -> bytes | Awaitable[None]:
        """A frame that announces an erasure; without one if its subject is no longer kept."""
        erasures = self._deps.registry.hidden.erasures
        subject = erasures.subject(notice.erasure_id)
        if subject is None:
            return asyncio.sleep(0)
        self._queue.sending = notice
        if not self.subscriber.is_endpoint:
            self._deps.confirmations.begin_frame(notice, self.subscriber.name)
        request_time = erasures.require(notice.erasure_id).record.request_time
        return self._frame(self._deps.notices.erased(subject, notice, request_time), 0)

    def _note_sent(self) -> None:
        """Note that the transport took the last frame: the handler asks for the next one."""
        if self._queue.sending is not None:
            self._deps.confirmations.note_sent(self._queue.sending)
            self._queue.sending = None

    def require(self) -> None:
        """Check that the stream may continue.

        Raises:
            HubError: the reason why it may not.
        """
        registry, subscriber = self._deps.registry, self.subscriber
        if subscriber.guard is not None:
            registry.require_open(subscriber.integration_id)
            subscriber.guard()
            return
        registry.keyring.require_live(subscriber.caller.key_id)
        registry.require_open(subscriber.integration_id)
        if not subscriber.is_tail:
            self._require_claim()

    def _require_claim(self) -> None:
        """Check that no newer stream has claimed its subscription."""
        readers, subscriber = self._deps.registry.readers, self.subscriber
        claim, ended = readers.claims.get(subscriber.name), readers.ended.get(subscriber.name)
        if claim is None:
            raise SubscriptionNotFound("the subscription was deleted")
        if ended is not None and ended.stream_id == subscriber.stream_id:
            raise StreamEnded(ended.reason)
        if claim.record.stream_id != subscriber.stream_id:
            raise SubscriptionTakenOver(subscriber.options.subscription_id)

    def _span(self) -> ProjectionSpan:
        view = self._deps.views.of(self.subscriber.integration_id)
        return view.at(self.progress.position, self.subscriber.options.narrowing)

    def _require_history(self) -> None:
        self.progress.require_history(gaps=self.subscriber.options.gaps)

    def _handle_truncation(self) -> None:
        """The next events are gone: continue after a Gap, or end; never continue silently.

        The Gap is always the next frame, so no cursor beyond it is sent earlier. A stream that starts at
        `earliest` and has delivered nothing gets no Gap.

        Raises:
            CursorExpired: it does not accept a Gap.
        """
        progress, earliest = self.progress, self._deps.feed.earliest
        self._require_history()
        if not progress.accepts_any_start:
            self._queue.notices.append(self._deps.notices.gap(progress.time, earliest.time, progress.cause))
        progress.move(earliest)
        self._membership.move(self._span())

    def _pass_damage(self) -> bytes:
        """Continue after damaged events, with a Gap: which streams were to get them is unknown.

        Raises:
            CursorExpired: the stream does not accept a Gap.
        """
        if not self.subscriber.options.gaps:
            raise expired("DAMAGE")
        progress, from_time = self.progress, self.progress.time
        progress.position, to_time = self._deps.feed.damage.end_of(progress.position + 1)
        return self._frame(self._deps.notices.gap(from_time, max(from_time, to_time), "DAMAGE"), to_time)

    def _frame(self, data: bytes, time: int) -> bytes:
        self._timers.last_frame = self._deps.clock.monotonic()
        cursor = self.writes.cursor = self.progress.reach(time)
        made = frame(self._deps.seal.seal(cursor), data)
        if not self.subscriber.is_endpoint:
            metrics.FRAMES.add()
            metrics.FRAME_BYTES.add(len(made))
        return made

    async def _load(self, page: int) -> None:
        """Wait for a page of the log, or for a change; the streams that want the same page share its read.

        Raises:
            What ``Log.read`` raises.
        """
        loading = asyncio.ensure_future(self._deps.feed.load(page))
        loading.add_done_callback(self._on_loaded)
        await self._wakeup.sleep()
        if loading.done():
            loading.result()
        else:
            loading.remove_done_callback(self._on_loaded)

    def _on_loaded(self, loading: asyncio.Future[None]) -> None:
        if not loading.cancelled():
            loading.exception()  # the stream may have continued without it
        self.wake()

    def _watch_key(self) -> None:
        """Refresh when the key ends; an endpoint has no key."""
        if self.subscriber.is_endpoint:
            return
        registry, key_id = self._deps.registry, self.subscriber.caller.key_id
        self._timers.watch_key(registry.keyring.seconds_left(registry.keyring.require_live(key_id)), self.refresh)
