"""Requests of the client: where a stream starts, its narrowing, event ids and batches."""

import itertools
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypedDict

from tickets_hub.v1.developer_service_pb2 import RotateOwnKeyRequest
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import OnExpiredCursor, Shard, SubscribeRequest
from tickets_hub.v1.permissions_pb2 import Scope
from tickets_hub.v1.permissions_pb2 import scope as scope_rule

MAX_BATCH = 1_000
"""Events in one ``BatchEmitEvents``. The contract's own rule; written here because rules are not options that this
package can read without a validator. A test holds the two together. 1,000 events of the largest kind are below
the hub's 1 MiB, so that the number alone decides."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscription starts; made by one of the class methods. Without one the hub decides."""

    form: Literal["latest", "earliest", "committed", "cursor", "since"]
    value: str = ""
    time: datetime | None = None

    @classmethod
    def latest(cls) -> "Start":
        """With what is accepted from now on."""
        return cls("latest")

    @classmethod
    def earliest(cls) -> "Start":
        """With the oldest event that is kept and that the grants cover."""
        return cls("earliest")

    @classmethod
    def committed(cls) -> "Start":
        """After what was last committed for this subscription; NOT_FOUND (SUBSCRIPTION_NOT_FOUND) if nothing was.

        Without any start the hub does the same, but begins with the latest where nothing was committed.
        """
        return cls("committed")

    @classmethod
    def since(cls, time: datetime) -> "Start":
        """With the first event accepted at this time or later; ValueError for a time without its zone."""
        if time.tzinfo is None:
            raise ValueError("the time needs a zone: datetime(2030, 1, 1, tzinfo=UTC)")
        return cls("since", time=time)

    @classmethod
    def cursor(cls, cursor: str) -> "Start":
        """After a place that was kept: ``Subscription.cursor`` of an earlier run."""
        return cls("cursor", cursor)

    def put_into(self, request: SubscribeRequest) -> None:
        """Make it the start of a request."""
        if self.form == "cursor":
            request.cursor = self.value
        elif self.time:
            request.since.FromDatetime(self.time)
        else:
            getattr(request, self.form).SetInParent()


class SubscribeOptions(TypedDict, total=False):
    """What ``subscribe`` takes beside callbacks; each may be left out.

    Attributes:
        subscription_id: names this reader, by default "default"; of two streams of one name the newer takes over.
        start: where to start, once; after a broken connection the subscription resumes by itself.
        on_expired_cursor: if events after the start are no longer kept: "fail" (the default) with CURSOR_EXPIRED,
            or go on with the "earliest" event that is kept, after a ``Gap`` notice.
        scopes: act as if only these were granted; names ("ticket_created" or "SCOPE_TICKET_CREATED") or values of
            ``enum Scope``.
        guild_ids: only events of these Discord servers; strings or ints.
        shard: (index, count): only the servers of one of Discord's shards.
        max_batch_size: the most events in a frame, 1-1,000; 100 by default.
        heartbeat_interval: seconds, 1-60; 15 by default. Silence of twice that and a second counts as
            a dead connection.
        linger: seconds, 0-5: for how long the hub may hold back an event, so that one frame carries those that follow,
            too. For a reader that does without milliseconds; the notice ``Ready`` has the effective time.
        integration_id: with an admin's key, which integration's view to tail: no stream of it is taken over, nothing is
            committed. Leave `subscription_id` out then.
        reason: why, for the audit trail; with an admin's key.
    """

    subscription_id: str
    start: Start | None
    on_expired_cursor: Literal["fail", "earliest"]
    scopes: Iterable[str | int]
    guild_ids: Iterable[str | int]
    shard: tuple[int, int]
    max_batch_size: int
    heartbeat_interval: float
    linger: float
    integration_id: str
    reason: str


def subscribe_request(options: SubscribeOptions) -> SubscribeRequest:
    """The request for these options. ValueError for a scope that the contract does not know."""
    request = SubscribeRequest(
        subscription_id=options.get("subscription_id", ""),
        scopes=[scope_value(scope) for scope in options.get("scopes", ())],
        guild_ids=[str(guild_id) for guild_id in options.get("guild_ids", ())],
        max_batch_size=options.get("max_batch_size", 0),
        integration_id=options.get("integration_id", ""),
        reason=options.get("reason", ""),
    )
    if start := options.get("start"):
        start.put_into(request)
    if on_expired := options.get("on_expired_cursor"):
        request.on_expired_cursor = OnExpiredCursor.Value(f"ON_EXPIRED_CURSOR_{on_expired.upper()}")
    if shard := options.get("shard"):
        request.shard.CopyFrom(Shard(index=shard[0], count=shard[1]))
    if interval := options.get("heartbeat_interval"):
        request.heartbeat_interval.FromNanoseconds(round(interval * 1e9))
    if linger := options.get("linger"):
        request.linger.FromNanoseconds(round(linger * 1e9))
    return request


def rotate_request(overlap: float | None) -> RotateOwnKeyRequest:
    """The request for a new key of the caller's own integration; `overlap`: seconds, None = as the hub has it."""
    request = RotateOwnKeyRequest()
    if overlap is not None:
        request.overlap.FromNanoseconds(round(overlap * 1e9))
    return request


def scope_value(scope: str | int) -> Scope.ValueType:
    """A scope by its name, short or as in the enum, or by its number. ValueError names the scopes that there are."""
    values = {v.GetOptions().Extensions[scope_rule].name: v.number for v in Scope.DESCRIPTOR.values if v.number}
    if scope in values.values():
        return Scope.ValueType(int(scope))
    if scope in Scope.keys() and Scope.Value(str(scope)):  # noqa: SIM118  protobuf's enum is no dict
        return Scope.Value(str(scope))
    if scope not in values:
        raise ValueError(f"there is no scope {scope!r}; there are {', '.join(values)}")
    return Scope.ValueType(values[str(scope)])


def event_id(unix_seconds: float, randomness: int | None = None) -> str:
    """A new id for an event, ordered by time: a UUIDv7 (RFC 9562), which Python 3.11 cannot make by itself.

    Args:
        unix_seconds: now.
        randomness: 74 bits; drawn when not given.
    """
    bits = secrets.randbits(74) if randomness is None else randomness
    milliseconds = int(unix_seconds * 1000) & (1 << 48) - 1
    value = milliseconds << 80 | 0x7 << 76 | (bits >> 62 & 0xFFF) << 64 | 0b10 << 62 | bits & (1 << 62) - 1
    digits = f"{value:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def with_id(event: Event, unix_seconds: float) -> Event:
    """The event itself, with a new id where it had none: a caller that repeats it after an error repeats its id.

    TypeError for anything but an event: in a shared call it would concern others, too.
    """
    if not isinstance(event, Event):
        raise TypeError(f"an Event is emitted, not a {type(event).__name__}")
    if not event.id:
        event.id = event_id(unix_seconds)
    return event


def batches(events: Iterable[Event], unix_clock: Callable[[], float]) -> Iterator[list[Event]]:
    """The events in the order given, each with an id, in lists that the hub takes at once."""
    named = (with_id(event, unix_clock()) for event in events)
    while batch := list(itertools.islice(named, MAX_BATCH)):
        yield batch
