"""What streams were sent: noted with each frame and stored within seconds, so that every recipient is known.

The record of an open stream says from which position on nothing is stored yet: after a crash everything from there on
counts as sent.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from hub.clock import Clock
from hub.control.registry import Registry
from hub.control.sent import SentSpan, extended, opened
from hub.delivery.view import Projection
from hub.errors import Conflict, StorageUnavailable
from hub.model import Entry
from hub.privacy_model import SentRecord, SentView
from hub.slices import STORED_AT_ONCE, one_by_one, slices
from hub.state import SENT
from hub.storage import Log

PERIOD = 10.0
"""Seconds between two saves; an erasure requests one at once."""

INTERVALS_AT_ONCE = 1_000
"""Intervals that are looked at, or stored, in one step of the event loop; one record may have as many."""

COST_OF_A_RECORD = 10
"""The intervals that take as long as a record without any."""

ATTEMPTS = 10
"""Attempts of a save if other hubs keep changing the records."""


@dataclass(slots=True)
class _Span:
    """A run of positions that a stream passed with one projection and one state of consent."""

    projection: Projection
    as_of: int
    after: int
    through: int


class Unsaved:
    """What one stream was sent since this was last stored."""

    __slots__ = ("_spans",)

    def __init__(self) -> None:
        self._spans: list[_Span] = []

    def note(self, projection: Projection, as_of: int, after: int, through: int) -> None:
        """Note that the events after a position and through another were sent through a projection."""
        last = self._spans[-1] if self._spans else None
        if last is not None and last.projection is projection and last.as_of == as_of and last.through == after:
            last.through = through
        else:
            self._spans.append(_Span(projection, as_of, after, through))

    def take(self) -> list[SentSpan]:
        """The intervals since the last call."""
        spans, self._spans = self._spans, []
        return [(span.after, span.through, view_of(span.projection, span.as_of)) for span in spans]


def view_of(projection: Projection, as_of: int) -> SentView:
    """A projection in its stored form. `as_of` matters only for consent, exclusions and sharing."""
    return SentView(
        tuple(sorted(projection.scopes)),
        tuple(sorted(projection.guilds)),
        projection.shard,
        by_consent=projection.installed is not None,
        as_of=as_of,
    )


def nothing(_: str) -> None:
    """No stream is open."""


class SentLog:
    """Stores what streams were sent, by "<integration>/<subscription>"."""

    def __init__(self, log: Log, registry: Registry, clock: Clock) -> None:
        self._log = log
        self._registry = registry
        self._clock = clock
        self._unsaved: dict[str, list[SentSpan]] = {}
        self._open: dict[str, tuple[int, SentView] | None] = {}
        self._saved = clock.monotonic()
        self._is_full_save_due = False
        self._saving = asyncio.Lock()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._version = registry.hidden.version
        self._name = secrets.token_hex(4)
        self._deleted: dict[str, int] = {}

    def note(
        self, name: str, spans: list[SentSpan], position: int, view: SentView | None, *, is_last: bool = True
    ) -> None:
        """Note what a subscription was sent.

        Args:
            name: the subscription.
            spans: what it was sent since the last call.
            position: how far its stream is.
            view: the stream's view from here on; None: it has ended.
            is_last: no newer stream has taken over at this hub.
        """
        self._unsaved.setdefault(name, []).extend(spans)
        if is_last:
            self._open[name] = (position, view) if view is not None else None

    def is_due(self) -> bool:
        """Whether a save is due; after an erasure it is due at once."""
        is_late = self._clock.monotonic() - self._saved >= PERIOD
        return is_late or self._is_full_save_due or self._registry.hidden.version != self._version

    async def save(self, first: int, collect: Callable[[str], None] = nothing) -> None:
        """Store what was noted since the last call.

        Args:
            first: the log's oldest position.
            collect: notes what the open streams of an integration were sent. It is called right before their records
                are appended: a record counts as complete for every erasure that is before it in the log.

        Raises:
            StorageFull, StorageUnavailable: it is not stored; the next call tries again.
        """
        async with self._saving:  # two concurrent saves would drop the same notes, and the second one newer notes, too
            await self._save(first, collect)

    async def _save(self, first: int, collect: Callable[[str], None]) -> None:
        self._saved = self._clock.monotonic()
        version = self._registry.hidden.version
        is_full, self._is_full_save_due = self._is_full_save_due or version != self._version, False
        try:
            for names in self._slices(list(self._unsaved)):
                await self._save_some(names, first, collect, is_full=is_full)
            await self._delete_expired(first)
        except BaseException:
            self._is_full_save_due |= is_full
            raise
        self._version = version

    def _slices(self, names: Sequence[str]) -> Iterator[list[str]]:
        """Names, some at a time: as many as have `INTERVALS_AT_ONCE` together."""
        some: list[str] = []
        size = 0
        for name in names:
            stored = self._stored(name)
            some.append(name)
            size += COST_OF_A_RECORD + len(self._unsaved.get(name, ())) + (len(stored.intervals) if stored else 0)
            if size >= INTERVALS_AT_ONCE:
                yield some
                some, size = [], 0
        if some:
            yield some

    async def _save_some(
        self, names: Sequence[str], first: int, collect: Callable[[str], None], *, is_full: bool
    ) -> None:
        """Store what was noted of some subscriptions; without `is_full` only the records that change."""
        for _ in range(ATTEMPTS):
            for integration_id in {name.partition("/")[0] for name in names}:
                collect(integration_id)
            noted = {name: (list(self._unsaved[name]), self._open.get(name)) for name in names}
            changed = {name: self._record(name, *parts, first) for name, parts in noted.items()}
            if not await self._append({n: new for n, new in changed.items() if is_full or new != self._stored(n)}):
                continue
            for name, (spans, is_open) in noted.items():
                del self._unsaved[name][: len(spans)]
                if is_open is None and self._open.get(name) is None and not self._unsaved[name]:
                    del self._unsaved[name]
                    self._open.pop(name, None)
            return
        raise StorageUnavailable

    async def _delete_expired(self, first: int) -> None:
        """Delete the records of which the log no longer holds any event; one that changes meanwhile stays for now."""
        stored = self._registry.readers.sent.records
        expired = [name async for name in one_by_one(list(stored), INTERVALS_AT_ONCE) if self._is_expired(name, first)]
        for names in slices(expired, STORED_AT_ONCE):
            await self._append({name: None for name in names if self._is_expired(name, first)})

    def _is_expired(self, name: str, first: int) -> bool:
        record = self._stored(name)
        return (
            record is not None
            and name not in self._unsaved
            and record.open_after < 0
            and all(one.through < first for one in record.intervals)
        )

    async def begin(self, name: str, position: int, view: SentView) -> None:
        """Store that a subscription has a stream, before it is sent anything.

        If its last stream is not known to have ended, everything since counts as sent to it.

        Raises:
            StorageFull, StorageUnavailable: it is not stored.
        """
        async with self._lock(name):  # many streams of one subscription may open at once
            await self._begin(name, position, view)

    async def _begin(self, name: str, position: int, view: SentView) -> None:
        for _ in range(ATTEMPTS):
            record, spans = self._stored(name), list[SentSpan]()
            start = position
            if record is not None and record.open_after >= 0:
                if record.open_at == self._name:
                    start = min(start, record.open_after)  # of the stream before, not all is stored yet
                else:
                    views = {record.open_as, view}  # its grants may have grown since it was opened
                    spans += [(record.open_after, self._registry.through, each) for each in views]
            if await self._append({name: opened(extended(record, spans, 0), start, view, self._name)}):
                self._open[name] = (start, view)  # a save that runs must not take the stream before for the last one
                return
        raise StorageUnavailable

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    @property
    def live(self) -> frozenset[str]:
        """The subscriptions that have an open stream here alone; a `save` stores everything about them."""
        names = (name for name, is_open in self._open.items() if is_open is not None)
        return frozenset(name for name in names if not self._is_open_elsewhere(self._stored(name)))

    def request_full_save(self) -> None:
        """Make the next save store every record, even unchanged ones: an erasure needs that."""
        self._is_full_save_due = True

    def _stored(self, name: str) -> SentRecord | None:
        stored = self._registry.readers.sent.records.get(name)
        return stored.record if stored is not None else None

    def _record(
        self, name: str, spans: list[SentSpan], is_open: tuple[int, SentView] | None, first: int
    ) -> SentRecord | None:
        stored = self._stored(name)
        record = extended(stored, spans, first)
        if stored is not None and (
            self._is_open_elsewhere(stored) or (stored.open_after >= 0 and self._is_beginning(name))
        ):
            return opened(record, stored.open_after, stored.open_as, stored.open_at)
        if is_open is not None:
            return opened(record, *is_open, self._name)
        return record if record.intervals else None

    def _is_open_elsewhere(self, record: SentRecord | None) -> bool:
        """Whether another hub has the stream, or had it when it was killed: only a new stream takes its place."""
        return record is not None and record.open_after >= 0 and record.open_at != self._name

    def _is_beginning(self, name: str) -> bool:
        """Whether a stream is just being opened here: its record may be stored before it is noted."""
        lock = self._locks.get(name)
        return lock is not None and lock.locked()

    async def _append(self, changed: dict[str, SentRecord | None]) -> bool:
        """Store records; False: another hub has changed one meanwhile."""
        if not changed:
            return True
        stored = self._registry.readers.sent
        expect = {SENT.key(name): stored.position(name) or self._deleted.get(name, 0) for name in changed}
        try:
            appended = await self._log.append([self._entry(name, record) for name, record in changed.items()], expect)
        except Conflict as conflict:
            self._deleted[SENT.rest(conflict.key)] = conflict.position  # counts where it is a tombstone
            await self._registry.wait_applied((await self._log.bounds()).last)
            return False
        for name in changed:
            self._deleted.pop(name, None)
        await self._registry.wait_applied(appended[-1].position)
        return True

    def _entry(self, name: str, record: SentRecord | None) -> Entry:
        return SENT.entry(SENT.key(name), self._clock.now(), record)
