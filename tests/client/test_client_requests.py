"""Options of the client and the requests that they become; how failures are read."""

import re
import uuid
from datetime import datetime, timedelta, timezone

import pytest
from google.rpc.error_details_pb2 import BadRequest
from hypothesis import given
from hypothesis import strategies as st
from tickets.hub.v1.event_pb2 import Event
from tickets.hub.v1.event_service_pb2 import ON_EXPIRED_CURSOR_EARLIEST, BatchEmitEventsRequest
from tickets.hub.v1.permissions_pb2 import SCOPE_MEMBER_VERIFIED_IDENTITY, SCOPE_TICKET_CREATED, SCOPE_TICKET_STATS
from tickets_hub.failure import HubCallError, Violation
from tickets_hub.key import ClientKey
from tickets_hub.requests import MAX_BATCH, Start, batches, event_id, subscribe_request, with_id
from tickets_hub.transport import CHANNEL_OPTIONS, channel_options, is_loopback

from tests.support.events import closed
from tests.support.scripted_hub import details


def test_every_option_reaches_the_request() -> None:
    """Names, short and whole, and numbers of scopes, ids as strings or ints, times in seconds."""
    request = subscribe_request(
        {
            "subscription_id": "mine",
            "start": Start.cursor("abc"),
            "on_expired_cursor": "earliest",
            "scopes": ["ticket_stats", SCOPE_TICKET_CREATED, "SCOPE_MEMBER_VERIFIED_IDENTITY"],
            "guild_ids": [123, "456"],
            "shard": (1, 4),
            "max_batch_size": 7,
            "heartbeat_interval": 2.5,
            "linger": 0.25,
        }
    )
    assert (request.subscription_id, request.cursor, request.max_batch_size) == ("mine", "abc", 7)
    assert request.on_expired_cursor == ON_EXPIRED_CURSOR_EARLIEST
    assert list(request.scopes) == [SCOPE_TICKET_STATS, SCOPE_TICKET_CREATED, SCOPE_MEMBER_VERIFIED_IDENTITY]
    assert list(request.guild_ids) == ["123", "456"]
    assert (request.shard.index, request.shard.count) == (1, 4)
    assert request.heartbeat_interval.ToMilliseconds() == 2_500
    assert request.linger.ToMilliseconds() == 250


def test_unset_options_leave_the_defaults_to_the_hub() -> None:
    """So defaults are written once."""
    assert subscribe_request({}).ByteSize() == 0


@pytest.mark.parametrize(
    ("start", "form"),
    [(Start.latest(), "latest"), (Start.earliest(), "earliest"), (Start.committed(), "committed")],
)
def test_empty_start_messages_are_set(start: Start, form: str) -> None:
    """An empty message inside a oneof still has to be there."""
    assert subscribe_request({"start": start}).WhichOneof("start") == form


def test_a_start_time_needs_a_time_zone() -> None:
    """Hours of difference would be hours of events, missed or repeated."""
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))
    assert subscribe_request({"start": Start.since(at)}).since.ToJsonString() == "2030-01-02T02:04:05Z"
    with pytest.raises(ValueError, match="zone"):
        Start.since(at.replace(tzinfo=None))


@pytest.mark.parametrize("scope", ["tickets", "", "SCOPE_UNSPECIFIED", "SCOPE_TICKETS", 0, 99])
def test_an_unknown_scope_is_refused_before_anything_is_sent(scope: str | int) -> None:
    """The error names the known scopes."""
    with pytest.raises(ValueError, match="ticket_created"):
        subscribe_request({"scopes": [scope]})


@given(st.floats(0, 2**47 / 1000), st.integers(0, 2**74 - 1))
def test_event_ids_are_uuids_of_version_7_in_the_order_of_time(seconds: float, bits: int) -> None:
    """The time in milliseconds, then chance; the text sorts as the time does."""
    made = uuid.UUID(event_id(seconds, bits))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == int(seconds * 1000)
    assert made.int & (1 << 62) - 1 == bits & (1 << 62) - 1
    assert event_id(seconds, bits) < event_id(seconds + 0.002, 0)


def test_event_ids_differ_at_the_same_time() -> None:
    """A thousand of one millisecond."""
    assert len({event_id(5) for _ in range(1_000)}) == 1_000


def test_the_generated_id_is_set_in_the_callers_message() -> None:
    """A caller that emits the message again after an error repeats its id, and the event is stored once."""
    nameless = Event(guild_id="1")
    assert with_id(nameless, 5) is nameless
    given = nameless.id
    assert given
    assert with_id(nameless, 6).id == given
    assert with_id(closed("mine"), 5).id == "mine"


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (1_000, [1_000]), (2_001, [1_000, 1_000, 1])])
def test_batches_keep_order_and_limit(count: int, sizes: list[int]) -> None:
    """No call without events, none with more than the hub takes."""
    made = list(batches((closed(f"e{i}") for i in range(count)), lambda: 5.0))
    assert [len(batch) for batch in made] == sizes
    assert [e.id for batch in made for e in batch] == [f"e{i}" for i in range(count)]


def test_the_batch_limit_is_the_contracts() -> None:
    """It is written twice, because rules are no options that the client could read; this holds them together."""
    rules = str(BatchEmitEventsRequest.DESCRIPTOR.fields_by_name["events"].GetOptions())
    assert re.search(rf"max_items: {MAX_BATCH}\b", rules)


def test_a_failure_has_all_details_of_the_hub() -> None:
    """Reason, metadata, retry delay, fields."""
    bad = BadRequest(field_violations=[BadRequest.FieldViolation(field="event.guild_id", description="is no id")])
    failure = HubCallError.decode("INVALID_ARGUMENT", "no", details(3, "INVALID_REQUEST", retry=1.5, more=[bad], a="b"))
    assert (failure.code, failure.reason, failure.message) == ("INVALID_ARGUMENT", "INVALID_REQUEST", "no")
    assert (failure.metadata, failure.retry_after) == ({"a": "b"}, 1.5)
    assert failure.violations == (Violation("event.guild_id", "is no id"),)
    assert str(failure) == "INVALID_ARGUMENT INVALID_REQUEST: no (try again after 1.5 s)"


@pytest.mark.parametrize("status", [None, b"", b"\xff\xff no protobuf"])
def test_a_failure_without_details_still_has_its_code(status: bytes | None) -> None:
    """A proxy's answer has no details of the hub, and must not hide what happened."""
    failure = HubCallError.decode("UNAVAILABLE", "connection refused", status)
    assert (failure.reason, failure.retry_after, str(failure)) == ("", None, "UNAVAILABLE: connection refused")


@pytest.mark.parametrize("key", ["", "tkt_bot\n", "tkt_böt"])
def test_a_malformed_key_is_refused_before_anything_is_sent(key: str) -> None:
    """For example an unset variable, or a key read from a file with its line break."""
    with pytest.raises(ValueError, match="the key is empty"):
        ClientKey(key)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("127.0.0.1:50051", True),
        ("127.1.2.3", True),
        ("localhost:1", True),
        ("[::1]:50051", True),
        ("ipv6:[::1]:50051", True),
        ("unix:/run/hub.sock", True),
        ("hub.example:50051", False),
        ("127.0.0.1.example:50051", False),
        ("localhost.example:50051", False),
        ("10.0.0.1:50051", False),
        ("0.0.0.0:50051", False),
    ],
)
def test_plaintext_is_for_loopback_only(target: str, expected: bool) -> None:  # noqa: FBT001  a table's column
    """Anyone on the network can read a key in plaintext."""
    assert is_loopback(target) is expected


def test_a_callers_channel_option_replaces_ours() -> None:
    """Side by side gRPC would take ours, whatever the caller wrote."""
    options = channel_options([("grpc.keepalive_time_ms", 1), ("mine", 2)])
    assert dict(options) == dict(CHANNEL_OPTIONS) | {"grpc.keepalive_time_ms": 1, "mine": 2}
    assert len(options) == len(CHANNEL_OPTIONS) + 1
