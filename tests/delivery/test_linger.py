"""Streams that linger: one frame for what comes meanwhile, by the view of the moment in which it is written."""

import asyncio
from datetime import timedelta

import pytest
from tickets.hub.v1 import permissions_pb2

from hub.delivery.stream import Stream
from tests.support.calls import reason_of, set_scopes, steer, subscriptions
from tests.support.events import closed, ids, verified
from tests.support.hubs import Caller, FakeClock, RunningHub, StartHub, Subscriber, emit, live, log_of, until
from tests.support.streams import names_until, notice, unseal

HOUR = 3_600.0


@pytest.fixture
def an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lingers does so for an hour, whatever it asks for: what comes within a test did not wait until the end."""
    monkeypatch.setattr("hub.api.services.events.effective_linger", lambda asked, _: HOUR if asked else 0.0)


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the hub."""
    return FakeClock()


@pytest.fixture
async def hub(start_hub: StartHub, clock: FakeClock, request: pytest.FixtureRequest) -> RunningHub:
    """A hub whose streams linger for an hour."""
    request.getfixturevalue("an_hour")
    return await start_hub(clock, heartbeat_interval=60)


async def lingering(reader: Caller, **request: object) -> Subscriber:
    """A stream that lingers."""
    return await reader.subscribe(**{"linger": timedelta(seconds=1), **request})


async def waits(hub: RunningHub) -> Stream:
    """The only stream, once it holds events back."""
    [stream] = live(hub)
    await until(lambda: stream._membership.group.lingerers.waiting)
    return stream


def let_it_pass(clock: FakeClock, stream: Stream) -> None:
    """An hour passes."""
    clock.monotonic_offset += HOUR
    stream.wake()


@pytest.mark.parametrize(
    ("asked", "heartbeat", "effective"), [(0, 15, None), (0.5, 15, 0.5), (5, 15, 5), (5, 1, 0.9), (2, 2, 1.8)]
)
async def test_ready_says_how_long_a_stream_lingers(
    start_hub: StartHub, asked: float, heartbeat: int, effective: float | None
) -> None:
    """As long as it asked for, but at most until a heartbeat is due."""
    _, reader = await (await start_hub()).register("TICKET_CREATED")
    stream = await reader.subscribe(linger=timedelta(seconds=asked), heartbeat_interval=timedelta(seconds=heartbeat))
    ready = stream.frames[0].ready
    assert (ready.linger.ToTimedelta().total_seconds() if ready.HasField("linger") else None) == effective


async def test_events_of_the_linger_time_are_one_frame(hub: RunningHub, clock: FakeClock) -> None:
    """Events that were emitted one by one arrive together, and the stream is not woken for each."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await lingering(reader)
    await emit(hub, ["first"])
    one = await waits(hub)
    sleep = one._wakeup._future
    for name in ids("e", 20):
        await emit(hub, [name])
    await emit(hub, ["withheld"], closed)
    assert one._wakeup._future is sleep
    assert sleep is not None
    assert not sleep.done()
    let_it_pass(clock, one)
    assert [event.id for event in (await stream.frame()).events] == ["first", *ids("e", 20)]
    await emit(hub, ["again"])
    await waits(hub)


async def test_a_linger_ends_by_its_timer(start_hub: StartHub) -> None:
    """Nothing else has to happen, and the next events begin a wait of their own."""
    hub = await start_hub()
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(linger=timedelta(milliseconds=50))
    for name in ids("e", 3):
        await emit(hub, [name])
        await waits(hub)
        assert [event.id for event in (await stream.frame()).events] == [name]


async def test_a_full_frame_does_not_linger(hub: RunningHub, clock: FakeClock) -> None:
    """Whether it fills event by event or at once; what is left over waits."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await lingering(reader, max_batch_size=10)
    await emit(hub, ["first"])
    one = await waits(hub)
    for name in ids("a", 9):
        await emit(hub, [name])
    assert [event.id for event in (await stream.frame()).events] == ["first", *ids("a", 9)]
    await emit(hub, ids("b", 25))
    assert [len((await stream.frame()).events) for _ in range(2)] == [10, 10]
    await until(lambda: one._membership.group.lingerers.waiting)
    let_it_pass(clock, one)
    assert [event.id for event in (await stream.frame()).events] == ids("b", 25)[20:]


@pytest.mark.usefixtures("an_hour")
async def test_a_frame_at_the_byte_limit_does_not_linger(start_hub: StartHub, clock: FakeClock) -> None:
    """A frame is full of bytes as well as of events."""
    hub = await start_hub(clock, max_frame_bytes=64 * 1024)
    _, reader = await hub.register("TICKET_CREATED")
    stream = await lingering(reader, max_batch_size=1_000)
    await emit(hub, ["first"])
    await waits(hub)
    names = ids("e" * 50, 900)
    for start in range(0, 900, 100):
        await emit(hub, names[start : start + 100])
    frame = await stream.frame()
    assert 32 * 1024 < frame.ByteSize() <= 65 * 1024
    assert len(frame.events) < 900


async def test_streams_of_one_view_fill_frames_of_different_sizes(hub: RunningHub) -> None:
    """A smaller frame is sent when it is full; a larger one waits on."""
    _, reader = await hub.register("TICKET_CREATED")
    small, large = [await lingering(reader, subscription_id=f"s{size}", max_batch_size=size) for size in (2, 4)]
    for name in ids("e", 3):
        await emit(hub, [name])
    assert [event.id for event in (await small.frame()).events] == ids("e", 2)
    await emit(hub, ["last"])
    assert [event.id for event in (await large.frame()).events] == [*ids("e", 3), "last"]
    assert [event.id for event in (await small.frame()).events] == ["e00002", "last"]


async def test_a_change_of_scopes_does_not_linger(hub: RunningHub) -> None:
    """Its cursor is before the events that wait, and those come by the new scopes: a field that was taken is gone."""
    integration, reader = await hub.register("MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY", "TICKET_STATS")
    stream = await lingering(reader)
    await emit(hub, ["v"], verified)
    await emit(hub, ["c"], closed)
    await waits(hub)
    await set_scopes(hub, integration, "MEMBER_VERIFIED")
    changed = await stream.frame()
    assert permissions_pb2.SCOPE_MEMBER_VERIFIED_IDENTITY in changed.grants_changed.removed
    place = (await unseal(hub, changed.cursor)).position
    assert place < next(entry.position for entry in await log_of(hub) if entry.id == "v")
    replay = await reader.subscribe(subscription_id="replay", cursor=changed.cursor)
    for one in (stream, replay):
        [shown] = (await one.frame()).events
        assert (shown.id, shown.member_verified.HasField("user_id")) == ("v", False)


async def test_a_lingering_stream_ends_at_once(hub: RunningHub) -> None:
    """With the reason, before the events that waited; those come after a resume."""
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await lingering(reader)
    await emit(hub, ["e"])
    await waits(hub)
    await steer(hub, "Suspend", integration)
    assert reason_of(await stream.ending()) == "INTEGRATION_SUSPENDED"
    assert not any(frame.events for frame in stream.frames)
    await steer(hub, "Resume", integration)
    resumed = await lingering(reader, cursor=stream.frames[-1].cursor)
    assert await names_until(resumed, "e") == ["e"]


async def test_a_heartbeat_does_not_overtake_lingering_events(hub: RunningHub) -> None:
    """When a heartbeat is due the events are the frame that says that the stream lives: no cursor passes them."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await lingering(reader, heartbeat_interval=timedelta(seconds=1))
    assert (await stream.frame()).heartbeat.caught_up
    await emit(hub, ["e"])
    await waits(hub)
    frame = await stream.frame()
    assert [event.id for event in frame.events] == ["e"]
    after = (await notice(stream, "heartbeat")).heartbeat
    assert after.caught_up
    assert not after.lag.ToMicroseconds()


async def test_the_lag_does_not_count_the_linger_time(start_hub: StartHub, clock: FakeClock) -> None:
    """An event that waits because its reader lingers is no reader that is behind; beyond that it counts."""
    hub = await start_hub(clock)
    _, reader = await hub.register("TICKET_CREATED")
    await reader.subscribe(linger=timedelta(seconds=5))
    await emit(hub, ["e"])
    await waits(hub)
    clock.wall_offset += 4 * 1_000_000
    assert not (await subscriptions(reader))["default"].lag.ToMicroseconds()
    clock.wall_offset += 96 * 1_000_000
    assert 95 <= (await subscriptions(reader))["default"].lag.seconds < 100


async def test_history_does_not_linger(hub: RunningHub) -> None:
    """A reader that is behind gets everything at once, and begins to linger at the end of the log."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("old", 250))
    await lingering(reader, subscription_id="live")
    await emit(hub, ["recent"])
    await waits(hub)
    stream = await lingering(reader, earliest={})
    assert await names_until(stream, "recent") == [*ids("old", 250), "recent"]
    [one] = [one for one in live(hub) if one.subscriber.options.subscription_id == "default"]
    await emit(hub, ["new"])
    await until(lambda: one._wakeup.wake in one._membership.group.lingerers.waiting)


async def test_a_test_event_does_not_linger(hub: RunningHub) -> None:
    """It is sent at once, before the waiting events, and its cursor passes none of them."""
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await lingering(reader)
    await emit(hub, ["waiting"])
    await waits(hub)
    [entry] = [entry for entry in await log_of(hub) if entry.id == "waiting"]
    assert hub.hub.streams.send_test(integration.integration_id, entry) == 1
    frame = await stream.frame()
    assert (await unseal(hub, frame.cursor)).position < entry.position


async def test_a_clock_step_does_not_lengthen_a_linger(start_hub: StartHub, clock: FakeClock) -> None:
    """The wait is by the monotonic clock; an accept time that lies ahead counts as now."""
    hub = await start_hub(clock)
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(linger=timedelta(milliseconds=50))
    clock.wall_offset += 30 * 1_000_000
    await emit(hub, ["ahead"])
    assert await names_until(stream, "ahead") == ["ahead"]
    clock.wall_offset -= 30 * 1_000_000
    await emit(hub, ["behind"])
    await waits(hub)
    assert await names_until(stream, "behind") == ["behind"]


async def test_an_ended_stream_leaves_its_group(hub: RunningHub) -> None:
    """Its group does not keep it among those that wait for a full frame."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await lingering(reader, subscription_id="goes")
    stays = await lingering(reader, subscription_id="stays")
    await emit(hub, ["e"])
    group = live(hub)[0]._membership.group
    await until(lambda: len(group.lingerers.waiting) == 2)
    stream.call.cancel()
    await until(lambda: len(live(hub)) == 1)
    assert len(group.lingerers.waiting) == 1
    await asyncio.wait_for(emit(hub, ids("more", 99)), 10)
    assert len((await stays.frame()).events) == 100
