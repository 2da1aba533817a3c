"""Live permission: changes reach the open streams between two frames, and what was taken away is gone at once."""

import asyncio
from collections.abc import Sequence

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from tickets.hub.v1 import admin_service_pb2, event_pb2, integration_pb2, permissions_pb2

from hub.model import Kind
from tests.support.calls import info_of, reason_of, set_scopes, steer
from tests.support.events import closed, ids
from tests.support.hubs import Caller, RunningHub, StartHub, Subscriber, emit, live, log_of, only_in_the_log, until
from tests.support.streams import names_until, notice, standing_still


def verified(event_id: str) -> event_pb2.Event:
    """A member was verified."""
    return event_pb2.Event(id=event_id, guild_id="41", member_verified=event_pb2.MemberVerified(user_id="7"))


async def test_grants_changed_is_sent_and_applies_from_there(hub: RunningHub) -> None:
    """GrantsChanged says what was added, what removed, and why; the stream stays open with nothing left."""
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    await set_scopes(hub, integration, "TICKET_STATS", reason="they asked for it")
    changed = (await notice(stream, "grants_changed")).grants_changed
    assert (list(changed.added), list(changed.removed), changed.reason) == (
        [permissions_pb2.SCOPE_TICKET_STATS],
        [permissions_pb2.SCOPE_TICKET_CREATED],
        "they asked for it",
    )
    await emit(hub, ["t"])
    await emit(hub, ["c"], closed)
    assert await names_until(stream, "c") == ["c"]
    await set_scopes(hub, integration)
    assert list((await notice(stream, "grants_changed")).grants_changed.removed) == [permissions_pb2.SCOPE_TICKET_STATS]
    await emit(hub, ["c2"], closed)
    await set_scopes(hub, integration, "TICKET_STATS")
    await emit(hub, ["c3"], closed)
    assert await names_until(stream, "c3") == ["c3"]


async def test_a_field_follows_its_scope(hub: RunningHub) -> None:
    """Live, event by event, and in replay the same."""
    integration, reader = await hub.register("MEMBER_VERIFIED")
    stream = await reader.subscribe()
    await emit(hub, ["v0"], verified)
    await names_until(stream, "v0")
    await set_scopes(hub, integration, "MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY")
    await emit(hub, ["v1"], verified)
    await names_until(stream, "v1")
    replay = await reader.subscribe(subscription_id="replay", earliest={})
    await names_until(replay, "v1")
    for one in (stream, replay):
        events = [event for frame in one.frames for event in frame.events]
        assert [(e.id, e.member_verified.user_id) for e in events] == [("v0", ""), ("v1", "7")]
    await set_scopes(hub, integration, "MEMBER_VERIFIED")
    replay = await reader.subscribe(subscription_id="replay", earliest={})
    await names_until(replay, "v1")
    assert not any(e.member_verified.HasField("user_id") for frame in replay.frames for e in frame.events)


ENDS = {
    "suspend": (grpc.StatusCode.PERMISSION_DENIED, "INTEGRATION_SUSPENDED"),
    "delete": (grpc.StatusCode.PERMISSION_DENIED, "INTEGRATION_DELETED"),
    "block": (grpc.StatusCode.PERMISSION_DENIED, "DEVELOPER_BLOCKED"),
    "revoke": (grpc.StatusCode.UNAUTHENTICATED, "KEY_REVOKED"),
    "rotate": (grpc.StatusCode.UNAUTHENTICATED, "KEY_REVOKED"),
}


async def take_away(hub: RunningHub, how: str, integration: integration_pb2.Integration, key_id: str) -> None:
    """Take an integration's permission away; returns once it is answered."""
    own = integration.integration_id
    requests = {
        "suspend": admin_service_pb2.SuspendIntegrationRequest(integration_id=own, reason="a check"),
        "delete": admin_service_pb2.DeleteIntegrationRequest(integration_id=own, reason="a check"),
        "block": admin_service_pb2.BlockDeveloperRequest(
            user_id=integration.owner_user_id, source="test", reason="a check"
        ),
        "revoke": admin_service_pb2.RevokeKeyRequest(integration_id=own, key_id=key_id, reason="a check"),
        "rotate": admin_service_pb2.RotateKeyRequest(integration_id=own, overlap=Duration()),
    }
    names = {"suspend": "SuspendIntegration", "delete": "DeleteIntegration", "block": "BlockDeveloper"}
    name = names.get(how, f"{how.capitalize()}Key")
    await hub.admin.call(f"AdminService/{name}", requests[how])


@pytest.mark.parametrize("how", ENDS)
async def test_an_ended_stream_gets_the_reason_and_no_later_event(start_hub: StartHub, how: str) -> None:
    """Live or far behind: after the answer only what the transport held arrives, then the reason."""
    hub = await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    backlog = ids("old", 5_000)
    await emit(hub, backlog)
    async with standing_still(hub, reader) as slow:
        behind = await slow.subscribe(subscription_id="behind", earliest={})
        key_id = behind.frames[0].ready.key_id
        streams = [await reader.subscribe(subscription_id=f"s{n}") for n in range(4)]
        flow = asyncio.create_task(emit_for_ever(hub))
        for stream in streams:
            await names_until(stream, "flow00010")
        [stuck] = [one for one in live(hub) if one.subscriber.options.subscription_id == "behind"]
        await until(lambda: stuck.writes.began)
        await take_away(hub, how, integration, key_id)
        handed_out = stuck.progress.position
        await emit(hub, ["after"])
        flow.cancel()
        endings = [await stream.ending() for stream in (*streams, behind)]
    assert {(ending.code(), reason_of(ending)) for ending in endings} == {ENDS[how]}
    gone = await position_of_the_change(hub)
    positions = {entry.id: entry.position for entry in await log_of(hub, Kind.EVENT)}
    for stream in streams:
        assert all(positions[event.id] < gone for frame in stream.frames for event in frame.events)
    names = [event.id for frame in behind.frames for event in frame.events]
    assert names == backlog[: len(names)]
    assert positions[names[-1]] <= handed_out < positions[backlog[-1]]


async def emit_for_ever(hub: RunningHub) -> None:
    """Events without end, until cancelled."""
    for name in ids("flow", 100_000):
        await emit(hub, [name])


async def position_of_the_change(hub: RunningHub) -> int:
    """Where the newest entry about integrations or blocks stands."""
    keys = ("integration/", "block/")
    return max(entry.position for entry in await log_of(hub, Kind.STATE) if entry.key.startswith(keys))


async def test_a_revoked_scope_stops_at_once(start_hub: StartHub) -> None:
    """In a long backlog no event of the scope follows GrantsChanged; all of the other scope do."""
    hub = await start_hub()
    integration, reader = await hub.register("TICKET_CREATED", "TICKET_STATS")
    lost, kept = ids("t", 4_000), ids("c", 4_000)
    for start in range(0, 4_000, 500):
        await emit(hub, lost[start : start + 500])
        await emit(hub, kept[start : start + 500], closed)
    async with standing_still(hub, reader) as slow:
        stream = await slow.subscribe(earliest={})
        [one] = live(hub)
        await until(lambda: one.writes.began)
        await set_scopes(hub, integration, "TICKET_STATS")
        await emit(hub, ["last"], closed)
        names = await names_until(stream, "last")
    said = next(n for n, frame in enumerate(stream.frames) if frame.HasField("grants_changed"))
    after = {event.id for frame in stream.frames[said:] for event in frame.events}
    assert not after & set(lost)
    assert [name for name in names if name.startswith("c")] == kept
    assert 0 < len(set(names) & set(lost)) < len(lost)


async def test_events_of_a_suspension_are_delivered_after_resuming(hub: RunningHub) -> None:
    """A suspended integration cannot connect; once it is resumed nothing of the time in between is missing."""
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    await emit(hub, ["before"])
    await names_until(stream, "before")
    cursor = stream.frames[-1].cursor
    await steer(hub, "Suspend", integration, reason="a look at it")
    await emit(hub, ids("meanwhile", 300))
    for ending in (await stream.ending(), await reader.open(cursor=cursor).ending()):
        assert reason_of(ending) == "INTEGRATION_SUSPENDED"
        assert "a look at it" in (ending.details() or "")
    await steer(hub, "Resume", integration)
    assert await names_until(await reader.subscribe(cursor=cursor), "meanwhile00299") == ids("meanwhile", 300)
    replay = await reader.subscribe(subscription_id="replay", earliest={})
    assert await names_until(replay, "meanwhile00299") == ["before", *ids("meanwhile", 300)]


async def rotate(hub: RunningHub, integration: integration_pb2.Integration, seconds: int) -> Caller:
    """A new key beside the old one, which lives on for so long."""
    request = admin_service_pb2.RotateKeyRequest(
        integration_id=integration.integration_id, overlap=Duration(seconds=seconds)
    )
    reply = await hub.admin.call("AdminService/RotateKey", request)
    return hub.caller(reply.key.secret)


async def test_streams_of_the_old_key_last_until_the_overlap_ends(hub: RunningHub) -> None:
    """They continue, learn when their key ends, then end with KEY_EXPIRED; streams of the new key continue."""
    integration, old = await hub.register("TICKET_CREATED")
    stream = await old.subscribe(heartbeat_interval={"seconds": 1})
    assert not stream.frames[0].ready.HasField("key_expire_time")
    new = await rotate(hub, integration, 2)
    during = await old.subscribe(subscription_id="during")
    heartbeat = (await notice(stream, "heartbeat")).heartbeat
    assert heartbeat.key_expire_time == during.frames[0].ready.key_expire_time
    assert heartbeat.key_expire_time.ToMicroseconds() > 0
    await emit(hub, ["overlapping"])
    await names_until(stream, "overlapping")
    newer = await new.subscribe(subscription_id="newer")
    for ending in (await stream.ending(), await during.ending(), await old.open().ending()):
        assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_EXPIRED")
        assert info_of(ending).metadata["key_id"] == during.frames[0].ready.key_id
    await emit(hub, ["after"])
    await names_until(newer, "after")
    assert "after" not in names_of([stream, during])


def names_of(streams: Sequence[Subscriber]) -> set[str]:
    """The ids of all that came on streams."""
    return {event.id for stream in streams for frame in stream.frames for event in frame.events}


async def test_a_stream_that_waits_for_a_page_is_ended_at_once(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the store is: neither a suspension nor a heartbeat waits for it."""
    integration, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("e", 20))
    feed = hub.hub.feed
    only_in_the_log(hub)
    load, answers = feed.load, asyncio.Event()

    async def slow(page: int) -> None:
        await answers.wait()
        await load(page)

    monkeypatch.setattr(feed, "load", slow)
    stream = await reader.subscribe(earliest={}, heartbeat_interval=Duration(seconds=1))
    assert not (await notice(stream, "heartbeat")).heartbeat.caught_up
    other = await reader.subscribe(earliest={}, subscription_id="other")
    await steer(hub, "Suspend", integration)
    for one in (stream, other):
        assert reason_of(await one.ending()) == "INTEGRATION_SUSPENDED"
    await steer(hub, "Resume", integration)
    stream = await reader.subscribe(earliest={})
    answers.set()
    assert await names_until(stream, "e00019") == ids("e", 20)
