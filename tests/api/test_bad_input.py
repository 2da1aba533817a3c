"""Invalid requests: each is refused with the reason, and has no effect."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from tickets.hub.v1 import event_pb2, event_service_pb2, integration_pb2

from hub.delivery.cursor import CursorSeal
from hub.model import Cursor
from tests.support.calls import ask, detail_of, fails, reason_of, send
from tests.support.events import event, numbers
from tests.support.hubs import REGISTRATION, RunningHub, StartHub, emit_all, scope_requests

TICKET: dict[str, Any] = {"ticket_created": {"creator_user_id": "7"}}

NO_SNOWFLAKES = ["", "0", "007", "-7", "+7", "7.0", "1e3", "0x7", "abc", " 7", "7 ", "7\n", "9223372036854775808"]
NO_SNOWFLAKES += ["99999999999999999999", "\u0667", "\uff17", "1_000", "7\x00"]

NO_EVENT_IDS = ["a" * 65, "a b", "a\n", "ä", "a/b", "\x00"]


def request(event_sent: event_pb2.Event) -> bytes:
    """EmitEventRequest, serialised."""
    return event_service_pb2.EmitEventRequest(event=event_sent).SerializeToString()


def tagged(number: int, content: bytes) -> bytes:
    """A field that the contract may not know, with some bytes in it."""
    assert number < 2**11
    assert len(content) < 128
    return bytes((number << 3 & 0x7F | 0x80 | 2, number >> 4, len(content))) + content


def fields_of(error: grpc.aio.AioRpcError) -> set[str]:
    """The fields that a refusal names."""
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    violations = detail_of(error, error_details_pb2.BadRequest).field_violations
    assert all(violation.description for violation in violations)
    return {violation.field for violation in violations}


async def position(hub: RunningHub) -> int:
    """Where the log ends."""
    return (await hub.hub.log.bounds()).last


@pytest.mark.parametrize("wrong", NO_SNOWFLAKES, ids=repr)
async def test_an_invalid_discord_id_is_refused_everywhere(hub: RunningHub, wrong: str) -> None:
    """The refusal names the field, wherever a Discord id is expected."""
    _, reader = await hub.register("TICKET_CREATED", "MEMBER_VERIFIED")
    before = await position(hub)
    everywhere: list[tuple[Any, str, dict[str, Any], str]] = [
        (hub.bot, "EventService/EmitEvent", {"event": event("a", wrong, **TICKET)}, "event.guild_id"),
        (
            hub.bot,
            "EventService/EmitEvent",
            {"event": event("a", ticket_created={"creator_user_id": wrong})},
            "event.ticket_created.creator_user_id",
        ),
        (
            hub.bot,
            "EventService/EmitEvent",
            {"event": event("a", member_verified={"user_id": wrong})},
            "event.member_verified.user_id",
        ),
        (
            hub.admin,
            "AdminService/RegisterIntegration",
            REGISTRATION | {"owner_user_id": wrong, "scopes": scope_requests("DROP_CLAIMED")},
            "owner_user_id",
        ),
    ]
    for caller, method, fields, named in everywhere:
        assert fields_of(await fails(ask(caller, method, **fields))) == {named}
    assert fields_of(await reader.open(guild_ids=["41", wrong]).ending()) == {"guild_ids[1]"}
    assert await position(hub) == before


@pytest.mark.parametrize("right", ["1", "41", "9223372036854775807", "80351110224678912"])
async def test_the_smallest_and_largest_discord_ids_are_valid(hub: RunningHub, right: str) -> None:
    """Both ends of the range are accepted."""
    await hub.emit(event("a", right, ticket_created={"creator_user_id": right}))


@pytest.mark.parametrize("wrong", NO_EVENT_IDS, ids=repr)
async def test_an_invalid_event_id_is_refused(hub: RunningHub, wrong: str) -> None:
    """An event's id has 1 to 64 of the characters that the contract names."""
    assert fields_of(await fails(ask(hub.bot, "EventService/EmitEvent", event=event(wrong, **TICKET)))) == {"event.id"}


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        (b"", "event"),
        (request(event_pb2.Event(id="a", guild_id="41")), "event.payload"),
        (request(event_pb2.Event.FromString(b"\x0a\x01a\x22\x0241" + tagged(99, b""))), "event.payload"),
        (request(event("a", drop_claimed={"xp_amount": -1})), "event.drop_claimed.xp_amount"),
        (request(event("a", drop_claimed={"unb_amount": -1})), "event.drop_claimed.unb_amount"),
        (request(event("a", ticket_closed={"message_count": -1})), "event.ticket_closed.message_count"),
        (request(event("a", **TICKET, occur_time={"seconds": -1})), "event.occur_time"),
        (request(event("a", **TICKET, occur_time={"nanos": 10**9})), "event.occur_time"),
        (request(event("a", **TICKET, occur_time={"seconds": 253_402_300_800})), "event.occur_time"),
        (b"\xff\xff\xff", ""),
        (b"\x0a\x7f", ""),
        (b"\x0a\x04\x0a\x02\xff\xfe", ""),
    ],
    ids=[
        "empty",
        "no payload",
        "unknown payload",
        "xp",
        "unb",
        "count",
        "-1 s",
        "nanos",
        "y10k",
        "bytes",
        "cut",
        "utf",
    ],
)
async def test_an_invalid_event_is_refused(hub: RunningHub, sent: bytes, named: str) -> None:
    """An event that breaks a rule, cannot be parsed, or has an unknown payload is not stored."""
    before = await position(hub)
    assert fields_of(await fails(send(hub.bot, "EventService/EmitEvent", sent))) == {named}
    assert await position(hub) == before


async def test_unknown_enum_values_are_refused(hub: RunningHub) -> None:
    """A scope, a role or a guild access that the contract does not have is named, and so is the unset scope."""
    _, reader = await hub.register("TICKET_CREATED")
    for wrong in (0, 99, -1):
        stream = reader.open(scopes=[*numbers("TICKET_CREATED"), wrong])
        assert fields_of(await stream.ending()) == {"scopes[1]"}
        scopes = [integration_pb2.ScopeRequest(scope=wrong, justification="x")]  # type: ignore[arg-type]  # unknown
        registration: dict[str, Any] = REGISTRATION | {"scopes": scopes}
        error = await fails(ask(hub.admin, "AdminService/RegisterIntegration", **registration))
        assert fields_of(error) == {"scopes[0].scope"}
    registration = REGISTRATION | {"scopes": scope_requests("DROP_CLAIMED"), "guild_access": 99}
    assert fields_of(await fails(ask(hub.admin, "AdminService/RegisterIntegration", **registration))) == {
        "guild_access"
    }
    for role in (0, 2, 99):
        error = await fails(ask(hub.admin, "AdminService/CreateServiceKey", role=role, display_name="x"))
        assert fields_of(error) == {"role"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"subscription_id": "a b"}, {"subscription_id"}),
        ({"subscription_id": "a" * 65}, {"subscription_id"}),
        ({"subscription_id": "a\n"}, {"subscription_id"}),
        ({"cursor": ""}, {"cursor"}),
        ({"cursor": "x" * 257}, {"cursor"}),
        ({"scopes": numbers("DROP_CLAIMED", "DROP_CLAIMED")}, {"scopes"}),
        ({"guild_ids": ["41", "41"]}, {"guild_ids"}),
        ({"shard": {"index": 2, "count": 2}}, {"shard"}),
        ({"shard": {"index": -1, "count": 2}}, {"shard.index"}),
        ({"shard": {}}, {"shard", "shard.count"}),
        ({"shard": {"count": 65_537}}, {"shard.count"}),
        ({"max_batch_size": -1}, {"max_batch_size"}),
        ({"max_batch_size": 1_001}, {"max_batch_size"}),
        ({"heartbeat_interval": {"nanos": 999_999_999}}, {"heartbeat_interval"}),
        ({"heartbeat_interval": {"seconds": 60, "nanos": 1}}, {"heartbeat_interval"}),
        ({"linger": {"nanos": -1}}, {"linger"}),
        ({"linger": {"seconds": 5, "nanos": 1}}, {"linger"}),
    ],
)
async def test_a_subscribe_request_that_breaks_a_rule_is_refused(
    hub: RunningHub, fields: dict[str, Any], named: set[str]
) -> None:
    """Each field of SubscribeRequest is held to its rule."""
    _, reader = await hub.register("DROP_CLAIMED")
    assert fields_of(await reader.open(**fields).ending()) == named


async def test_a_batch_has_1_to_1000_events(hub: RunningHub) -> None:
    """One invalid event refuses the whole batch, and is named by its index."""
    events = [event(f"{number}", **TICKET) for number in range(1_001)]
    for wrong in ([], events):
        assert fields_of(await fails(ask(hub.bot, "EventService/BatchEmitEvents", events=wrong))) == {"events"}
    spoilt = [*events[:998], event("x", occur_time={"nanos": -1}, **TICKET)]
    error = await fails(ask(hub.bot, "EventService/BatchEmitEvents", events=spoilt))
    assert fields_of(error) == {"events[998].occur_time"}
    assert not any(result.duplicate for result in await emit_all(hub, events))


async def test_many_violations_fit_into_one_answer(hub: RunningHub) -> None:
    """However much is wrong, the answer fits into what clients accept, and names the first violations."""
    events = [event("ä" * 40, "x" * 200, ticket_created={"creator_user_id": "y" * 200}) for _ in range(1_000)]
    named = fields_of(await fails(ask(hub.bot, "EventService/BatchEmitEvents", events=events)))
    assert "events[0].id" in named
    assert len(named) == 20
    paths = ["\N{GRINNING FACE}" * 2_000]
    integration, _ = await hub.register("TICKET_CREATED")
    update: dict[str, Any] = {"integration": {"integration_id": integration.integration_id}}
    error = await fails(ask(hub.admin, "AdminService/UpdateIntegration", **update, update_mask={"paths": paths}))
    assert fields_of(error) == {"update_mask"}


@pytest.mark.parametrize(
    ("method", "limit", "size"),
    [
        ("EventService/EmitEvent", 262_144, 262_145),
        ("EventService/EmitEvent", 262_144, 2_000_000),
        ("EventService/BatchEmitEvents", 1_048_576, 1_048_577),
        ("EventService/BatchEmitEvents", 1_048_576, 2_000_000),
    ],
)
async def test_a_request_over_the_limit_is_refused_with_the_limit(
    hub: RunningHub, method: str, limit: int, size: int
) -> None:
    """The hub itself refuses a request that is too large, before it is parsed."""
    error = await fails(send(hub.bot, method, b"\xff" * size))
    assert fields_of(error) == {""}
    assert str(limit) in (error.details() or "")


async def test_a_request_far_over_the_limit_is_refused_by_the_transport(hub: RunningHub) -> None:
    """Such a request does not even reach the hub; the connection stays open."""
    error = await fails(send(hub.bot, "EventService/BatchEmitEvents", b"\xff" * 8_000_000))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await hub.emit(event("a", **TICKET))


async def test_metadata_over_the_limit_is_refused_by_the_transport(hub: RunningHub) -> None:
    """Metadata of more than 8 KiB is refused; the connection stays open."""
    call: Any = hub.channel.unary_unary("/tickets.hub.v1.DirectoryService/ListScopes", None, None)
    metadata = [*hub.admin.metadata, ("x-large", "x" * 9_000)]
    error = await fails(call(b"", metadata=metadata))
    assert error.code() in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
    await hub.emit(event("a", **TICKET))


async def test_a_cursor_that_is_altered_or_of_another_hub_is_invalid(hub: RunningHub) -> None:
    """A cursor with a changed character, a truncated cursor and one of another hub are CURSOR_INVALID."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    cursor = stream.frames[0].cursor
    other = CursorSeal(b"another secret of 32 bytes ......").seal(Cursor(1, 1, 1)).decode()
    changed = [cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in range(len(cursor))]
    for wrong in (*changed, cursor[:-1], cursor + "A", cursor.lower(), "ä" * 64, "=" * 64, "\x00", other, "x" * 64):
        ending = await reader.open(cursor=wrong, subscription_id="other").ending()
        assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID")
    await reader.subscribe(cursor=cursor, subscription_id="other")


async def test_a_cursor_of_another_log_under_the_same_secret_has_expired(start_hub: StartHub, tmp_path: Path) -> None:
    """Two hubs with one HUB_SECRET and directories of their own: a cursor of the one is expired at the other."""
    secret = "0123456789abcdef" * 2
    one, two = [await start_hub(secret=secret, data_dir=tmp_path / name) for name in ("one", "two")]
    _, here = await one.register("TICKET_CREATED")
    _, there = await two.register("TICKET_CREATED")
    stream = await here.subscribe(latest={})
    ending = await there.open(cursor=stream.frames[0].cursor).ending()
    assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
