"""Where a stream starts, what a committed place is worth, and who may have how many of them."""

import asyncio
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import admin_service_pb2, event_service_pb2

from hub.delivery.cursor import CursorSeal
from hub.model import Kind
from tests.conftest import RunningHub, StartHub, info_of, reason_of
from tests.delivery.kit import (
    EARLIEST,
    all_of,
    closed,
    commit,
    emit,
    ids,
    log_of,
    names_until,
    notice,
    opened,
    refused,
    subscriptions,
    ticket,
)


async def test_latest_brings_what_is_accepted_from_then_on(hub: RunningHub) -> None:
    """Nothing from before the stream was open, everything after its Ready."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("before", 3))
    stream = await reader.subscribe(latest={})
    await emit(hub, ids("after", 3))
    assert await names_until(stream, "after00002") == ids("after", 3)


async def test_earliest_begins_where_the_grant_begins(hub: RunningHub) -> None:
    """All that is kept and covered, and nothing that was accepted before the integration had its scope."""
    await emit(hub, ids("before", 3))
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("after", 250))
    stream = await reader.subscribe(earliest={})
    assert await names_until(stream, "after00249") == ids("after", 250)


async def test_every_cursor_resumes_right_after_its_frame(hub: RunningHub) -> None:
    """From whichever frame, also Ready's, the rest follows: nothing twice, nothing missed."""
    _, reader = await hub.register("TICKET_CREATED")
    names = ids("e", 20)
    await emit(hub, names[:7], closed)  # withheld ones in between change nothing
    await emit(hub, [f"{name}x" for name in names])
    wanted = [f"{name}x" for name in names]
    stream = await reader.subscribe(earliest={}, max_batch_size=3)
    await names_until(stream, wanted[-1])
    seen: list[str] = []
    for frame in stream.frames[:-1]:
        seen += all_of(frame.events)
        resumed = await reader.subscribe(subscription_id="again", cursor=frame.cursor)
        assert seen + await names_until(resumed, wanted[-1]) == wanted
    cursors = [frame.cursor for frame in stream.frames]
    assert len(set(cursors)) == len(cursors)
    positions = [(await opened(hub, cursor)).position for cursor in cursors]
    assert positions == sorted(positions)


async def test_since_is_by_accept_time_to_the_microsecond(hub: RunningHub) -> None:
    """The event accepted at that very time is the first; a time to come is as good as latest."""
    _, reader = await hub.register("TICKET_CREATED")
    results = [(await emit(hub, [name]))[0] for name in ids("e", 4)]
    since = results[2].accept_time
    stream = await reader.subscribe(since=since)
    assert await names_until(stream, "e00003") == ids("e", 4)[2:]
    later = Timestamp()
    later.FromMicroseconds(since.ToMicroseconds() + 1)
    stream = await reader.subscribe(since=later)
    assert await names_until(stream, "e00003") == ["e00003"]
    stream = await reader.subscribe(since=Timestamp(seconds=since.seconds + 1_000))
    await emit(hub, ["late"])
    assert await names_until(stream, "late") == ["late"]


async def test_committed_and_the_default_start(hub: RunningHub) -> None:
    """Without a committed place `committed` is refused and the default is latest; with one both go on there."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 5))
    ending = await reader.open(committed={}).ending()
    assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND")
    stream = await reader.subscribe()
    await emit(hub, ids("b", 5))
    assert await names_until(stream, "b00004") == ids("b", 5)

    stream = await reader.subscribe(earliest={}, max_batch_size=4)
    first = await stream.frame()
    reply = await commit(reader, first.cursor)
    assert reply.committed
    assert (await opened(hub, reply.cursor))[:2] == (await opened(hub, first.cursor))[:2]
    rest = (ids("a", 5) + ids("b", 5))[4:]
    starts: list[dict[str, Any]] = [{"committed": {}}, {}]
    for start in starts:
        stream = await reader.subscribe(**start)
        assert await names_until(stream, "b00004") == rest
    other = await reader.subscribe(subscription_id="other")
    await emit(hub, ["c"])
    assert await names_until(other, "c") == ["c"]


async def test_a_commit_survives_a_restart(start_hub: StartHub) -> None:
    """The committed place is in the log like everything else."""
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
    """The reply says which place is kept, and whether it is the one that was sent."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 6))
    stream = await reader.subscribe(earliest={}, max_batch_size=2)
    early, late = (await stream.frame()).cursor, (await stream.frame()).cursor
    assert (await commit(reader, late)).committed
    reply = await commit(reader, early)
    assert not reply.committed
    assert (await opened(hub, reply.cursor)).position == (await opened(hub, late)).position
    assert await names_until(await reader.subscribe(), "a00005") == ids("a", 6)[4:]
    assert (await commit(reader, early, force=True)).committed
    assert await names_until(await reader.subscribe(), "a00005") == ids("a", 6)[2:]


async def test_many_commits_at_once_cost_few_writes_and_the_newest_wins(hub: RunningHub) -> None:
    """Of 200 concurrent commits, in whichever order they come, the furthest is kept, by far fewer entries."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 200))
    stream = await reader.subscribe(earliest={}, max_batch_size=1)
    cursors = [(await stream.frame()).cursor for _ in range(200)]
    before = (await hub.hub._log.bounds()).last
    shuffled = [cursors[n * 7 % 200] for n in range(200)]
    replies = await asyncio.gather(*(commit(reader, cursor) for cursor in shuffled))
    assert any(reply.committed for reply in replies)
    written = (await hub.hub._log.bounds()).last - before
    assert 1 <= written < 100
    kept = (await subscriptions(reader))["default"].cursor
    assert (await opened(hub, kept)).position == (await opened(hub, cursors[-1])).position


async def test_any_cursor_is_a_place_and_no_right(hub: RunningHub) -> None:
    """Another integration's cursor starts there, with what one's own scopes cover."""
    _, rich = await hub.register("TICKET_CREATED", "TICKET_STATS")
    _, poor = await hub.register("TICKET_STATS")
    await emit(hub, ids("c", 3), closed)
    stream = await rich.subscribe(earliest={}, max_batch_size=1)
    cursor = (await stream.frame()).cursor
    await emit(hub, ids("t", 3), ticket)
    await emit(hub, ["last"], closed)
    assert await names_until(await poor.subscribe(cursor=cursor), "last") == ["c00001", "c00002", "last"]
    assert (await commit(poor, cursor)).committed
    assert await names_until(await poor.subscribe(), "last") == ["c00001", "c00002", "last"]


async def test_a_cursor_that_cannot_be_opened_is_said_to_be_invalid(hub: RunningHub) -> None:
    """Cut off, altered, or of another hub: CURSOR_INVALID, for a stream and for a commit."""
    _, reader = await hub.register("TICKET_CREATED")
    good = (await reader.subscribe()).frames[0].cursor
    foreign = CursorSeal(b"another hub's secret").seal(1, 1, 1).decode()
    for bad in (good[:-1], ("B" if good[0] == "A" else "A") + good[1:], foreign, "x"):
        for failure in (await reader.open(cursor=bad).ending(), await refused(commit(reader, bad))):
            assert (failure.code(), reason_of(failure)) == (grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID")


async def test_a_cursor_of_before_a_restore_is_expired(hub: RunningHub) -> None:
    """It skips nothing silently: CURSOR_EXPIRED, or all that is kept after a Gap that says why."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 3))
    log = hub.hub._log
    bounds = await log.bounds()
    [first, *_] = await log_of(hub, Kind.EVENT)
    old = CursorSeal(await log.secret()).seal(bounds.epoch ^ 1, bounds.last, first.time - 5).decode()
    for failure in (await reader.open(cursor=old).ending(), await refused(commit(reader, old))):
        assert (failure.code(), info_of(failure).reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
        assert info_of(failure).metadata["cause"] == "RESTORE"
    stream = await reader.subscribe(cursor=old, on_expired_cursor=EARLIEST)
    gap = (await notice(stream, "gap")).gap
    assert gap.cause == event_service_pb2.GAP_CAUSE_RESTORE
    assert await names_until(stream, "a00002") == ids("a", 3)


async def test_own_subscriptions_are_listed_and_deleted(hub: RunningHub) -> None:
    """Name, place, connection and key are told; deleting ends the stream, forgets the place, and is not done twice."""
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
        failure = await refused(reader.call("EventService/DeleteSubscription", request))
        assert (failure.code(), reason_of(failure)) == (grpc.StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND")
    ending = await stream.ending()
    assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND")
    assert not await subscriptions(reader)
    ending = await reader.open(subscription_id="a", committed={}).ending()
    assert reason_of(ending) == "SUBSCRIPTION_NOT_FOUND"


async def test_there_are_only_so_many_subscriptions(start_hub: StartHub) -> None:
    """TOO_MANY_SUBSCRIPTIONS names the limit and those there are; deleting one makes room; being quick does not."""
    hub = await start_hub(max_subscriptions=3)
    _, reader = await hub.register("TICKET_CREATED")
    cursor = (await reader.subscribe(subscription_id="s")).frames[0].cursor
    attempts = [refused(commit(reader, cursor, subscription_id=f"c{n}")) for n in range(20)]
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


async def test_an_admin_sees_who_reads_and_how_far_behind(hub: RunningHub) -> None:
    """ListSubscriptions tells key, connection and lag over all integrations, in pages."""
    readers = [await hub.register("TICKET_CREATED") for _ in range(3)]
    streams = [await reader.subscribe() for _, reader in readers]
    await emit(hub, ["seen"])
    for stream in streams:
        await names_until(stream, "seen")
    await commit(readers[0][1], streams[0].frames[0].cursor, subscription_id="behind")
    found: list[event_service_pb2.Subscription] = []
    token = ""
    while True:
        request = admin_service_pb2.ListSubscriptionsRequest(page_size=2, page_token=token)
        reply = await hub.admin.call("AdminService/ListSubscriptions", request)
        assert len(reply.subscriptions) <= 2
        found += reply.subscriptions
        token = reply.next_page_token
        if not token:
            break
    by_name = {(one.integration_id, one.subscription_id): one for one in found}
    assert len(by_name) == len(found) == 4
    behind = by_name.pop((readers[0][0].integration_id, "behind"))
    assert (behind.connected, behind.lag.ToMicroseconds() > 0) == (False, True)
    keys = {stream.frames[0].ready.key_id for stream in streams}
    assert {one.key_id for one in by_name.values()} == keys
    assert all(one.connected and one.peer and not one.lag.ToMicroseconds() for one in by_name.values())
