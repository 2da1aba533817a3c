"""Where a stream starts, and that every frame's cursor leads on from there."""

from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import admin_service_pb2, event_service_pb2

from hub.delivery.cursor import CursorSeal
from hub.model import Cursor, Kind
from tests.support.calls import commit, fails, info_of, reason_of
from tests.support.events import all_of, closed, ids, ticket
from tests.support.hubs import RunningHub, emit, log_of
from tests.support.streams import EARLIEST, names_until, notice, unseal


async def test_latest_starts_at_the_present(hub: RunningHub) -> None:
    """Nothing from before the stream was open, everything after its Ready."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("before", 3))
    stream = await reader.subscribe(latest={})
    await emit(hub, ids("after", 3))
    assert await names_until(stream, "after00002") == ids("after", 3)


async def test_earliest_starts_at_the_grant(hub: RunningHub) -> None:
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
    positions = [(await unseal(hub, cursor)).position for cursor in cursors]
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


async def test_committed_and_the_default_start_resume_at_the_commit(hub: RunningHub) -> None:
    """Without a committed cursor `committed` is refused and the default is latest; with one both resume there."""
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
    assert (await unseal(hub, reply.cursor))[:2] == (await unseal(hub, first.cursor))[:2]
    rest = (ids("a", 5) + ids("b", 5))[4:]
    starts: list[dict[str, Any]] = [{"committed": {}}, {}]
    for start in starts:
        stream = await reader.subscribe(**start)
        assert await names_until(stream, "b00004") == rest
    other = await reader.subscribe(subscription_id="other")
    await emit(hub, ["c"])
    assert await names_until(other, "c") == ["c"]


async def test_a_cursor_of_another_integration_gives_no_rights(hub: RunningHub) -> None:
    """A stream may start there, and gets what its own scopes cover."""
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


async def test_a_cursor_that_cannot_be_opened_is_invalid(hub: RunningHub) -> None:
    """Cut off, altered, or of another hub: CURSOR_INVALID, for a stream and for a commit."""
    _, reader = await hub.register("TICKET_CREATED")
    good = (await reader.subscribe()).frames[0].cursor
    foreign = CursorSeal(b"another hub's secret").seal(Cursor(1, 1, 1)).decode()
    for bad in (good[:-1], ("B" if good[0] == "A" else "A") + good[1:], foreign, "x"):
        for failure in (await reader.open(cursor=bad).ending(), await fails(commit(reader, bad))):
            assert (failure.code(), reason_of(failure)) == (grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID")


async def test_a_cursor_that_predates_a_restore_is_expired(hub: RunningHub) -> None:
    """It skips nothing silently: CURSOR_EXPIRED, or all that is kept after a Gap that says why."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 3))
    log = hub.hub.log
    bounds = await log.bounds()
    [first, *_] = await log_of(hub, Kind.EVENT)
    old = CursorSeal((await log.secrets())[0]).seal(Cursor(bounds.epoch ^ 1, bounds.last, first.time - 5)).decode()
    for failure in (await reader.open(cursor=old).ending(), await fails(commit(reader, old))):
        assert (failure.code(), info_of(failure).reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
        assert info_of(failure).metadata["cause"] == "RESTORE"
    stream = await reader.subscribe(cursor=old, on_expired_cursor=EARLIEST)
    gap = (await notice(stream, "gap")).gap
    assert gap.cause == event_service_pb2.GAP_CAUSE_RESTORE
    assert await names_until(stream, "a00002") == ids("a", 3)


async def test_an_admin_lists_subscriptions_with_their_lag(hub: RunningHub) -> None:
    """ListSubscriptions has key, connection and lag, over all integrations, in pages."""
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
