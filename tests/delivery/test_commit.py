"""Subscriptions: committed cursors that only go forwards, listing, deletion, and the limit."""

import asyncio

import grpc
import msgspec
import pytest
from tickets.hub.v1 import event_service_pb2

from hub.clock import Clock
from hub.delivery.bounds import ClusterBounds
from hub.delivery.confirmations import Confirmations
from hub.delivery.cursor import CursorSeal
from hub.delivery.cursor_commits import Commits
from hub.delivery.subscriptions import Subscriptions
from hub.model import Appended, CursorRecord, Entry, Expect, Kind
from tests.support.calls import commit, fails, info_of, reason_of, subscriptions
from tests.support.events import ids
from tests.support.hubs import FakeClock, RunningHub, StartHub, emit, live, until
from tests.support.streams import names_until, unseal


async def test_a_commit_survives_a_restart(start_hub: StartHub) -> None:
    """The committed cursor is an entry of the log."""
    hub = await start_hub()
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 5))
    stream = await reader.subscribe(earliest={}, max_batch_size=2)
    await commit(reader, (await stream.frame()).cursor)
    await hub.close()
    again = await start_hub()
    stream = await again.caller(reader.key).subscribe()
    assert await names_until(stream, "a00004") == ids("a", 5)[2:]


async def test_a_commit_never_goes_backwards_unless_forced(hub: RunningHub) -> None:
    """The reply says which cursor is committed, and whether it is the one that was sent."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 6))
    stream = await reader.subscribe(earliest={}, max_batch_size=2)
    early, late = (await stream.frame()).cursor, (await stream.frame()).cursor
    assert (await commit(reader, late)).committed
    reply = await commit(reader, early)
    assert not reply.committed
    assert (await unseal(hub, reply.cursor)).position == (await unseal(hub, late)).position
    assert await names_until(await reader.subscribe(), "a00005") == ids("a", 6)[4:]
    assert (await commit(reader, early, force=True)).committed
    assert await names_until(await reader.subscribe(), "a00005") == ids("a", 6)[2:]


async def test_of_concurrent_commits_the_furthest_is_kept(hub: RunningHub) -> None:
    """Over the wire, in any number."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 200))
    stream = await reader.subscribe(earliest={}, max_batch_size=1)
    cursors = [(await stream.frame()).cursor for _ in range(200)]
    replies = await asyncio.gather(*(commit(reader, cursor) for cursor in cursors))
    assert replies[-1].committed
    kept = (await subscriptions(reader))["default"].cursor
    assert (await unseal(hub, kept)).position == (await unseal(hub, cursors[-1])).position


async def test_of_waiting_commits_only_the_furthest_is_written(hub: RunningHub) -> None:
    """One append is in flight, one waits; each caller gets the cursor that is kept."""
    integration, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 30))
    stream = await reader.subscribe(earliest={}, max_batch_size=1)
    cursors = [(await stream.frame()).cursor for _ in range(30)]
    log, seal, last_seen = hub.hub.log, CursorSeal((await hub.hub.log.secrets())[0]), hub.hub.streams.last_seen
    registry, feed = hub.hub.registry, hub.hub.feed
    bounds = ClusterBounds(log, registry, feed)
    commits = Commits(log, registry, bounds, Clock())
    told = Confirmations(log, registry, seal, Clock())
    own = Subscriptions(log, registry, feed, commits, told, seal, last_seen, hub.settings, Clock())
    before = (await log.bounds()).last
    order = [n * 7 % 30 for n in range(30)]
    replies = await asyncio.gather(
        *(own.commit(integration.integration_id, "default", cursors[n], force=False) for n in order)
    )
    assert (await log.bounds()).last - before <= 4  # two of them for what readers were sent
    furthest = (await unseal(hub, cursors[-1])).position
    assert {(await unseal(hub, kept)).position for kept, _ in replies} == {furthest}
    assert [n for n, (_, committed) in zip(order, replies, strict=True) if committed] == [29]


async def test_a_waiting_forced_commit_is_not_lost(hub: RunningHub) -> None:
    """It goes back while another is being written, and a third continues from there: the third is kept."""
    integration, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 4))
    stream = await reader.subscribe(earliest={}, max_batch_size=1)
    first, second, _, last = [await unseal(hub, (await stream.frame()).cursor) for _ in range(4)]
    commits, name = hub.hub.subscriptions._commits, f"{integration.integration_id}/default"
    writing = asyncio.create_task(commits.write(name, last, force=False))
    while name not in commits._pending or commits._pending[name].next is not None:  # noqa: ASYNC110  it is being written
        await asyncio.sleep(0)
    await asyncio.gather(writing, commits.write(name, first, force=True), commits.write(name, second, force=False))
    kept = (await subscriptions(reader))["default"].cursor
    assert (await unseal(hub, kept)).position == second.position


async def test_own_subscriptions_are_listed_and_deleted(hub: RunningHub) -> None:
    """It shows name, cursor, connection and key; deletion ends the stream, forgets the cursor, and works once."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(subscription_id="b")
    await commit(reader, stream.frames[0].cursor, subscription_id="a")
    listed = await subscriptions(reader)
    assert list(listed) == ["a", "b"]
    assert (listed["a"].connected, listed["b"].connected) == (False, True)
    assert (bool(listed["a"].cursor), bool(listed["b"].cursor)) == (True, False)
    assert listed["a"].HasField("commit_time")
    assert listed["b"].key_id == stream.frames[0].ready.key_id
    assert listed["b"].HasField("connect_time")
    for name in ("a", "b"):
        request = event_service_pb2.DeleteSubscriptionRequest(subscription_id=name)
        await reader.call("EventService/DeleteSubscription", request)
        failure = await fails(reader.call("EventService/DeleteSubscription", request))
        assert (failure.code(), reason_of(failure)) == (grpc.StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND")
    ending = await stream.ending()
    assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND")
    assert not await subscriptions(reader)
    ending = await reader.open(subscription_id="a", committed={}).ending()
    assert reason_of(ending) == "SUBSCRIPTION_NOT_FOUND"


async def test_the_number_of_subscriptions_is_limited(start_hub: StartHub) -> None:
    """TOO_MANY_SUBSCRIPTIONS names the limit and the existing ones; deleting one makes room."""
    hub = await start_hub(max_subscriptions=3)
    _, reader = await hub.register("TICKET_CREATED")
    cursor = (await reader.subscribe(subscription_id="s")).frames[0].cursor
    attempts = [fails(commit(reader, cursor, subscription_id=f"c{n}")) for n in range(20)]
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    refusals = [one for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
    assert len(refusals) == 18
    names = list(await subscriptions(reader))
    assert len(names) == 3
    for failure in (refusals[-1], await reader.open(subscription_id="more").ending()):
        assert (failure.code(), reason_of(failure)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_SUBSCRIPTIONS")
        assert info_of(failure).metadata["limit"] == "3"
    await reader.subscribe(subscription_id="s")
    await reader.call(
        "EventService/DeleteSubscription", event_service_pb2.DeleteSubscriptionRequest(subscription_id=names[0])
    )
    await reader.subscribe(subscription_id="more")


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("trimmed", [False, True])
async def test_first_commits_at_two_replicas_do_not_go_backwards(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch, *, forgotten: bool, trimmed: bool
) -> None:
    """Also of a subscription that was deleted, and where nothing of that is left in the log."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 4))
    stream = await reader.subscribe(earliest={}, max_batch_size=2, subscription_id="other")
    early, late = (await stream.frame()).cursor, (await stream.frame()).cursor
    place, log = await unseal(hub, late), hub.hub.log
    if forgotten:
        await commit(reader, early)
        await reader.call("EventService/DeleteSubscription", event_service_pb2.DeleteSubscriptionRequest())
    if trimmed:
        await emit(hub, ["b"])
        await log.trim((await log.bounds()).last + 1, 100)
    append = log.append

    async def slow(entries: list[Entry], expect: Expect | None = None) -> list[Appended]:
        """Another replica is faster."""
        monkeypatch.setattr(log, "append", append)
        record = CursorRecord(place.epoch, place.position, place.time, place.time)
        await append([Entry(Kind.STATE, place.time, msgspec.json.encode(record), key=entries[0].key)])
        return await append(entries, expect)

    monkeypatch.setattr(log, "append", slow)
    reply = await commit(reader, early)
    assert not reply.committed
    assert (await unseal(hub, reply.cursor)).position == place.position


async def test_a_subscription_that_was_deleted_and_trimmed_can_be_committed_again(hub: RunningHub) -> None:
    """Its last entry is gone from the log, though not from what the hub remembers."""
    _, reader = await hub.register("TICKET_CREATED")
    cursor = (await reader.subscribe(subscription_id="other")).frames[0].cursor
    await commit(reader, cursor)
    await reader.call("EventService/DeleteSubscription", event_service_pb2.DeleteSubscriptionRequest())
    await emit(hub, ["a"])
    await hub.hub.log.trim((await hub.hub.log.bounds()).last + 1, 100)
    assert (await commit(reader, cursor)).committed


async def test_a_disconnected_reader_that_has_everything_has_no_lag(start_hub: StartHub) -> None:
    """The entry of its commit, and other changes of state, do not count; the next event does."""
    clock = FakeClock()
    hub = await start_hub(clock)
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    await emit(hub, ["a"])
    await names_until(stream, "a")
    await commit(reader, stream.frames[-1].cursor)
    stream.call.cancel()
    await until(lambda: not live(hub))
    clock.wall_offset += 1_000 * 1_000_000
    assert not (await subscriptions(reader))["default"].lag.ToMicroseconds()
    await emit(hub, ["b"])
    clock.wall_offset += 10 * 1_000_000
    assert (await subscriptions(reader))["default"].lag.seconds >= 10
