"""Views and lenses: what an integration may see, as a function of position, and the bytes that show it.

Lives here: which grant covers which event (a grant counts for positions after its own), narrowing, and the projection
of an event to the fields that a set of scopes shows. Must not know streams, frames or where events come from.
"""

import math
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import NamedTuple
from weakref import WeakValueDictionary

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import event_pb2, event_service_pb2

from hub import scopes as table
from hub.model import Entry, GuildAccess, IntegrationRecord

EVENT = event_pb2.Event.DESCRIPTOR.fields_by_name
_ACCEPT_TAG = EVENT["accept_time"].number << 3 | 2
_OCCUR_TAG = EVENT["occur_time"].number << 3 | 2
_ID_HEAD, _OCCUR_HEAD = bytes((EVENT["id"].number << 3 | 2,)), bytes((_OCCUR_TAG,))
_EVENTS_TAG = event_service_pb2.SubscribeResponse.DESCRIPTOR.fields_by_name["events"].number << 3 | 2


class Narrowing(NamedTuple):
    """What a stream asked to be limited to: scopes and guilds (empty = no limit), and (index, count) of a shard."""

    scopes: frozenset[int] = frozenset()
    guilds: frozenset[int] = frozenset()
    shard: tuple[int, int] | None = None


class Shape(msgspec.Struct, frozen=True, eq=False):
    """How an event of one type is shown: without these fields of its payload. Interned: compared by identity."""

    event_type: int
    withheld: frozenset[str]


_interned_shape = cache(Shape)


@cache
def _used(shape: Shape, scopes: frozenset[int]) -> frozenset[int]:
    """Which of these scopes deliver something of such an event: the event itself, or a field of it."""
    payload = table.PAYLOADS[shape.event_type]
    shown = {scope for name, scope in payload.requires.items() if name not in shape.withheld}
    return scopes & (payload.delivered_to | shown)


@cache
def _used_together(shapes: frozenset[Shape], scopes: frozenset[int]) -> frozenset[int]:
    """Which of these scopes deliver something of events in these shapes."""
    return frozenset().union(*(_used(shape, scopes) for shape in shapes))


Installed = Mapping[int, Mapping[int, int]]
"""For each guild that installed an integration: the scopes it agreed to, and the position from which each counts."""


class Lens:
    """What a view, with a stream's narrowing, amounts to while no grant begins: scopes, and guilds. Interned.

    Attributes:
        scopes: what is granted and asked for.
        shapes: by event type, how it is shown; a type that is not there is not shown.
        guilds: only these; empty = all.
        shard: only guilds with ``(id >> 22) % count == index``.
        installed: only guilds that agreed, where that is needed; then scopes count by guild and position.
        holder: the integration, where `installed` matters; "" otherwise.
    """

    __slots__ = ("__weakref__", "guilds", "holder", "installed", "scopes", "shapes", "shard")

    def __init__(self, scopes: frozenset[int], narrowing: Narrowing, installed: Installed | None, holder: str) -> None:
        self.scopes = scopes
        self.shapes = shapes_of(scopes)
        self.guilds = narrowing.guilds
        self.shard = narrowing.shard
        self.installed = installed
        self.holder = holder

    def shape(self, entry: Entry) -> Shape | None:
        """How this event is to be shown; None where it is not."""
        shape = self.shapes.get(entry.event_type)
        if shape is None:
            return None
        guild = entry.guild_id
        if self.guilds and guild not in self.guilds:
            return None
        if self.shard is not None and (guild >> 22) % self.shard[1] != self.shard[0]:
            return None
        if self.installed is not None:
            return shapes_of(self.counting(entry)).get(entry.event_type)
        return shape

    def used(self, entries: Iterable[Entry], shapes: Iterable[Shape]) -> frozenset[int]:
        """The scopes by which these events are delivered, each shown in its shape."""
        if self.installed is None:
            return _used_together(frozenset(shapes), self.scopes)
        return frozenset().union(*map(_used, shapes, map(self.counting, entries)))

    def counting(self, entry: Entry) -> frozenset[int]:
        """The scopes that count for an event: of those of the lens, where consent matters, what its guild agreed to."""
        if self.installed is None:
            return self.scopes
        agreed = self.installed.get(entry.guild_id, {})
        return frozenset(scope for scope in self.scopes if agreed.get(scope, math.inf) < entry.position)


@cache
def shapes_of(scopes: frozenset[int]) -> dict[int, Shape]:
    """How events of each type are shown to who has these scopes."""
    withheld = {number: payload.withheld(scopes) for number, payload in table.PAYLOADS.items()}
    return {number: _interned_shape(number, names) for number, names in withheld.items() if names is not None}


class Look(NamedTuple):
    """The lens for what follows a position, the position through which it holds, and the one that holds for good."""

    lens: Lens
    until: float
    final: Lens


_lenses: WeakValueDictionary[tuple[object, ...], Lens] = WeakValueDictionary()


class View:
    """What one integration may see, by the newest entry of its record (and of its installations)."""

    def __init__(self, record: IntegrationRecord, installed: Installed) -> None:
        self._grants = sorted((grant.position, grant.scope) for grant in record.grants)
        self._holder = record.integration_id
        self._installed = installed
        self._all_from = record.all_guilds_from if record.guild_access is GuildAccess.ALL else math.inf

    def scopes(self, narrowing: Narrowing) -> frozenset[int]:
        """All that is granted now, within what a stream asked for."""
        granted = frozenset(scope for _, scope in self._grants)
        return granted & narrowing.scopes if narrowing.scopes else granted

    def look(self, after: int, narrowing: Narrowing) -> "Look":
        """By which lens to look at the events right after a position."""
        final = self.scopes(narrowing)
        counting = final & frozenset(scope for position, scope in self._grants if position <= after)
        changes = (self._all_from, *(position for position, _ in self._grants))
        until = min((position for position in changes if position > after), default=math.inf)
        return Look(
            self._interned(counting, narrowing, by_consent=after < self._all_from),
            until,
            self._interned(final, narrowing, by_consent=math.isinf(self._all_from)),
        )

    def _interned(self, scopes: frozenset[int], narrowing: Narrowing, *, by_consent: bool) -> Lens:
        holder, installed = (self._holder, self._installed) if by_consent else ("", None)
        key = (scopes, narrowing.guilds, narrowing.shard, holder, id(installed) if by_consent else 0)
        lens = _lenses.get(key)
        if lens is None:
            lens = _lenses[key] = Lens(scopes, narrowing, installed, holder)
        return lens


def shown(entry: Entry, shape: Shape) -> event_pb2.Event:
    """An event as `shape` shows it."""
    return event_pb2.Event.FromString(shown_bytes(entry, shape))


def piece(entry: Entry, shape: Shape) -> bytes:
    """One event as a ready-made field of a frame, showing what `shape` shows."""
    data = shown_bytes(entry, shape)
    return _head(len(data)) + data


def shown_bytes(entry: Entry, shape: Shape) -> bytes:
    """An event on the wire, as `shape` shows it.

    The fields of a serialised message may come in any order (protobuf encoding), so the accept time is put behind what
    is stored; only an event with something to withhold is taken apart.
    """
    body = _without(entry.body, shape) if shape.withheld else entry.body
    accepted, occurred = _times(entry.time)
    return body + accepted if _has_occur_time(body) else body + accepted + occurred


def _without(body: bytes, shape: Shape) -> bytes:
    """A stored event without the fields that a shape withholds."""
    event = event_pb2.Event.FromString(body)
    payload = getattr(event, table.PAYLOADS[shape.event_type].name)
    for name in shape.withheld:
        payload.ClearField(name)
    return event.SerializeToString()


def _has_occur_time(body: bytes) -> bool:
    """Whether an event says when it happened; fields are stored in the order of their numbers, the id before it."""
    at = 2 + body[1] if body.startswith(_ID_HEAD) else 0
    return body.startswith(_OCCUR_HEAD, at)


@lru_cache(maxsize=1_024)
def _head(size: int) -> bytes:
    """What stands before an event of so many bytes in a frame. Kept: most events are about as long as others."""
    return bytes((_EVENTS_TAG,)) + varint(size)


@lru_cache(maxsize=1_024)
def _times(micros: int) -> tuple[bytes, bytes]:
    """A time as the field that says when an event was accepted, and when it occurred. Kept: a list has one time."""
    seconds, rest = divmod(micros, 1_000_000)
    time = Timestamp(seconds=seconds, nanos=rest * 1_000).SerializeToString()
    return bytes((_ACCEPT_TAG, len(time))) + time, bytes((_OCCUR_TAG, len(time))) + time


def varint(value: int) -> bytes:
    """A number as protobuf writes lengths: seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
