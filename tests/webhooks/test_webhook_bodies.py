"""Bodies of requests: events in each format, equal to protobuf's own JSON."""

import json

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from tickets.hub.v1 import admin_service_pb2, event_pb2, event_service_pb2, permissions_pb2

from hub import permissions as table
from hub.endpoint_model import BodyFormat
from hub.webhooks import bodies
from hub.webhooks.bodies import Bodies, Frame
from tests.support.events import numbers, ticket, verified

NOW = 1_800_000_000_000_000
TIMES = st.builds(Timestamp, seconds=st.integers(0, 4_000_000_000), nanos=st.integers(0, 999_999_999))


@st.composite
def events(draw: st.DrawFn) -> event_pb2.Event:
    """Any event: each payload, its fields set or not."""
    name = draw(st.sampled_from(sorted(table.EVENT_TYPES)))
    event = event_pb2.Event(id=draw(st.text(max_size=8)), guild_id=draw(st.text(max_size=8)), test=draw(st.booleans()))
    event.accept_time.CopyFrom(draw(TIMES))
    if draw(st.booleans()):
        event.occur_time.CopyFrom(draw(TIMES))
    payload = getattr(event, name)
    payload.SetInParent()
    for field in payload.DESCRIPTOR.fields:
        value = draw(st.text(max_size=8) if field.type == field.TYPE_STRING else st.integers(0, 2**31 - 1))
        setattr(payload, field.name, value)
    return event


@given(events())
def test_the_fast_json_equals_protobufs_json(event: event_pb2.Event) -> None:
    """Field by field, number by number, time by time."""
    assert bodies.plain(event) == bodies.as_dict(event)
    assert json.loads(bodies.event_json(event.SerializeToString())) == bodies.as_dict(event)


def test_unused_field_types_are_left_to_protobuf() -> None:
    """Lists, enums and nested messages: an event may get them, and they need no code here."""
    message = admin_service_pb2.PrivilegeFinding(
        kind=admin_service_pb2.PrivilegeFinding.KIND_KEY_UNUSED,
        scopes=numbers("TICKET_CREATED", "TICKET_STATS"),
        since=Timestamp(seconds=7, nanos=500_000_000),
    )
    assert bodies.plain(message) == bodies.as_dict(message)
    entry = admin_service_pb2.AuditEntry(
        actor=admin_service_pb2.Actor(role=permissions_pb2.ROLE_ADMIN),
        changes=[admin_service_pb2.FieldChange(field="a", before="b")],
    )
    assert bodies.plain(entry) == bodies.as_dict(entry)


@given(st.lists(events(), max_size=4), st.text("abc", min_size=1, max_size=64))
def test_a_frame_is_split_into_its_parts(several: list[event_pb2.Event], cursor: str) -> None:
    """The cursor, each event, and a notice where there is one."""
    response = event_service_pb2.SubscribeResponse(cursor=cursor, events=several)
    parsed = bodies.parse(response.SerializeToString())
    assert (parsed.cursor, parsed.notice) == (cursor, None)
    assert [event_pb2.Event.FromString(one) for one in parsed.events] == several
    gap = event_service_pb2.SubscribeResponse(gap=event_service_pb2.Gap(cause=event_service_pb2.GAP_CAUSE_RESTORE))
    data = event_service_pb2.SubscribeResponse(cursor=cursor).SerializeToString() + gap.SerializeToString()
    assert bodies.parse(data) == Frame(cursor, [], gap)


def timed(event: event_pb2.Event) -> bytes:
    """An event as frames have it."""
    event.occur_time.FromMicroseconds(NOW)
    event.accept_time.FromMicroseconds(NOW)
    return event.SerializeToString()


@pytest.mark.parametrize("body_format", list(BodyFormat))
def test_each_format_has_the_same_events(body_format: BodyFormat) -> None:
    """The same two events in each, and one content for all attempts."""
    frame = Frame("c" * 64, [timed(ticket("a")), timed(verified("b"))], None)
    body = Bodies().events("i/default", body_format, frame, NOW)
    assert (body.events, body.first_event_id, body.cursor) == (2, "a", "c" * 64)
    if body_format is BodyFormat.PROTOBUF:
        sent = event_service_pb2.SubscribeResponse.FromString(body.data)
        assert ([event.id for event in sent.events], sent.cursor) == (["a", "b"], "")
    elif body_format is BodyFormat.CLOUDEVENTS:
        one, two = json.loads(body.data)
        assert (one["specversion"], one["id"], one["type"]) == ("1.0", "a", "tickets.hub.v1.ticket_created")
        assert two["data"]["member_verified"] == {"user_id": "7001"}
    else:
        told = json.loads(body.data)
        assert (told["type"], told["timestamp"]) == ("events", "2027-01-15T08:00:00Z")
        assert told["data"].keys() == {"integration_id", "endpoint_id", "cursor", "events"}
        assert [event["id"] for event in told["data"]["events"]] == ["a", "b"]
    again = Bodies().events("i/default", body_format, frame._replace(cursor="d" * 64), NOW + 1)
    assert again.content == body.content


def test_encoded_events_are_shared_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event is made once for all endpoints that show the same of it; what is kept has a limit."""
    made: list[bytes] = []
    real = bodies.event_json

    def counted(event: bytes) -> bytes:
        made.append(event)
        return real(event)

    monkeypatch.setattr(bodies, "event_json", counted)
    several = Bodies()
    frame = Frame("c", [timed(ticket("a"))], None)
    for name in ("i/a", "i/b", "j/a"):
        several.events(name, BodyFormat.JSON, frame, NOW)
    assert len(made) == 1
    monkeypatch.setattr(bodies, "PIECES_BYTES", 1_000)
    for number in range(50):
        several.events("i/a", BodyFormat.JSON, Frame("c", [timed(ticket(f"e{number}"))], None), NOW)
    assert sum(len(key) + len(value) for key, value in several._pieces.items()) <= 1_500
