"""Disclosures: the events about a subject, matched with what each subscription was really sent.

Consent and sharing count as of the moment an event went out: they are read from the log up to that position.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

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
from hub.state import INSTALLATION, SHARING
from hub.storage import Log
from hub.subjects import Subject, concerns

HISTORY = 500
"""Entries of state that are read at once."""
OTHERS = 3.0
"""Seconds within which other hubs store what they sent; for a hub that does not, everything counts as sent."""
LOOK_AGAIN = 0.05

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


@dataclass(frozen=True, slots=True)
class _Span:
    """Positions that were sent, by a projection, while some guilds shared nothing."""

    after: int
    through: int
    projection: Projection
    unshared: Mapping[int, float]


_Way = tuple[str, Channel]
"""An integration, and how it was sent something."""


class Recipients:
    """The recipients at one moment; events about a subject are added one by one."""

    def __init__(self, spans: Mapping[_Way, list[_Span]]) -> None:
        self._tallies: dict[_Way, Tally] = {}
        self._spans = spans

    def add(self, entry: Entry, subject: Subject) -> None:
        """Count an event about a subject for each integration that was sent it, once for each channel."""
        for way, spans in self._spans.items():
            for span in spans:
                if span.after < entry.position <= span.through and self._shows(span, entry, subject, way):
                    break

    def disclosures(self) -> dict[str, tuple[DisclosureRecord, ...]]:
        """What each integration was sent, by its id."""
        found: dict[str, tuple[DisclosureRecord, ...]] = {}
        for (integration_id, by), tally in sorted(self._tallies.items()):
            found[integration_id] = (*found.get(integration_id, ()), tally.record(by))
        return found

    def _shows(self, span: _Span, entry: Entry, subject: Subject, way: _Way) -> bool:
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
        spans: dict[_Way, list[_Span]] = {}
        for name, (record, position, _) in sorted(records.items()):
            integration_id, _, subscription_id = name.partition("/")
            way = integration_id, Channel.WEBHOOK if subscription_id.startswith(OF_ENDPOINT) else Channel.STREAM
            for span in self._sent(record, is_exact=name in live or position > erasure_position > 0):
                spans.setdefault(way, []).append(await self._span(integration_id, span))
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

    async def _span(self, integration_id: str, sent: SentSpan) -> _Span:
        after, through, view = sent
        installations, sharing = await self._consent(integration_id, view)
        narrowing = Narrowing(frozenset(), frozenset(view.guilds), view.shard)
        projection = Projection(
            frozenset(view.scopes),
            narrowing,
            installations.agreed(integration_id) if view.by_consent else None,
            integration_id if view.by_consent else "",
            installations.excluded(integration_id),
        )
        return _Span(after, through, projection, dict(sharing.hidden_through))

    async def _consent(self, integration_id: str, view: SentView) -> tuple[Installations, Sharing]:
        """The decisions of guilds when a view was in force."""
        registry = self._registry
        if view.as_of >= registry.consent_position(integration_id):
            return registry.installations, registry.hidden.sharing
        installations, sharing = Installations(), Sharing()
        for entry in await self._history(f"{INSTALLATION.name}/{integration_id}/", view.as_of):
            installations.begin()
            installations.apply(entry)
        for entry in await self._history(f"{SHARING.name}/", view.as_of):
            sharing.apply(entry)
        return installations, sharing

    async def _history(self, prefix: str, through: int) -> list[Entry]:
        """The entries of state under a prefix up to a position, the oldest first."""
        entries: list[Entry] = []
        before = through + 1
        while before:
            page = await self._store.history(before, HISTORY, prefix)
            entries += page.entries
            before = page.through
        return entries[::-1]
