"""The wall clock is stepped by an hour or a year: no order changes, no event is lost, no key lives longer."""

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import admin_service_pb2

from hub.model import Kind
from tests.support.calls import reason_of
from tests.support.events import ids
from tests.support.hubs import FakeClock, StartHub, emit, log_of, retention
from tests.support.streams import names_until, notice

HOUR = 3_600 * 1_000_000
YEAR = 365 * 24 * HOUR
STEPS = [HOUR, -HOUR, YEAR, -YEAR]


@pytest.mark.parametrize("step", STEPS)
async def test_a_clock_step_neither_reorders_nor_loses_events(start_hub: StartHub, step: int) -> None:
    """Live, in replay, by cursor and by time: the log's order, complete, with accept times that never decrease."""
    clock = FakeClock()
    hub = await start_hub(clock)
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(heartbeat_interval={"seconds": 1})
    keeper = retention(hub, clock)
    names: list[str] = []
    for number, offset in enumerate((0, step, 0, step, 0)):
        clock.wall_offset = offset
        await keeper.remove_old()
        batch = ids(f"{number}-", 10)
        results = await emit(hub, batch)
        names += batch
        again = await emit(hub, batch)  # still known, wherever the clock stands
        assert all(result.duplicate for result in again)
        assert [result.accept_time for result in again] == [result.accept_time for result in results]
    assert await names_until(stream, names[-1]) == names
    assert (await notice(stream, "heartbeat")).heartbeat.caught_up
    for frame in [frame for frame in stream.frames if frame.events][:-1]:
        resumed = await reader.subscribe(subscription_id="again", cursor=frame.cursor)
        last = frame.events[-1].id
        assert await names_until(resumed, names[-1]) == names[names.index(last) + 1 :]
    entries = await log_of(hub, Kind.EVENT)
    assert [entry.id for entry in entries] == names
    assert [entry.time for entry in entries] == sorted(entry.time for entry in entries)
    since = Timestamp()
    since.FromMicroseconds(entries[0].time)
    assert await names_until(await reader.subscribe(since=since), names[-1]) == names


@pytest.mark.parametrize("step", STEPS)
async def test_a_clock_step_does_not_change_a_key_overlap(start_hub: StartHub, step: int) -> None:
    """The old key still works right after the step, and no longer than it would have."""
    clock = FakeClock()
    hub = await start_hub(clock)
    integration, old = await hub.register("TICKET_CREATED")
    stream = await old.subscribe(subscription_id="before")
    request = admin_service_pb2.RotateKeyRequest(integration_id=integration.integration_id, overlap=Duration(seconds=2))
    await hub.admin.call("AdminService/RotateKey", request)
    clock.wall_offset = step
    during = await old.subscribe(subscription_id="during")
    await emit(hub, ["overlapping"])
    for one in (stream, during):
        await names_until(one, "overlapping")
    for ending in (await stream.ending(), await during.ending(), await old.open().ending()):
        assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_EXPIRED")
