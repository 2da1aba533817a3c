"""The events of the load: about 100 bytes each, of every type, in a few guilds, with time-ordered ids."""

import time
from collections.abc import Iterator, Sequence

from tickets.hub.v1 import event_pb2, event_service_pb2

GUILDS = [str(700_000_000_000_000_000 + number) for number in range(20)]
EVENT_TYPES = [
    event_pb2.Event.DESCRIPTOR.fields_by_name[name].number
    for name in ("ticket_created", "transcript_created", "member_verified", "drop_claimed", "ticket_closed")
]
TYPES = len(EVENT_TYPES)
CURSOR = "A" * 64
"""As long as the hub's."""

MARKER = b"\n$" + f"{time.time_ns() // 1_000_000:012x}"[:4].encode()
"""How each event begins on the wire: its id's tag, length and first digits, which change every 50 days. Frames are
counted by it without being parsed."""


def event_id(number: int) -> str:
    """A UUIDv7 in text, the number in its random part: unique within a run."""
    milliseconds = f"{time.time_ns() // 1_000_000:012x}"
    tail = f"{number:015x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7{tail[:3]}-8{tail[3:6]}-000{tail[6:]}"


def type_of(number: int) -> int:
    """Which of the types an event of the load has."""
    return number % TYPES


def guild_of(number: int) -> int:
    """Index of the guild that an event of the load is of."""
    return number // TYPES % len(GUILDS)


def event(number: int) -> event_pb2.Event:
    """The event with this number."""
    made = event_pb2.Event(id=event_id(number), guild_id=GUILDS[guild_of(number)])
    made.occur_time.FromNanoseconds(time.time_ns() // 1_000 * 1_000)
    user = str(800_000_000_000_000_000 + number)
    kind = type_of(number)
    if kind == 0:
        made.ticket_created.creator_user_id = user
    elif kind == 1:
        made.transcript_created.creator_user_id = user
    elif kind == 2:
        made.member_verified.user_id = user
    elif kind == 3:
        made.drop_claimed.xp_amount = number
    else:
        made.ticket_closed.message_count = number % 1_000
    return made


def emit_request(first: int, batch: int) -> bytes:
    """A request that emits events from this number on; `batch` 0: a single one."""
    if not batch:
        return event_service_pb2.EmitEventRequest(event=event(first)).SerializeToString()
    events = [event(first + index) for index in range(batch)]
    return event_service_pb2.BatchEmitEventsRequest(events=events).SerializeToString()


def frame(first: int, events: int) -> bytes:
    """What the hub would write for so many events: what the floor has ready."""
    made = event_service_pb2.SubscribeResponse(cursor=CURSOR, events=[event(first + n) for n in range(events)])
    for one in made.events:
        one.accept_time.CopyFrom(one.occur_time)
    return made.SerializeToString()


def numbers_in(data: bytes) -> Iterator[int]:
    """The numbers of the events in a frame: the last digits of their ids."""
    at = data.find(MARKER)
    while at >= 0:
        yield int(data[at + 29 : at + 38], 16)
        at = data.find(MARKER, at + 38)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of sorted values lies; 0 of none."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0
