"""What an integration sees: its view as a function of position, and the projections that follow from it.

A grant covers the events after its own position. Projections are interned, so that streams with the same one share
encodings and chunks.
"""

import math
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple
from weakref import WeakValueDictionary

import msgspec

from hub import permissions as table
from hub.control.installations import Agreed, Excluded
from hub.model import Entry, GuildAccess, IntegrationRecord


class Narrowing(NamedTuple):
    """The limits in a Subscribe call: scopes and guilds (empty = no limit), and (index, count) of a shard."""

    scopes: frozenset[int] = frozenset()
    guilds: frozenset[int] = frozenset()
    shard: tuple[int, int] | None = None


class FieldMask(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The payload fields that events of one type are delivered without. Interned: compare by identity.

    The garbage collector does not track it, and so does not track the dictionary of each event in the window either,
    whose keys are masks: with 40,000 of those a full collection blocked the event loop for 25 ms.
    """

    event_type: int
    withheld: frozenset[str]


_interned_mask = cache(FieldMask)


@cache
def masks_of(scopes: frozenset[int]) -> dict[int, FieldMask]:
    """The field mask of each event type under these scopes; a type that is missing is not delivered."""
    withheld = {number: payload.withheld(scopes) for number, payload in table.PAYLOADS.items()}
    return {number: _interned_mask(number, names) for number, names in withheld.items() if names is not None}


@cache
def _used(mask: FieldMask, scopes: frozenset[int]) -> frozenset[int]:
    """The scopes under which such an event, or one of its fields, is delivered."""
    payload = table.PAYLOADS[mask.event_type]
    shown = {scope for name, scope in payload.requires.items() if name not in mask.withheld}
    return scopes & (payload.delivered_to | shown)


@cache
def _used_together(masks: frozenset[FieldMask], scopes: frozenset[int]) -> frozenset[int]:
    return frozenset().union(*(_used(mask, scopes) for mask in masks))


_NO_GUILDS: Excluded = {}


class Projection:
    """A view, with a stream's narrowing, between two changes of its grants: an event filter and field masks. Interned.

    Attributes:
        scopes: those that are granted and requested.
        masks: the field mask of each event type; a type that is missing is filtered out.
        guilds: only these; empty = all.
        shard: only guilds with ``(id >> 22) % count == index``.
        installed: only guilds that agreed, where consent is needed; scopes then count by guild and position.
        excluded: up to which position a guild excludes the integration.
        integration_id: set where `installed` is; "" otherwise.
    """

    __slots__ = ("__weakref__", "excluded", "guilds", "installed", "integration_id", "masks", "scopes", "shard")

    def __init__(
        self,
        scopes: frozenset[int],
        narrowing: Narrowing,
        installed: Agreed | None,
        integration_id: str,
        excluded: Excluded = _NO_GUILDS,
    ) -> None:
        self.scopes = scopes
        self.masks = masks_of(scopes)
        self.guilds = narrowing.guilds
        self.shard = narrowing.shard
        self.installed = installed
        self.integration_id = integration_id
        self.excluded = excluded

    def mask(self, entry: Entry) -> FieldMask | None:
        """The field mask of an event; None filters it out."""
        mask = self.masks.get(entry.event_type)
        if mask is None:
            return None
        guild = entry.guild_id
        if self.guilds and guild not in self.guilds:
            return None
        if self.shard is not None and (guild >> 22) % self.shard[1] != self.shard[0]:
            return None
        if self.excluded and entry.position <= self.excluded.get(guild, 0):
            return None
        if self.installed is not None:
            return masks_of(self.scopes_for(entry)).get(entry.event_type)
        return mask

    @property
    def depends_on_position(self) -> bool:
        """Whether two events of one type and guild may look different, by their positions."""
        return self.installed is not None or bool(self.excluded)

    def used(self, entries: Iterable[Entry], masks: Iterable[FieldMask]) -> frozenset[int]:
        """The scopes under which these events are delivered, each with its mask."""
        if self.installed is None:
            return _used_together(frozenset(masks), self.scopes)
        return frozenset().union(*map(_used, masks, map(self.scopes_for, entries)))

    def scopes_for(self, entry: Entry) -> frozenset[int]:
        """The scopes that count for an event: where consent is needed, those that its guild agreed to before it."""
        if self.installed is None:
            return self.scopes
        agreed = self.installed.get(entry.guild_id, {})
        return frozenset(scope for scope in self.scopes if agreed.get(scope, math.inf) < entry.position)


def shows_less(before: Projection, after: Projection, entry: Entry) -> bool:
    """Whether an event, or a field of it, that one projection shows is withheld by a later one."""
    shown, left = before.mask(entry), after.mask(entry)
    return left is None or (shown is not None and not left.withheld <= shown.withheld)


class ViewVersion(NamedTuple):
    """The version of a view: it differs if the view may have changed in between.

    Attributes:
        changes: how often the integration has changed.
        projection: the one that holds for good.
        hidden: the version of the events that are hidden from everybody, such as erased ones.
    """

    changes: int
    projection: Projection
    hidden: int


class ProjectionSpan(NamedTuple):
    """The projection after a position, the position through which it holds, and the one that holds for good."""

    projection: Projection
    until: float
    final: Projection


_projections: WeakValueDictionary[tuple[object, ...], Projection] = WeakValueDictionary()


class View:
    """What one integration may see, by its newest record, its installations and who excludes it."""

    def __init__(self, record: IntegrationRecord, installed: Agreed, excluded: Excluded = _NO_GUILDS) -> None:
        self._grants = sorted((grant.position, grant.scope) for grant in record.grants)
        self._integration_id = record.integration_id
        self._installed = installed
        self._excluded = excluded
        self._all_from = record.all_guilds_from if record.guild_access is GuildAccess.ALL else math.inf

    def scopes(self, narrowing: Narrowing) -> frozenset[int]:
        """All scopes that are granted now and requested."""
        granted = frozenset(scope for _, scope in self._grants)
        return granted & narrowing.scopes if narrowing.scopes else granted

    def at(self, position: int, narrowing: Narrowing) -> ProjectionSpan:
        """The projection of the events right after a position."""
        final = self.scopes(narrowing)
        counting = final & frozenset(scope for granted, scope in self._grants if granted <= position)
        changes = (self._all_from, *(granted for granted, _ in self._grants))
        until = min((change for change in changes if change > position), default=math.inf)
        return ProjectionSpan(
            self._interned(counting, narrowing, by_consent=position < self._all_from),
            until,
            self._interned(final, narrowing, by_consent=math.isinf(self._all_from)),
        )

    def _interned(self, scopes: frozenset[int], narrowing: Narrowing, *, by_consent: bool) -> Projection:
        integration_id, installed = (self._integration_id, self._installed) if by_consent else ("", None)
        excluded = self._excluded
        consent = (id(installed) if by_consent else 0, id(excluded) if excluded else 0)  # the projection keeps both
        key = (scopes, narrowing.guilds, narrowing.shard, integration_id, *consent)
        projection = _projections.get(key)
        if projection is None:
            projection = _projections[key] = Projection(scopes, narrowing, installed, integration_id, excluded)
        return projection
