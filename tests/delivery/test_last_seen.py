"""What is known of a reader that is away: when it was last there, why it left, and how far behind it is."""

import asyncio

import grpc
import msgspec
from tickets.hub.v1 import admin_service_pb2, event_service_pb2

from hub.control.readers import Readers
from hub.delivery.last_seen import DISCONNECTED
from hub.model import ClaimRecord, CursorRecord, Entry, Kind
from tests.support.calls import commit, set_scopes, steer, subscriptions
from tests.support.events import ids
from tests.support.hubs import (
    FakeClock,
    RunningHub,
    StartHub,
    Subscriber,
    emit,
    live,
    log_of,
    only_in_the_log,
    pass_time,
    until,
)
from tests.support.streams import names_until, standing_still

DAY = 24 * 3_600


async def leave(hub: RunningHub, stream: Subscriber) -> None:
    """Close a stream from the client's side, and wait until the hub has noticed."""
    stream.call.cancel()
    await until(lambda: not live(hub))


async def test_a_dropped_reader_without_commits_has_a_lag(start_hub: StartHub) -> None:
    """The lag is the age of what was not delivered; lag and end reason survive a restart."""
    clock = FakeClock()
    hub = await start_hub(clock, write_deadline=0.3)
    _, reader = await hub.register("TICKET_CREATED")
    async with standing_still(hub, reader) as slow:
        stalled = slow.open(latest={}, max_batch_size=1_000)
        await until(lambda: live(hub))
        await emit(hub, ids("e", 20_000))
        await until(lambda: not live(hub))
        clock.wall_offset += 3_600 * 1_000_000
        for running in (hub, None):
            if running is None:
                await hub.close()
                hub = await start_hub(clock)
                reader = hub.caller(reader.key)
            shown = (await subscriptions(reader))["default"]
            assert not shown.connected
            assert shown.last_end_reason == "SLOW_CONSUMER"
            assert shown.lag.ToTimedelta().total_seconds() >= 3_599
            age = clock.now() - shown.last_seen_time.ToMicroseconds()
            assert 3_599 <= age / 1_000_000 < 3_700
        stalled.call.cancel()


async def test_every_way_to_end_a_stream_has_its_end_reason(start_hub: StartHub) -> None:
    """The client leaves, the hub stops, an admin ends it, the integration is suspended: each by its name."""
    hub = await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    assert (await subscriptions(reader))["default"].last_end_reason == ""
    await leave(hub, stream)
    assert (await subscriptions(reader))["default"].last_end_reason == DISCONNECTED
    stream = await reader.subscribe(latest={})
    assert (await subscriptions(reader))["default"].last_end_reason == ""
    request = admin_service_pb2.EndStreamRequest(integration_id=integration.integration_id, reason="stuck")
    await hub.admin.call("AdminService/EndStream", request)
    await stream.ending()
    assert (await subscriptions(reader))["default"].last_end_reason == "STREAM_ENDED"
    stream = await reader.subscribe(latest={})
    await hub.close()
    hub = await start_hub()
    reader = hub.caller(reader.key)
    assert (await subscriptions(reader))["default"].last_end_reason == "DRAINING"
    stream = await reader.subscribe(latest={})
    await hub.admin.call(
        "AdminService/SuspendIntegration",
        admin_service_pb2.SuspendIntegrationRequest(integration_id=integration.integration_id, reason="for now"),
    )
    await stream.ending()
    assert (await subscriptions(reader))["default"].last_end_reason == "INTEGRATION_SUSPENDED"


async def test_a_reader_that_has_everything_has_no_lag(hub: RunningHub) -> None:
    """Without a commit, too: lag counts from what was delivered, and only events count."""
    integration, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ["first"])
    stream = await reader.subscribe(earliest={})
    assert await names_until(stream, "first") == ["first"]
    await leave(hub, stream)
    await set_scopes(hub, integration, "TICKET_CREATED", "TICKET_STATS")
    shown = (await subscriptions(reader))["default"]
    assert shown.lag.ToTimedelta().total_seconds() == 0
    await emit(hub, ["second"])
    assert (await subscriptions(reader))["default"].lag.ToTimedelta().total_seconds() > 0


async def test_the_lag_of_a_committed_reader_counts_from_its_commit(hub: RunningHub) -> None:
    """It will resume there, whatever else was delivered to it."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("e", 10))
    stream = await reader.subscribe(earliest={}, max_batch_size=1)
    cursor = stream.frames[0].cursor
    await names_until(stream, "e00009")
    await commit(reader, cursor)
    await leave(hub, stream)
    assert (await subscriptions(reader))["default"].lag.ToTimedelta().total_seconds() > 0


async def test_last_seen_survives_a_killed_hub(start_hub: StartHub) -> None:
    """The claim of an open stream is written again as time passes; a reader that started early looks as far behind."""
    clock = FakeClock()
    hub = await start_hub(clock)
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("e", 5))
    stream = await reader.subscribe(earliest={})
    await names_until(stream, "e00004")
    claims = [entry for entry in await log_of(hub, Kind.STATE) if entry.key.startswith("claim/") and entry.body]
    clock.wall_offset += 90 * 1_000_000

    async def written_again() -> bool:
        found = [entry for entry in await log_of(hub, Kind.STATE) if entry.key.startswith("claim/") and entry.body]
        return any(entry.position > claims[-1].position for entry in found)  # none: it is written while it is read

    async with asyncio.timeout(10):
        while not await written_again():  # noqa: ASYNC110  the log is asked: it tells nobody else
            await asyncio.sleep(0.05)
    [claim] = hub.hub.registry.readers.claims.values()
    assert claim.record.seen_time >= clock.now() - 80 * 1_000_000
    assert claim.record.position == live(hub)[0].writes.delivered.position
    assert not claim.record.end_reason
    assert stream.call.done() is False


async def test_unused_subscriptions_expire_after_retention(start_hub: StartHub) -> None:
    """If they never committed and have no stream; committed, open and young ones stay."""
    clock = FakeClock()
    hub = await start_hub(clock, retention=DAY)
    _, reader = await hub.register("TICKET_CREATED")
    for name in ("unused", "committed"):
        stream = await reader.subscribe(subscription_id=name)
        if name == "committed":
            await commit(reader, stream.frames[0].cursor, subscription_id=name)
        await leave(hub, stream)
    still_open = await reader.subscribe(subscription_id="open")
    await pass_time(hub, clock, DAY / 2)
    young = await reader.subscribe(subscription_id="young")
    young.call.cancel()
    await until(lambda: len(live(hub)) == 1)
    assert set(await subscriptions(reader)) == {"unused", "committed", "open", "young"}
    await pass_time(hub, clock, DAY / 2 + 60)
    assert set(await subscriptions(reader)) == {"committed", "open", "young"}
    await emit(hub, ["after"])
    assert await names_until(still_open, "after") == ["after"]
    reopened = await reader.subscribe(subscription_id="unused")
    assert set(await subscriptions(reader)) == {"committed", "open", "young", "unused"}
    assert reopened.call.done() is False


async def test_expired_subscriptions_make_room(start_hub: StartHub) -> None:
    """A client with a new name at each start is not refused forever."""
    clock = FakeClock()
    hub = await start_hub(clock, retention=DAY, max_subscriptions=2)
    _, reader = await hub.register("TICKET_CREATED")
    for name in ("a", "b"):
        await leave(hub, await reader.subscribe(subscription_id=name))
    await pass_time(hub, clock, DAY + 60)
    assert (await reader.subscribe(subscription_id="c")).frames[0].HasField("ready")


async def test_a_replica_with_a_stale_view_expires_no_subscription_in_use(start_hub: StartHub) -> None:
    """The claim must be as it was seen: a stream that came in between keeps its subscription."""
    clock = FakeClock()
    hub = await start_hub(clock, retention=DAY)
    _, reader = await hub.register("TICKET_CREATED")
    await leave(hub, await reader.subscribe())
    clock.wall_offset += (DAY + 60) * 1_000_000
    readers, store = hub.hub.registry.readers, hub.hub.log
    [stale] = readers.claims.items()
    stream = await reader.subscribe()
    newer = readers.claims[stale[0]]
    readers.claims[stale[0]] = stale[1]
    before = (await store.bounds()).last
    await hub.hub.subscriptions.expire(clock.now() - DAY * 1_000_000)
    assert (await store.bounds()).last == before
    readers.claims[stale[0]] = newer
    await emit(hub, ["after"])
    assert await names_until(stream, "after") == ["after"]


async def test_a_subscription_deleted_while_others_expire_is_no_error(start_hub: StartHub) -> None:
    """Also one of a deleted integration that was committed and never opened."""
    clock = FakeClock()
    hub = await start_hub(clock, retention=DAY)
    integration, reader = await hub.register("TICKET_CREATED")
    cursor = (await reader.subscribe()).frames[0].cursor
    for name in "ab":
        await commit(reader, cursor, subscription_id=name)
    await steer(hub, "Delete", integration)
    expiring = hub.hub.subscriptions.expire(clock.now())
    await asyncio.gather(expiring, hub.hub.subscriptions.forget(integration.integration_id, "b"))
    assert not hub.hub.registry.readers.names(integration.integration_id)


async def test_a_deleted_subscription_leaves_nothing_behind(start_hub: StartHub) -> None:
    """Also where its stream was open: the note of that stream's end does not bring the name back."""
    clock = FakeClock()
    hub = await start_hub(clock, retention=DAY)
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    await commit(reader, stream.frames[0].cursor)
    await reader.call("EventService/DeleteSubscription", event_service_pb2.DeleteSubscriptionRequest())
    assert (await stream.ending()).code() is grpc.StatusCode.NOT_FOUND
    await until(lambda: not live(hub))
    await hub.hub.save_usage()
    assert await subscriptions(reader) == {}
    entries, _ = await hub.hub.log.snapshot()
    left_over = [entry.key for entry in entries if "/default" in entry.key and entry.body]
    assert not [key for key in left_over if not key.startswith("told/")], "what it was sent stays as long as the events"
    readers = hub.hub.registry.readers
    left = (readers.claims, readers.cursors, readers.ended, readers.names(integration.integration_id))
    assert left == ({}, {}, {}, [])


async def test_deleting_an_integration_deletes_its_subscriptions(start_hub: StartHub) -> None:
    """Committed ones, too: no reader can use them any more."""
    clock = FakeClock()
    hub = await start_hub(clock, retention=DAY)
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    await commit(reader, stream.frames[0].cursor)
    await hub.admin.call(
        "AdminService/DeleteIntegration",
        admin_service_pb2.DeleteIntegrationRequest(integration_id=integration.integration_id, reason="over"),
    )
    await stream.ending()
    await until(lambda: not live(hub))
    await pass_time(hub, clock, 1)
    reply = await hub.admin.call("AdminService/ListSubscriptions", admin_service_pb2.ListSubscriptionsRequest())
    assert not reply.subscriptions


async def test_the_lag_of_a_disconnected_reader_is_read_from_the_log(hub: RunningHub) -> None:
    """What it missed may lie in the log alone."""
    _, reader = await hub.register("TICKET_CREATED")
    await leave(hub, await reader.subscribe())
    await emit(hub, ids("e", 10))
    only_in_the_log(hub)
    assert (await subscriptions(reader))["default"].lag.ToTimedelta().total_seconds() > 0


def test_a_subscription_is_listed_until_claim_and_cursor_are_gone() -> None:
    """Claim and committed cursor can be removed in either order; while one is left the name is listed."""
    readers = Readers()
    claim, cursor = (
        msgspec.json.encode(record) for record in (ClaimRecord("s"), CursorRecord(1, position=2, time=3, commit_time=4))
    )

    def apply(kind: str, body: bytes) -> list[str]:
        take = {"claim": readers.apply_claim, "cursor": readers.apply_cursor}[kind]
        take(Entry(Kind.STATE, 1, body, key=f"{kind}/i/name", position=5))
        return readers.names("i")

    for first, second in (("claim", "cursor"), ("cursor", "claim")):
        assert [apply("claim", claim), apply("cursor", cursor)] == [["name"], ["name"]]
        assert [apply(first, b""), apply(second, b"")] == [["name"], []]
