"""What is older than the hub keeps: gone in small steps, never silently, and not because a clock has jumped."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import event_service_pb2

from hub.delivery.retention import STEP
from hub.model import Entry, Kind
from hub.state import CLAIM
from tests.support.calls import commit, info_of, set_scopes
from tests.support.events import closed, ids, ticket
from tests.support.hubs import (
    Caller,
    FakeClock,
    RunningHub,
    StartHub,
    Subscriber,
    emit,
    live,
    log_of,
    log_to_memory,
    pass_time,
    retention,
    until,
)
from tests.support.streams import EARLIEST, names_until, notice, standing_still

KEPT = 60
EVENT = Entry(Kind.EVENT, 0, b"", event_type=10, guild_id=41)
HOUR = 3_600


@pytest.fixture
def clock() -> FakeClock:
    """The hub's clocks."""
    return FakeClock()


@pytest.fixture
async def hub(start_hub: StartHub, clock: FakeClock) -> RunningHub:
    """A hub that keeps events for a minute. Writes may take as long as the clocks that the tests move."""
    return await start_hub(clock, retention=KEPT, dedupe_window=KEPT, write_deadline=24 * HOUR)


async def aged(hub: RunningHub, clock: FakeClock) -> tuple[Caller, dict[str, Any], int]:
    """A reader, every start before five events that are gone and five that are kept, and the time of the first."""
    _, reader = await hub.register("TICKET_CREATED")
    [first, *_] = await emit(hub, ids("gone", 5))
    stream = await reader.subscribe(earliest={}, max_batch_size=1)
    frame = await stream.frame()
    await commit(reader, frame.cursor)
    await pass_time(hub, clock, KEPT - 10)
    await emit(hub, ids("kept", 5))
    stream.call.cancel()
    await until(lambda: not live(hub))
    await pass_time(hub, clock, 20)
    starts = {
        "cursor": {"cursor": frame.cursor},
        "committed": {"committed": {}},
        "default": {},
        "since": {"since": first.accept_time},
    }
    return reader, starts, first.accept_time.ToMicroseconds()


async def is_expired(stream: Subscriber) -> None:
    """It ends with CURSOR_EXPIRED, for retention."""
    ending = await stream.ending()
    assert (ending.code(), info_of(ending).reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
    assert info_of(ending).metadata["cause"] == "RETENTION"


async def test_every_start_before_the_first_event_fails_or_gets_a_gap(hub: RunningHub, clock: FakeClock) -> None:
    """CURSOR_EXPIRED by default; with EARLIEST a Gap, then all that is kept. `earliest` and `latest` have no gap."""
    reader, starts, first_time = await aged(hub, clock)
    for start in starts.values():
        await is_expired(reader.open(**start))
        stream = await reader.subscribe(**start, on_expired_cursor=EARLIEST)
        frame = await stream.frame()
        gap = frame.gap
        assert gap.cause == event_service_pb2.GAP_CAUSE_RETENTION
        assert await names_until(stream, "kept00004") == ids("kept", 5)
        kept = next(event for frame in stream.frames for event in frame.events)
        assert first_time <= gap.from_time.ToMicroseconds() < gap.to_time.ToMicroseconds()
        assert gap.to_time.ToMicroseconds() <= kept.accept_time.ToMicroseconds()
        after = await reader.subscribe(cursor=frame.cursor)
        assert await names_until(after, "kept00004") == ids("kept", 5)
    assert await names_until(await reader.subscribe(earliest={}), "kept00004") == ids("kept", 5)
    stream = await reader.subscribe(latest={})
    await emit(hub, ["new"])
    assert await names_until(stream, "new") == ["new"]


async def test_the_cursor_of_ready_lies_before_the_gap(hub: RunningHub, clock: FakeClock) -> None:
    """A reader that is cut off between Ready and Gap, and resumes with Ready's cursor, gets the Gap again."""
    reader, starts, _ = await aged(hub, clock)
    for start in starts.values():
        stream = await reader.subscribe(**start, on_expired_cursor=EARLIEST)
        cursor = stream.frames[0].cursor
        await is_expired(reader.open(cursor=cursor))
        again = await reader.subscribe(cursor=cursor, on_expired_cursor=EARLIEST)
        assert (await again.frame()).HasField("gap")


@pytest.mark.parametrize("on_expired", [0, EARLIEST])
async def test_an_open_stream_that_falls_behind_retention_gets_a_gap(
    hub: RunningHub, clock: FakeClock, on_expired: int
) -> None:
    """It gets what was in flight, then CURSOR_EXPIRED or a Gap; nothing is skipped before that."""
    _, reader = await hub.register("TICKET_CREATED")
    names = ids("gone", 3_000)
    async with standing_still(hub, reader) as slow:
        stream = await slow.subscribe(earliest={}, on_expired_cursor=on_expired)
        await emit(hub, names)
        [one] = live(hub)
        await until(lambda: one.writes.began)
        await pass_time(hub, clock, KEPT + 5)
        await emit(hub, ["kept"])
        if on_expired:
            await notice(stream, "gap")
            await names_until(stream, "kept")
        else:
            await is_expired(stream)
        got = [event.id for frame in stream.frames for event in frame.events if event.id != "kept"]
    assert got == names[: len(got)]
    assert 0 < len(got) < len(names)


async def test_a_jump_of_the_clock_removes_nothing(hub: RunningHub, clock: FakeClock) -> None:
    """For an hour after a jump nothing is removed; when it is set right within the hour, nothing ever was."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 3))
    keeper = retention(hub, clock)
    for jump in (2 * HOUR, -2 * HOUR, 365 * 24 * HOUR, -365 * 24 * HOUR):
        clock.wall_offset += jump * 1_000_000
        await keeper.remove_old()
        clock.monotonic_offset += 10
        clock.wall_offset += 10 * 1_000_000
        await keeper.remove_old()
        assert await names_until(await reader.subscribe(earliest={}), "a00002") == ids("a", 3)
    clock.monotonic_offset += HOUR
    clock.wall_offset += HOUR * 1_000_000
    await keeper.remove_old()
    assert not await log_of(hub, Kind.EVENT)


async def test_a_wrong_date_at_the_start_removes_nothing(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that starts a year ahead has an hour to be set right, as after a jump."""
    kept: dict[str, Any] = {"retention": KEPT, "dedupe_window": KEPT, "write_deadline": 24 * HOUR}
    before = await start_hub(FakeClock(), **kept)
    await emit(before, ids("a", 3))
    await before.close()
    written, clock = log_to_memory(monkeypatch), FakeClock()
    clock.wall_offset += 365 * 24 * HOUR * 1_000_000
    hub = await start_hub(clock, **kept)
    assert "nothing is removed for an hour" in written.getvalue()
    keeper = retention(hub, clock)
    await keeper.begin()
    await keeper.remove_old()
    assert len(await log_of(hub, Kind.EVENT)) == 3
    clock.monotonic_offset += HOUR
    clock.wall_offset += HOUR * 1_000_000
    await keeper.remove_old()
    assert not await log_of(hub, Kind.EVENT)


async def test_a_restart_within_the_hour_does_not_pause_retention(start_hub: StartHub) -> None:
    """Within the hour a clock is believed: a restart puts nothing off."""
    kept: dict[str, Any] = {"retention": KEPT, "dedupe_window": KEPT, "write_deadline": 24 * HOUR}
    before = await start_hub(FakeClock(), **kept)
    await emit(before, ids("a", 3))
    await before.close()
    clock = FakeClock()
    clock.wall_offset += (HOUR - KEPT) * 1_000_000
    hub = await start_hub(clock, **kept)
    keeper = retention(hub, clock)
    await keeper.begin()
    await keeper.remove_old()
    assert not await log_of(hub, Kind.EVENT)


async def test_a_log_without_events_expires_no_cursor(hub: RunningHub, clock: FakeClock) -> None:
    """Old changes of state are kept: a reader that has every event has missed nothing."""
    integration, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ["gone"])
    early = (await reader.subscribe(earliest={}, max_batch_size=1)).frames[0].cursor
    stream = await reader.subscribe(earliest={})
    await names_until(stream, "gone")
    cursor = stream.frames[-1].cursor
    stream.call.cancel()
    for scopes in (("TICKET_CREATED", "TICKET_STATS"), ("TICKET_CREATED",)) * 5:
        await set_scopes(hub, integration, *scopes)
    await pass_time(hub, clock, 10 * KEPT)
    await emit(hub, ["new"])
    assert await names_until(await reader.subscribe(cursor=cursor), "new") == ["new"]
    await is_expired(reader.open(cursor=early))


async def test_since_a_time_after_the_removed_events_is_no_gap(hub: RunningHub, clock: FakeClock) -> None:
    """What counts is whether anything accepted from then on is missing, not how long ago it is."""
    _, reader = await hub.register("TICKET_CREATED")
    [gone] = await emit(hub, ["gone"])
    since = gone.accept_time.ToMicroseconds()
    await pass_time(hub, clock, 10 * KEPT)
    await emit(hub, ["new"])
    times = [Timestamp(), Timestamp()]
    times[0].FromMicroseconds(since)
    times[1].FromMicroseconds(since + 1)
    await is_expired(reader.open(since=times[0]))
    assert await names_until(await reader.subscribe(since=times[1]), "new") == ["new"]


async def test_a_restart_remembers_what_was_trimmed(start_hub: StartHub, clock: FakeClock, hub: RunningHub) -> None:
    """The beginning of the log is a stored mark."""
    reader, starts, _ = await aged(hub, clock)
    await hub.close()
    again = await start_hub(clock, retention=KEPT, dedupe_window=KEPT)
    for start in starts.values():
        await is_expired(again.caller(reader.key).open(**start))
    stream = await again.caller(reader.key).subscribe(earliest={})
    assert await names_until(stream, "kept00004") == ids("kept", 5)


async def test_retention_works_in_steps_between_appends(hub: RunningHub, clock: FakeClock) -> None:
    """An event that comes while much is removed is stored after one step of it, not after all."""
    await emit(hub, ids("gone", 5 * STEP))
    clock.wall_offset += 2 * KEPT * 1_000_000
    clock.monotonic_offset += 2 * KEPT
    feed = hub.hub.feed
    removing = asyncio.create_task(retention(hub, clock).remove_old())
    while not feed.earliest.position:  # noqa: ASYNC110  every pass of the loop counts here
        await asyncio.sleep(0)
    await hub.hub.log.append([Entry(Kind.EVENT, clock.now(), ticket("new").SerializeToString(), id="new")])
    assert not removing.done()
    assert len(await log_of(hub, Kind.EVENT)) > STEP
    await removing
    assert [entry.id for entry in await log_of(hub, Kind.EVENT)] == ["new"]


async def test_a_trim_is_announced_before_the_removal(
    hub: RunningHub, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no moment does the store lack an event that the hub believes to be there."""
    await emit(hub, ids("t", STEP // 2))
    await emit(hub, ids("c", STEP), closed)
    feed = hub.hub.feed
    trim = hub.hub.log.trim
    said: list[tuple[int, int]] = []

    async def watched(before: int, limit: int) -> int:
        said.append((feed.earliest.position + 1, before))
        return await trim(before, limit)

    monkeypatch.setattr(hub.hub.log, "trim", watched)
    await pass_time(hub, clock, 2 * KEPT)
    assert len(said) > 1
    assert all(first == before for first, before in said)


async def test_tombstones_do_not_keep_old_events_from_removal(hub: RunningHub, clock: FakeClock) -> None:
    """A trim counts both against its limit, so it may leave some of the events for the next step."""
    now = clock.now()
    for number in range(3 * STEP):
        await hub.hub.log.append([EVENT, CLAIM.entry(CLAIM.key("x", number), now, None)])
    await pass_time(hub, clock, KEPT + 10)
    assert await log_of(hub, Kind.EVENT) == []
