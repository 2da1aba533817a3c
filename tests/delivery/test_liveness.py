"""A stream that is alive says so, with a cursor past all that it does not show; a peer that is not is noticed."""

import asyncio

import grpc
from tickets.hub.v1 import permissions_pb2

from tests.support.calls import commit, fails, subscriptions
from tests.support.events import closed, ids
from tests.support.faults import SilentLink
from tests.support.hubs import Caller, FakeClock, RunningHub, StartHub, emit, live, until
from tests.support.streams import names_until, notice, standing_still, unseal


async def test_a_quiet_stream_gets_heartbeats(hub: RunningHub) -> None:
    """Again and again, and they say that nothing is missing."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(heartbeat_interval={"seconds": 1})
    assert stream.frames[0].ready.heartbeat_interval.seconds == 1
    for _ in range(2):
        frame = await stream.frame()
        assert frame.heartbeat.caught_up
        assert not frame.heartbeat.lag.ToMicroseconds()
    plain = await reader.subscribe(subscription_id="plain")
    assert plain.frames[0].ready.heartbeat_interval.seconds == hub.settings.heartbeat_interval == 15


async def test_a_heartbeats_cursor_is_past_everything_withheld(hub: RunningHub) -> None:
    """Resuming from it reads no withheld event again, and misses no later one."""
    _, reader = await hub.register("TICKET_CREATED", "TICKET_STATS")
    stream = await reader.subscribe(heartbeat_interval={"seconds": 1}, scopes=[permissions_pb2.SCOPE_TICKET_CREATED])
    await emit(hub, ids("withheld", 50), closed)
    last = (await hub.hub.log.bounds()).last
    frame = await notice(stream, "heartbeat")
    assert frame.heartbeat.caught_up
    assert (await unseal(hub, frame.cursor)).position >= last
    stream.call.cancel()
    await emit(hub, ids("missed", 3))
    assert await names_until(await reader.subscribe(cursor=frame.cursor), "missed00002") == ids("missed", 3)


async def test_withheld_traffic_does_not_suppress_heartbeats(hub: RunningHub) -> None:
    """Heartbeats come also while events flow that the stream does not see."""
    _, reader = await hub.register("TICKET_STATS")
    stream = await reader.subscribe(heartbeat_interval={"seconds": 1})
    over = asyncio.Event()

    async def flow() -> None:
        for number in range(100_000):
            if over.is_set():
                return
            await emit(hub, ids(f"{number}-", 20))

    flowing = asyncio.create_task(flow())
    positions = [(await unseal(hub, (await notice(stream, "heartbeat")).cursor)).position for _ in range(2)]
    over.set()
    await flowing
    assert positions[0] < positions[1]
    assert not any(frame.events for frame in stream.frames)


async def test_lag_is_the_age_of_the_oldest_undelivered_event(start_hub: StartHub) -> None:
    """It grows while a reader does not read, and is gone once it has read on."""
    clock = FakeClock()
    hub = await start_hub(clock)
    _, reader = await hub.register("TICKET_CREATED")
    async with standing_still(hub, reader) as slow:
        stream = await slow.subscribe()
        assert not (await subscriptions(reader))["default"].lag.ToMicroseconds()
        await emit(hub, ids("e", 2_000))
        [one] = live(hub)
        await until(lambda: one.writes.began)
        clock.wall_offset += 101 * 1_000_000  # of which a lingering stream does not count what it asked to wait
        assert 100 <= (await subscriptions(reader))["default"].lag.seconds < 200
        await names_until(stream, "e01999")
        await emit(hub, ["withheld"], closed)
        assert not (await subscriptions(reader))["default"].lag.ToMicroseconds()


async def test_the_lag_of_a_commit_counts_from_the_next_event(start_hub: StartHub) -> None:
    """A cursor committed from Ready is as old as what follows it, not as the commit."""
    clock = FakeClock()
    hub = await start_hub(clock)
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("e", 3))
    clock.wall_offset += 1_000 * 1_000_000
    stream = await reader.subscribe(earliest={}, max_batch_size=1)
    await commit(reader, stream.frames[0].cursor)
    stream.call.cancel()
    await until(lambda: not live(hub))
    assert (await subscriptions(reader))["default"].lag.seconds >= 1_000


async def test_a_half_open_connection_is_detected(start_hub: StartHub) -> None:
    """A connection without traffic ends by keepalive, and the stream with it; its slot is free."""
    hub = await start_hub(keepalive_interval=1, keepalive_timeout=0.5, max_streams_per_integration=1)
    _, reader = await hub.register("TICKET_CREATED")
    async with SilentLink(hub.hub.port) as wire, grpc.aio.insecure_channel(f"127.0.0.1:{wire.port}") as channel:
        stream = await Caller(channel, reader.key).subscribe(subscription_id="far")
        await emit(hub, ["before"])
        await names_until(stream, "before")
        wire.go_dead()
        assert len(live(hub)) == 1
        await until(lambda: not live(hub))
        assert not (await subscriptions(reader))["far"].connected
        await reader.subscribe(subscription_id="near")


async def test_an_idle_client_survives_keepalives(start_hub: StartHub) -> None:
    """A client that only reads, and seldom gets an event, is not taken for dead."""
    hub = await start_hub(keepalive_interval=1, keepalive_timeout=0.5)
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(heartbeat_interval={"seconds": 4})
    assert (await stream.frame()).HasField("heartbeat")
    await emit(hub, ["after"])
    assert await names_until(stream, "after") == ["after"]


async def test_a_cancelled_stream_frees_its_slot(start_hub: StartHub) -> None:
    """A stream that its client cancels is closed; before that the limit holds."""
    hub = await start_hub(max_streams_per_integration=1)
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(subscription_id="a")
    ending = await reader.open(subscription_id="b").ending()
    assert ending.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    stream.call.cancel()
    await until(lambda: not live(hub))
    kept = await reader.subscribe(subscription_id="b")  # a call that nobody holds is cancelled
    assert (await fails(reader.subscribe(subscription_id="a"))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(kept.frames) == 1
