"""Disclosures: the events about a subject, matched with what each subscription was really sent.

Consent and sharing count as of the moment an event went out: they are read from the log up to that position.
"""

import asyncio
from bisect import bisect_right, insort
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

import msgspec

from hub.clock import Clock
from hub.control.installations import Installations
from hub.control.registry import Registry
from hub.control.sent import SentSpan, intervals_of
from hub.control.sharing import Sharing
from hub.delivery.options import OF_ENDPOINT
from hub.delivery.view import Narrowing, Projection
from hub.model import Entry
from hub.permissions import PAYLOADS
from hub.privacy_model import Channel, DisclosureRecord, SentRecord, SentView
from hub.slices import Steps
from hub.state import INSTALLATION, SHARING
from hub.storage import Log
from hub.subjects import Subject, concerns

HISTORY = 500
"""Entries of state that are read at once."""
OTHERS = 3.0
"""Seconds within which other hubs store what they sent; for a hub that does not, everything counts as sent."""
LOOK_AGAIN = 0.05

_after, _number, _position = attrgetter("after"), attrgetter("number"), attrgetter("position")

Flush = Callable[[], Awaitable[frozenset[str]]]
"""A function that stores what this hub's readers were sent so far; returns the subscriptions with a stream here."""


@dataclass(slots=True)
class Tally:
    """What one integration was sent about a subject by one channel."""

    events: int = 0
    first_time: int = 0
    last_time: int = 0
    scopes: set[int] = field(default_factory=set)
    fields: dict[str, None] = field(default_factory=dict)

    def add(self, entry: Entry, scopes: Iterable[int], withheld: frozenset[str]) -> None:
        """Count an event."""
        self.events += 1
        self.first_time = self.first_time or entry.time
        self.last_time = entry.time
        self.scopes.update(scopes)
        payload = PAYLOADS[entry.event_type]
        shown = [f"{payload.name}.{name}" for name in payload.fields if name not in withheld]
        self.fields.update(dict.fromkeys(shown or [payload.name]))

    def record(self, by: Channel) -> DisclosureRecord:
        """The same as a record."""
        scopes, fields = tuple(sorted(self.scopes)), tuple(self.fields)
        return DisclosureRecord(by, self.events, self.first_time, self.last_time, scopes, fields)


Way = tuple[str, Channel]
"""An integration, and how it was sent something."""


class _Span(msgspec.Struct, frozen=True, gc=False):
    """Positions that one integration was sent, by a projection, while some guilds shared nothing.

    The garbage collector does not track it: there may be ten thousand. `number`: its place among all.
    """

    number: int
    way: Way
    after: int
    through: int
    projection: Projection
    unshared: Mapping[int, float]


class Recipients:
    """The recipients at one moment; events about a subject are added one by one, in the order of the log.

    Only the spans around an event are looked at: most integrations were not connected when it happened.
    """

    def __init__(self, spans: Iterable[_Span]) -> None:
        """Of several spans by which an integration was sent an event, the one with the lowest number counts."""
        self._tallies: dict[Way, Tally] = {}
        self._coming = sorted(spans, key=_after, reverse=True)
        self._around: dict[Way, list[_Span]] = {}

    def add(self, entry: Entry, subject: Subject) -> None:
        """Count an event about a subject for each integration that was sent it, once for each channel."""
        self._move_to(entry.position)
        for way, spans in self._around.items():
            for span in spans:
                if self._shows(span, entry, subject, way):
                    break

    def _move_to(self, position: int) -> None:
        """Find the spans around a position, which is not before the last one."""
        while self._coming and self._coming[-1].after < position:
            span = self._coming.pop()
            if position <= span.through:
                insort(self._around.setdefault(span.way, []), span, key=_number)
        for way in [way for way, spans in self._around.items() if any(span.through < position for span in spans)]:
            left = [span for span in self._around[way] if position <= span.through]
            if left:
                self._around[way] = left
            else:
                del self._around[way]

    def disclosures(self) -> dict[str, tuple[DisclosureRecord, ...]]:
        """What each integration was sent, by its id."""
        found: dict[str, tuple[DisclosureRecord, ...]] = {}
        for (integration_id, by), tally in sorted(self._tallies.items()):
            found[integration_id] = (*found.get(integration_id, ()), tally.record(by))
        return found

    def _shows(self, span: _Span, entry: Entry, subject: Subject, way: Way) -> bool:
        if entry.position <= span.unshared.get(entry.guild_id, 0):
            return False
        mask = span.projection.mask(entry)
        if mask is None or not concerns(entry, subject, mask.withheld):
            return False
        tally = self._tallies.setdefault(way, Tally())
        tally.add(entry, span.projection.used([entry], [mask]), mask.withheld)
        return True


class Disclosures:
    """Makes `Recipients` from what the hubs have stored about it."""

    def __init__(self, store: Log, registry: Registry, flush: Flush, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._flush = flush
        self._clock = clock

    async def recipients(self, erasure_position: int = 0) -> Recipients:
        """The recipients so far; for an erasure, after every hub has stored what it sent earlier.

        Raises:
            StorageFull, StorageUnavailable: not now.
        """
        live = await self._flush()
        await self._wait_for_others(erasure_position)
        records = self._registry.readers.sent.records
        spans: list[_Span] = []
        views, steps = _Views(self._store, self._registry), Steps()
        for name in sorted(records):
            if (stored := records.get(name)) is None:
                continue  # deleted meanwhile, because the log holds none of its events
            integration_id, _, subscription_id = name.partition("/")
            way = integration_id, Channel.WEBHOOK if subscription_id.startswith(OF_ENDPOINT) else Channel.STREAM
            is_exact = name in live or stored.position > erasure_position > 0
            for after, through, view in self._sent(stored.record, is_exact=is_exact):
                projection, unshared = await views.of(integration_id, view)
                spans.append(_Span(len(spans), way, after, through, projection, unshared))
            await steps.pause()
        return Recipients(spans)

    async def _wait_for_others(self, position: int) -> None:
        until = self._clock.monotonic() + OTHERS
        records = self._registry.readers.sent.records
        while position and self._clock.monotonic() < until:
            if all(stored.position > position for stored in records.values() if stored.record.open_after >= 0):
                return
            await asyncio.sleep(LOOK_AGAIN)

    def _sent(self, record: SentRecord, *, is_exact: bool) -> list[SentSpan]:
        """The intervals of a subscription; if its stream broke off without a record, everything since then."""
        spans = intervals_of(record)
        if record.open_after >= 0 and not is_exact:
            spans.append((record.open_after, self._registry.through, record.open_as))
        return spans


class _Views:
    """The projections of one search, and who shared nothing then: equal views of one moment have them in common."""

    def __init__(self, store: Log, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._projections: dict[tuple[object, ...], Projection] = {}
        self._unshared: dict[int, Mapping[int, float]] = {}
        self._entries: dict[str, list[Entry]] = {}

    async def of(self, integration_id: str, view: SentView) -> tuple[Projection, Mapping[int, float]]:
        """The projection of a view that was in force, and up to which position guilds shared nothing."""
        return await self._projection(integration_id, view), await self._unshared_at(view.as_of)

    async def _projection(self, integration_id: str, view: SentView) -> Projection:
        installations = self._registry.installations
        changed, decisions = installations.changed(integration_id), list[Entry]()
        if is_earlier := view.as_of < changed:
            decisions = await self._until(f"{INSTALLATION.name}/{integration_id}/", view.as_of)
            changed = decisions[-1].position if decisions else 0
        owner = integration_id if is_earlier or view.by_consent or installations.excluded(integration_id) else ""
        key = (view.scopes, view.guilds, view.shard, view.by_consent, owner, changed if owner else 0)
        projection = self._projections.get(key)
        if projection is None:
            known = _replayed(decisions) if is_earlier else installations
            projection = self._projections[key] = Projection(
                frozenset(view.scopes),
                Narrowing(frozenset(), frozenset(view.guilds), view.shard),
                known.agreed(integration_id) if view.by_consent else None,
                integration_id if view.by_consent else "",
                known.excluded(integration_id),
            )
        return projection

    async def _unshared_at(self, position: int) -> Mapping[int, float]:
        sharing = self._registry.hidden.sharing
        changed, decisions = sharing.changed, list[Entry]()
        if is_earlier := position < changed:
            decisions = await self._until(f"{SHARING.name}/", position)
            changed = decisions[-1].position if decisions else 0
        unshared = self._unshared.get(changed)
        if unshared is None:
            if is_earlier:
                sharing = Sharing()
                for entry in decisions:
                    sharing.apply(entry)
            unshared = self._unshared[changed] = dict(sharing.hidden_through)
        return unshared

    async def _until(self, prefix: str, position: int) -> list[Entry]:
        """The entries of state under a prefix up to a position, the oldest first."""
        entries = await self._history(prefix)
        return entries[: bisect_right(entries, position, key=_position)]

    async def _history(self, prefix: str) -> list[Entry]:
        """The entries of state under a prefix, the oldest first; read once in a search."""
        entries = self._entries.get(prefix)
        if entries is None:
            entries = []
            before = self._registry.through + 1
            while before:
                page = await self._store.history(before, HISTORY, prefix)
                entries += page.entries
                before = page.through
            entries.reverse()
            self._entries[prefix] = entries
        return entries


def _replayed(decisions: Iterable[Entry]) -> Installations:
    """What guilds had decided once these entries were there."""
    installations = Installations()
    for entry in decisions:
        installations.begin()
        installations.apply(entry)
    return installations
