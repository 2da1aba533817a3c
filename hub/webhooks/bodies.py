"""The bodies of requests: frames of a stream in the formats that endpoints ask for.

From the fields of a frame to the bytes of a body. An event's JSON is made once for each set of its fields, and all
endpoints share it. It does not know who gets a body.
"""

from collections.abc import Callable, Iterable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import event_pb2, event_service_pb2, permissions_pb2

from hub import permissions as table
from hub.clock import rfc3339
from hub.delivery.encoding import event_field
from hub.endpoint_model import BodyFormat
from hub.model import Entry, Kind

JSON = "application/json"
CLOUDEVENTS = "application/cloudevents-batch+json"
PROTOBUF = "application/x-protobuf"

PIECES_BYTES = 16 * 1024 * 1024
"""The most bytes of cached JSON, of single events and of those of a body, with its keys: the events themselves."""

_encoder = msgspec.json.Encoder()
_RESPONSE = event_service_pb2.SubscribeResponse.DESCRIPTOR.fields_by_name
_CURSOR_TAG = _RESPONSE["cursor"].number << 3 | 2
_EVENTS_TAG = _RESPONSE["events"].number << 3 | 2


class Frame(NamedTuple):
    """A frame, taken apart.

    Attributes:
        cursor: after it, sealed.
        events: each as it is serialised.
        notice: the rest; None where it holds nothing but events.
    """

    cursor: str
    events: list[bytes]
    notice: event_service_pb2.SubscribeResponse | None


class Body(NamedTuple):
    """A body: `content` is the same for all attempts, `data` is what this attempt sends."""

    kind: str
    content_type: str
    content: bytes
    data: bytes
    cursor: str
    events: int = 0
    first_event_id: str = ""


def parse(data: bytes) -> Frame:
    """The fields of a frame that ``delivery/encoding.py`` made: the cursor first, then fields of one kind."""
    cursor, events, at, end = "", list[bytes](), 0, len(data)
    while at < end:
        tag, length, start = data[at], data[at + 1], at
        at += 2
        if length >= 0x80:
            length, at = _length(data, at - 1)
        if tag == _CURSOR_TAG:
            cursor = data[at : at + length].decode()
        elif tag == _EVENTS_TAG:
            events.append(data[at : at + length])
        else:
            return Frame(cursor, events, event_service_pb2.SubscribeResponse.FromString(data[start:]))
        at += length
    return Frame(cursor, events, None)


def _length(data: bytes, at: int) -> tuple[int, int]:
    """The length at an offset, and the offset after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def entry_of(event: bytes, position: int) -> Entry:
    """An event of a frame as an entry of the log at a position."""
    message = event_pb2.Event.FromString(event)
    kind = table.EVENT_TYPES[message.WhichOneof("payload") or ""]
    return Entry(Kind.EVENT, 0, event, "", message.id, kind, int(message.guild_id), position)


class Bodies:
    """Makes bodies, and caches the JSON of the newest events."""

    def __init__(self) -> None:
        self._pieces: dict[bytes, bytes] = {}
        self._size = 0

    def events(self, name: str, body_format: BodyFormat, frame: Frame, now: int) -> Body:
        """The body of a frame's events.

        Args:
            name: "<integration>/<endpoint>".
            body_format: how the endpoint wants it.
            frame: one that holds events.
            now: microseconds.
        """
        content = b"".join(frame.events)
        first = event_pb2.Event.FromString(frame.events[0]).id
        if body_format is BodyFormat.PROTOBUF:
            content_type, data = PROTOBUF, b"".join(map(event_field, frame.events))
        elif body_format is BodyFormat.CLOUDEVENTS:
            content_type, data = CLOUDEVENTS, b"[" + b",".join(map(cloud_event, frame.events)) + b"]"
        else:
            pieces = self._joined(frame.events, content)
            head = _encoder.encode(_envelope("events", name, now, {"cursor": frame.cursor}))
            content_type, data = JSON, head[:-2] + b',"events":[' + pieces + b"]}}"
        return Body("events", content_type, content, data, frame.cursor, len(frame.events), first)

    def forget(self) -> None:
        """Drop the cache: some of it may have been erased."""
        self._pieces.clear()
        self._size = 0

    def _joined(self, events: list[bytes], content: bytes) -> bytes:
        """The JSON of some events, with commas between; endpoints of one view have most bodies in common."""
        if len(events) == 1:
            return self._piece(content)
        joined = self._pieces.get(content)
        if joined is None:
            joined = b",".join(map(self._piece, events))
            self._keep(content, joined)
        return joined

    def _piece(self, event: bytes) -> bytes:
        piece = self._pieces.get(event)
        if piece is None:
            piece = event_json(event)
            self._keep(event, piece)
        return piece

    def _keep(self, key: bytes, piece: bytes) -> None:
        self._size += len(key) + len(piece)
        if self._size > PIECES_BYTES:
            self.forget()
            self._size = len(key) + len(piece)
        self._pieces[key] = piece


STREAMS_ALONE = frozenset({"cursor", "events", "ready", "heartbeat", "grants_changed", "goodbye"})
"""Fields of a frame that are no bodies: what receivers learn of scopes follows from their places."""


def notice(frame: Frame) -> tuple[str, bytes, dict[str, Any]] | None:
    """What a frame says beside events, as a gap: its type, the bytes that name it, its fields; None: nothing."""
    fields = frame.notice.ListFields() if frame.notice is not None else ()
    for field, value in fields:
        if field.name not in STREAMS_ALONE:
            return field.name, value.SerializeToString(deterministic=True), as_dict(value)
    return None


def control(  # noqa: PLR0913  what the envelope holds
    name: str, kind: str, cursor: str, now: int, content: bytes, fields: dict[str, Any]
) -> Body:
    """A control body; `content` distinguishes it from the previous control body."""
    data = _encoder.encode(_envelope(kind, name, now, {"cursor": cursor} | fields))
    return Body(kind, JSON, content, data, cursor)


def challenge(text: str, now: int) -> Body:
    """The body of a challenge, which the receiver must return."""
    data = _encoder.encode({"type": "verification", "timestamp": rfc3339(now), "data": {"challenge": text}})
    return Body("verification", JSON, text.encode(), data, "")


def ready(scopes: frozenset[int]) -> dict[str, Any]:
    """The body that begins delivery."""
    return {"effective_scopes": scope_names(scopes), "withheld_fields": list(table.withheld_fields(scopes))}


def grants_changed(before: frozenset[int], after: frozenset[int], reason: str) -> dict[str, Any]:
    """The body that announces other scopes."""
    return {"added": scope_names(after - before), "removed": scope_names(before - after), "reason": reason}


def as_dict(message: Message) -> dict[str, Any]:
    """A message as protobuf JSON has it, with names in snake_case."""
    return MessageToDict(message, preserving_proto_field_name=True)


def event_json(event: bytes) -> bytes:
    """One serialised event as protobuf JSON."""
    return _encoder.encode(plain(event_pb2.Event.FromString(event)))


def plain(message: Message) -> dict[str, Any]:
    """As `as_dict`, in a fifth of its time for what events are made of: texts, numbers, times, messages."""
    fields: dict[str, Any] = {}
    for field, value in message.ListFields():
        name, convert = _converter(field)
        fields[name] = convert(value) if convert is not None else value
    return fields


@cache
def _converter(field: FieldDescriptor) -> tuple[str, Callable[[Any], Any] | None]:
    """The name of a field, and what makes JSON of its value; None: it is JSON as it is."""
    if field.is_repeated or field.type in _LEFT_TO_PROTOBUF:
        return field.name, partial(_by_protobuf, field)
    if field.message_type is not None:
        return field.name, _time if field.message_type.full_name == "google.protobuf.Timestamp" else plain
    return field.name, str if field.cpp_type in _LONG else None


_LONG = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
"""Numbers that JSON has as texts."""

_LEFT_TO_PROTOBUF = (
    *(FieldDescriptor.TYPE_ENUM, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE),
)


def _time(value: Timestamp) -> str:
    """A time as protobuf JSON has it: 0, 3, 6 or 9 digits behind the second."""
    nanos = value.nanos
    if not nanos:
        return f"{_second(value.seconds)}Z"
    for digits, unit in ((3, 1_000_000), (6, 1_000)):
        if nanos % unit == 0:
            return f"{_second(value.seconds)}.{nanos // unit:0{digits}}Z"
    return f"{_second(value.seconds)}.{nanos:09}Z"


@lru_cache(maxsize=1_024)
def _second(seconds: int) -> str:
    """A second since 1970 as protobuf JSON, without what follows. Cached: events that follow each other share it."""
    return Timestamp(seconds=seconds).ToJsonString().removesuffix("Z")


def _by_protobuf(field: FieldDescriptor, value: Any) -> Any:  # noqa: ANN401  a value of the field, its JSON
    """Any value, the slow way: in a message of its own."""
    kind = field.containing_type
    assert kind is not None  # noqa: S101  an extension has none, and no event has extensions
    message = GetMessageClass(kind)()
    if field.is_repeated:
        getattr(message, field.name).MergeFrom(value)
    else:
        setattr(message, field.name, value)
    return as_dict(message)[field.name]


def cloud_event(event: bytes) -> bytes:
    """One serialised event as a CloudEvent."""
    fields = plain(event_pb2.Event.FromString(event))
    payload = next(name for name in fields if name in table.EVENT_TYPES)
    return _encoder.encode(
        {
            "specversion": "1.0",
            "id": fields["id"],
            "source": "tickets-hub",
            "type": f"tickets.hub.v1.{payload}",
            "subject": fields["guild_id"],
            "time": fields["occur_time"],
            "datacontenttype": JSON,
            "data": fields,
        }
    )


def scope_names(scopes: Iterable[int]) -> list[str]:
    """Scopes as the contract names them."""
    return [permissions_pb2.Scope.Name(permissions_pb2.Scope.ValueType(scope)) for scope in sorted(scopes)]


def _envelope(kind: str, name: str, now: int, data: dict[str, Any]) -> dict[str, Any]:
    integration_id, _, endpoint_id = name.partition("/")
    named = {"integration_id": integration_id, "endpoint_id": endpoint_id}
    return {"type": kind, "timestamp": rfc3339(now), "data": named | data}
