"""One live stream: what it may see now, its place in the log, its notices, its pace, and how it ends.

Must not know gRPC: a handler asks for the next frame and writes it, with no await in between. Nor other streams
(``streams.py``).
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from hub.clock import Clock
from hub.control.registry import Registry
from hub.delivery.asked import Place, Subscription
from hub.delivery.cursor import CursorSeal
from hub.delivery.ends import expired
from hub.delivery.feed import Batch, Feed
from hub.delivery.frames import frame
from hub.delivery.interest import Interest
from hub.delivery.views import Look, View, piece
from hub.errors import HubError, StorageUnavailable, SubscriptionNotFound, SubscriptionTakenOver
from hub.model import Caller, Entry

MAX_SAMPLES = 20
"""Test events that wait in line; while so many do, no other is taken."""

SLOW_WRITE = 1.0
"""Seconds: a write that takes longer halves the next frame."""


class Notices(Protocol):
    """What a stream has to say beside events, as ready fields of a frame; made by who knows the contract."""

    def ready(self, stream: "Stream") -> bytes:
        """The stream is open."""
        ...

    def heartbeat(self, stream: "Stream", lag: float, *, caught_up: bool) -> bytes:
        """Nothing to see; `lag` in seconds."""
        ...

    def grants_changed(self, added: Iterable[int], removed: Iterable[int], reason: str) -> bytes:
        """The stream has other scopes from here on."""
        ...

    def gap(self, from_time: int, to_time: int, *, restored: bool) -> bytes:
        """What was accepted between two times (microseconds) is gone: by retention, or by a restore."""
        ...

    def goodbye(self, reason: str, retry_delay: float) -> bytes:
        """The hub is about to end the stream; connect again after `retry_delay` seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every stream of a hub works with."""

    registry: Registry
    feed: Feed
    seal: CursorSeal
    notices: Notices
    clock: Clock
    is_current: Callable[[], bool]
    _views: dict[str, tuple[object, object, View]] = field(default_factory=dict)

    def view(self, integration_id: str) -> View:
        """What an integration may see now; made anew when its record or its installations have changed."""
        held, installed = self.registry.integration(integration_id), self.registry.installations.agreed(integration_id)
        known = self._views.get(integration_id)
        if known is None or known[0] is not held or known[1] is not installed:
            known = self._views[integration_id] = (held, installed, View(held.record, installed))
        return known[2]


class Stream:
    """One open stream. Its handler alone calls `next_frame` and `wrote`; everything else may be called by anyone.

    Attributes:
        position: what lies after it was not handed out yet.
        scopes: what it acts by, as of the newest change.
        write_began: when the handler began to write the frame in its hand; 0 = it writes none.
        on_stall: drops the stream, with this failure, when a write takes too long; returns what ends when nothing is
            left of it, which may be when its reader's connection ends. None: that is under way already.
    """

    def __init__(self, around: Surroundings, caller: Caller, asked: Subscription, stream_id: str, place: Place) -> None:
        self.stream_id = stream_id
        self.caller = caller
        self.asked = asked
        self.position = place.position
        self.open_time = around.clock.now()
        self.scopes = around.view(caller.integration_id).scopes(asked.narrowing)
        self.write_began = 0.0
        self.on_stall: Callable[[HubError], asyncio.Future[None] | None] = lambda _: None
        self._around = around
        self._pace = asked.batch
        self._patience = asked.heartbeat * 0.9  # seconds of silence until a heartbeat is due: less than promised
        self._used: frozenset[int] = frozenset()
        self._notices: list[bytes] = []
        self._samples: list[Entry] = []
        self._ending: HubError | None = None
        self._wake: asyncio.Future[None] | None = None
        self._reached = place.time
        self._epoch = place.epoch
        self._last_frame = around.clock.monotonic()
        self._silence_timer: asyncio.TimerHandle | None = None
        self._key_timer: asyncio.TimerHandle | None = None
        self._lens, self._until, final = self._look()
        self._interest: Interest = around.feed.join(final)
        self._takes_any_first = asked.start.kind == "earliest"

    def begin(self) -> None:
        """Say that it is open, and start its timers.

        Raises:
            CursorExpired: history is gone where it is to start, and it does not want to go on after a gap.
        """
        self._notices.append(self._around.notices.ready(self))
        self._require_history()  # where it goes on after a Gap, Ready's cursor still stands before that
        self._watch_key()
        self._watch_silence()

    def close(self) -> None:
        """Let go of everything; the handler's last word."""
        self._interest.sleepers.discard(self.wake)
        self._around.feed.leave(self._interest)
        for timer in (self._silence_timer, self._key_timer):
            if timer is not None:
                timer.cancel()

    async def next_frame(self) -> bytes:
        """Wait for what is to be written next. Write it at once: with an await in between it may be outdated.

        Raises:
            HubError: the stream has ended, for this reason.
        """
        while True:
            if self._notices:
                return self._frame(self._notices.pop(0), 0)
            if self._ending is not None:
                raise self._ending
            if self._samples and (sample := self._shown(self._samples.pop(0))):
                return self._frame(sample, 0)
            if not self._around.is_current():  # a revocation may have been missed
                raise StorageUnavailable
            ready = self._take()
            if isinstance(ready, bytes):
                return ready
            await ready

    def _take(self) -> bytes | Awaitable[None]:
        """The next frame, or what to wait for before looking again. No await: what it decides by cannot move."""
        self._mind_history()
        if self._notices:
            return self._frame(self._notices.pop(0), 0)
        if self.position >= self._until:
            self._move_lens()
        batch = self._around.feed.take(self._interest, self._lens, self.position, self._until, self._pace)
        if isinstance(batch, Batch):
            self.position = batch.through
            if not batch.events:
                self._reached = batch.time or self._time
                return asyncio.sleep(0)
            if not batch.scopes <= self._used:
                self._used |= batch.scopes
            self._takes_any_first = False
            return self._frame(batch.data, batch.time)
        if self._silent_for() >= self._patience:
            return self._frame(self._around.notices.heartbeat(self, self.lag, caught_up=batch is None), 0)
        return self._sleep() if batch is None else self._load(batch.page)

    @property
    def lag(self) -> float:
        """Seconds: at most this old is the oldest event that it may see and was not handed out; 0 = there is none."""
        feed = self._around.feed
        oldest = feed.oldest(self._interest, self._lens, self.position)
        if oldest is None:
            return 0.0
        since = oldest or max(self._reached, feed.first_time)
        return max(0, self._around.clock.now() - since) / 1_000_000

    @property
    def _time(self) -> int:
        """When its place was reached, or some time before: at the end of the log that is now."""
        at_end = self.position >= self._around.feed.through and not self._is_restored
        return self._around.clock.now() if at_end else self._reached

    def wrote(self, seconds: float) -> None:
        """Tell how long a write took: a slow reader gets smaller frames, a quick one full ones again."""
        if seconds > SLOW_WRITE:
            self._pace = max(1, self._pace // 2)
        elif self._pace < self.asked.batch:
            self._pace = min(self.asked.batch, self._pace * 2)

    def end(self, ending: HubError, farewell: bytes | None = None) -> None:
        """End the stream for a reason, after a last notice; the first reason stands."""
        if self._ending is None:
            self._ending = ending
            self._notices = [farewell] if farewell is not None else []
            self.wake()

    @property
    def ending(self) -> HubError | None:
        """Why it has ended, but for what is still being written; None = it goes on."""
        return self._ending

    def send_test(self, entry: Entry) -> bool:
        """Show a sample on the stream, if its view shows it and not too many wait already; tells whether it does."""
        if not self._shown(entry) or self._ending is not None or len(self._samples) >= MAX_SAMPLES:
            return False
        self._samples.append(entry)
        self.wake()
        return True

    def _shown(self, entry: Entry) -> bytes:
        """A sample as the view shows it now; b"" where it does not."""
        shape = self._interest.lens.shape(entry)
        return piece(entry, shape) if shape is not None else b""

    def take_used(self) -> frozenset[int]:
        """The scopes that delivered something since this was last asked."""
        used, self._used = self._used, frozenset()
        return used

    def wake(self) -> None:
        """Let it look again, if it sleeps."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def refresh(self) -> None:
        """Take in what has changed: key, state, claim, grants. Frames from here on are by the new view."""
        if self._ending is not None:
            return  # its last notice is chosen
        try:
            self.require()
        except HubError as ending:
            self.end(ending)
            return
        before, self.scopes = self.scopes, self._around.view(self.caller.integration_id).scopes(self.asked.narrowing)
        if before != self.scopes:
            reason = self._around.registry.integration(self.caller.integration_id).reason
            changed = self._around.notices.grants_changed(self.scopes - before, before - self.scopes, reason)
            self._notices.append(changed)
        self._move_lens()
        self._watch_key()
        self.wake()

    def require(self) -> None:
        """Check that the stream may go on.

        Raises:
            HubError: why it may not.
        """
        registry, caller = self._around.registry, self.caller
        registry.require_live(caller.key_id)
        registry.require_open(caller.integration_id)
        claim = registry.claims.get(f"{caller.integration_id}/{self.asked.subscription_id}")
        if claim is None:
            raise SubscriptionNotFound("the subscription was deleted")
        if claim != self.stream_id:
            raise SubscriptionTakenOver(self.asked.subscription_id)

    def _look(self) -> Look:
        return self._around.view(self.caller.integration_id).look(self.position, self.asked.narrowing)

    def _move_lens(self) -> None:
        """Take the lens that holds at the stream's place, and hang on the one that will hold for good."""
        self._lens, self._until, final = self._look()
        if final is not self._interest.lens:
            left, self._interest = self._interest, self._around.feed.join(final)
            left.sleepers.discard(self.wake)
            self._around.feed.leave(left)

    @property
    def _is_restored(self) -> bool:
        """Whether its place is one of the log before a restore."""
        return self._epoch != self._around.feed.epoch

    @property
    def _is_expired(self) -> bool:
        """Whether what follows its place is not all there."""
        return self._is_restored or self.position + 1 < self._around.feed.first

    def _require_history(self) -> None:
        """Check that the stream may go on where it stands, be it after a gap.

        Raises:
            CursorExpired: what follows is not all there, and it does not want that.
        """
        if self._is_expired and not self.asked.gaps and not self._takes_any_first:
            raise expired(restored=self._is_restored)

    def _mind_history(self) -> None:
        """Go on after a Gap where what the stream still had to see is gone, or end; never go on silently.

        The Gap is the very next frame: a cursor after it is nowhere to be had before it. None is told where the stream
        is to begin with the oldest event there is, and has not begun.
        """
        if not self._is_expired:
            return
        self._require_history()
        feed = self._around.feed
        if not self._takes_any_first:
            self._notices.append(self._around.notices.gap(self._reached, feed.first_time, restored=self._is_restored))
        self.position, self._reached, self._epoch = feed.first - 1, feed.first_time, feed.epoch
        self._move_lens()

    def _frame(self, data: bytes, time: int) -> bytes:
        self._last_frame = self._around.clock.monotonic()
        self._reached = time or self._time
        return frame(self._around.seal.seal(self._epoch, self.position, self._reached), data)

    def _sleep(self) -> asyncio.Future[None]:
        """What ends with the next event of the lens, a change, or the time for a heartbeat."""
        self._wake = asyncio.get_running_loop().create_future()
        self._interest.sleepers.add(self.wake)
        return self._wake

    async def _load(self, page: int) -> None:
        """Wait for a page of the log, or for a change; who wants the page then finds the same read under way.

        Raises:
            What ``Feed.load`` raises.
        """
        loading = asyncio.ensure_future(self._around.feed.load(page))
        loading.add_done_callback(self._on_loaded)
        self._wake = asyncio.get_running_loop().create_future()
        await self._wake
        if loading.done():
            loading.result()

    def _on_loaded(self, loading: asyncio.Future[None]) -> None:
        if not loading.cancelled():
            loading.exception()  # the stream may have gone on without it
        self.wake()

    def _silent_for(self) -> float:
        return self._around.clock.monotonic() - self._last_frame

    def _watch_silence(self) -> None:
        """Wake when a heartbeat is due; one timer a stream, set anew only when it fires."""
        left = self._patience - self._silent_for()
        if left <= 0:
            self.wake()
            left = self._patience
        self._silence_timer = asyncio.get_running_loop().call_later(left, self._watch_silence)

    def _watch_key(self) -> None:
        """Look again when the key ends."""
        if self._key_timer is not None:
            self._key_timer.cancel()
        left = self._around.registry.seconds_left(self._around.registry.require_live(self.caller.key_id))
        if math.isfinite(left):
            self._key_timer = asyncio.get_running_loop().call_later(left + 0.001, self.refresh)
