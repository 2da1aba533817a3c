"""Encodes stored events as fields of a frame, and joins fields to frames.

The fields of a serialised message may come in any order (protobuf encoding), so a frame is a join of ready-made fields.
"""

from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import event_pb2, event_service_pb2

from hub import permissions as table
from hub.delivery.view import FieldMask
from hub.model import Entry

_EVENT = event_pb2.Event.DESCRIPTOR.fields_by_name
_RESPONSE = event_service_pb2.SubscribeResponse.DESCRIPTOR.fields_by_name
_ACCEPT_TAG = _EVENT["accept_time"].number << 3 | 2
_OCCUR_TAG = _EVENT["occur_time"].number << 3 | 2
_ID_HEAD, _OCCUR_HEAD = bytes((_EVENT["id"].number << 3 | 2,)), bytes((_OCCUR_TAG,))
_EVENTS_TAG = _RESPONSE["events"].number << 3 | 2
_CURSOR_TAG = _RESPONSE["cursor"].number << 3 | 2


def frame(cursor: bytes, body: bytes) -> bytes:
    """A `SubscribeResponse` on the wire: the cursor (under 128 bytes), then fields that are serialised already."""
    return bytes((_CURSOR_TAG, len(cursor))) + cursor + body


def encode(entry: Entry, mask: FieldMask) -> bytes:
    """One event as the field `events` of a frame, without the fields that the mask withholds."""
    return event_field(masked_bytes(entry, mask))


def event_field(data: bytes) -> bytes:
    """A serialised event as the field `events` of a frame."""
    return _head(len(data)) + data


def masked(entry: Entry, mask: FieldMask) -> event_pb2.Event:
    """One event as a message, without the fields that the mask withholds."""
    return event_pb2.Event.FromString(masked_bytes(entry, mask))


def masked_bytes(entry: Entry, mask: FieldMask) -> bytes:
    """One event on the wire: the stored bytes, then its times. Only an event with a field to withhold is parsed."""
    body = _without(entry.body, mask) if mask.withheld else entry.body
    accepted, occurred = _times(entry.time)
    return body + accepted if _has_occur_time(body) else body + accepted + occurred


def _without(body: bytes, mask: FieldMask) -> bytes:
    event = event_pb2.Event.FromString(body)
    payload = getattr(event, table.PAYLOADS[mask.event_type].name)
    for name in mask.withheld:
        payload.ClearField(name)
    return event.SerializeToString()


def _has_occur_time(body: bytes) -> bool:
    """Whether an event has `occur_time`. Stored fields are in the order of their numbers: only the id precedes it."""
    at = 2 + body[1] if body.startswith(_ID_HEAD) else 0
    return body.startswith(_OCCUR_HEAD, at)


@lru_cache(maxsize=1_024)
def _head(size: int) -> bytes:
    """The bytes before an event of `size` bytes in a frame. Cached: most events have similar sizes."""
    return bytes((_EVENTS_TAG,)) + varint(size)


@lru_cache(maxsize=1_024)
def _times(micros: int) -> tuple[bytes, bytes]:
    """A time as the fields `accept_time` and `occur_time`. Cached: the events of one batch share a time."""
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
