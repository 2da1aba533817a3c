"""Subscribe: events from the requested start on, complete, in order, once, with a cursor in each frame."""

from collections.abc import Sequence
from typing import Any

import pytest
from tickets.hub.v1 import event_pb2

from hub.delivery import chunks, page_cache
from tests.support.calls import ask, reason_of
from tests.support.events import EVERY_SCOPE, event, numbers
from tests.support.hubs import Caller, FakeClock, RunningHub, StartHub, emit_all, scope_requests
from tests.support.streams import RawStream, settle

TICKET: dict[str, Any] = {"ticket_created": {"creator_user_id": "7"}}
DROP: dict[str, Any] = {"drop_claimed": {"xp_amount": 7}}


def tickets(names: range) -> list[event_pb2.Event]:
    """Tickets with numbers for ids, in guilds 41 to 44, each in another shard of Discord's."""
    return [event(f"{number}", str((41 + number % 4) << 22), **TICKET) for number in names]


def ids(events: Sequence[event_pb2.Event]) -> list[str]:
    """Their ids."""
    return [one.id for one in events]


@pytest.fixture
def clock() -> FakeClock:
    """The hub's clock."""
    return FakeClock()


@pytest.fixture
async def ticking(start_hub: StartHub, clock: FakeClock) -> RunningHub:
    """A hub whose time the test moves."""
    return await start_hub(clock)


async def read_out(hub: RunningHub, clock: FakeClock, holder: str, reader: Caller, **request: Any) -> RawStream:  # noqa: ANN401  its fields
    """A stream, read until it is caught up, and closed."""
    stream = RawStream(reader, holder, **request)
    await stream.ready()
    await settle(hub, clock, [stream])
    stream.close()
    return stream


async def test_the_first_frame_is_ready_and_describes_the_stream(start_hub: StartHub) -> None:
    """Ready has the scopes, withheld fields, effective interval, retention and key."""
    hub = await start_hub(retention=7_200, dedupe_window=60, heartbeat_interval=9)
    integration, reader = await hub.register("MEMBER_VERIFIED", "DROP_CLAIMED")
    keys = await ask(hub.admin, "AdminService/ListKeys", integration_id=integration.integration_id)
    stream = await reader.subscribe(latest={}, heartbeat_interval={"seconds": 3})
    ready = stream.frames[0].ready
    assert list(ready.effective_scopes) == numbers("DROP_CLAIMED", "MEMBER_VERIFIED")
    assert list(ready.withheld_fields) == ["member_verified.user_id"]
    assert (ready.heartbeat_interval.seconds, ready.retention.seconds) == (3, 7_200)
    assert (ready.key_id, ready.HasField("key_expire_time")) == (keys.keys[0].key_id, False)
    narrowed = await reader.subscribe(latest={}, subscription_id="other", scopes=numbers("DROP_CLAIMED"))
    assert list(narrowed.frames[0].ready.effective_scopes) == numbers("DROP_CLAIMED")
    assert list(narrowed.frames[0].ready.withheld_fields) == []
    assert narrowed.frames[0].ready.heartbeat_interval.seconds == 9


async def test_cursors_are_unique_and_resume_right_after_their_frame(ticking: RunningHub, clock: FakeClock) -> None:
    """For frames of one, several and no event: after each cursor comes exactly the rest."""
    integration, reader = await ticking.register("TICKET_CREATED")
    holder = integration.integration_id
    await emit_all(ticking, tickets(range(10)))
    whole = await read_out(ticking, clock, holder, reader, max_batch_size=3)
    again = await read_out(ticking, clock, holder, reader, max_batch_size=1)
    wanted = [str(number) for number in range(10)]
    assert ids(whole.events) == ids(again.events) == wanted
    cursors = [frame.cursor for frame in (*whole.frames, *again.frames)]
    assert len(set(cursors)) == len(cursors)
    for stream in (whole, again):
        seen = 0
        for frame in stream.frames:
            seen += len(frame.events)
            resumed = await read_out(ticking, clock, holder, reader, cursor=frame.cursor)
            assert ids(resumed.events) == wanted[seen:]


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
async def test_a_frame_holds_at_most_max_batch_events(ticking: RunningHub, clock: FakeClock, size: int) -> None:
    """However the events lie; a reader that is behind gets frames as full as possible."""
    integration, reader = await ticking.register("TICKET_CREATED")
    live = RawStream(reader, integration.integration_id, latest={}, subscription_id="live", max_batch_size=size)
    await live.ready()
    await emit_all(ticking, tickets(range(50)))
    await settle(ticking, clock, [live])
    replay = await read_out(ticking, clock, integration.integration_id, reader, max_batch_size=size)
    for stream in (live, replay):
        assert ids(stream.events) == [str(number) for number in range(50)]
        assert max(len(frame.events) for frame in stream.frames) <= size
    assert sum(1 for frame in replay.frames if frame.events) <= -(-50 // size) + 1


@pytest.mark.parametrize(
    ("request_fields", "wanted"),
    [
        ({}, {0, 1, 2, 3, 4, 5, 6, 7}),
        ({"scopes": numbers("DROP_CLAIMED")}, {8}),
        ({"guild_ids": [str(42 << 22)]}, {1, 5}),
        ({"guild_ids": [str(42 << 22), str(43 << 22), "999"]}, {1, 2, 5, 6}),
        ({"guild_ids": ["999"]}, set()),
        ({"shard": {"index": 0, "count": 1}}, {0, 1, 2, 3, 4, 5, 6, 7}),
        ({"shard": {"index": 1, "count": 2}}, {0, 2, 4, 6}),
        ({"shard": {"index": 2, "count": 4}}, {1, 5}),
        ({"shard": {"index": 2, "count": 4}, "guild_ids": [str(41 << 22)]}, set()),
    ],
)
async def test_a_stream_can_be_narrowed(
    ticking: RunningHub, clock: FakeClock, request_fields: dict[str, Any], wanted: set[int]
) -> None:
    """By scopes, by guilds, by one of Discord's shards, and by all of them together: live and in replay."""
    integration, reader = await ticking.register("TICKET_CREATED", "DROP_CLAIMED")
    holder = integration.integration_id
    request_fields = {"scopes": numbers("TICKET_CREATED")} | request_fields
    live = RawStream(reader, holder, latest={}, subscription_id="live", **request_fields)
    await live.ready()
    await emit_all(ticking, [*tickets(range(8)), event("8", **DROP)])
    await settle(ticking, clock, [live])
    replay = await read_out(ticking, clock, holder, reader, **request_fields)
    assert {int(one) for one in ids(live.events)} == {int(one) for one in ids(replay.events)} == wanted


async def test_a_grant_never_reaches_back(ticking: RunningHub, clock: FakeClock) -> None:
    """A scope that was taken away and granted again delivers nothing older, neither live nor in replay."""
    integration, reader = await ticking.register("TICKET_CREATED", "DROP_CLAIMED")
    holder = integration.integration_id
    live = RawStream(reader, holder, latest={}, subscription_id="live")
    await live.ready()
    for number, scopes in enumerate([["TICKET_CREATED"], ["DROP_CLAIMED"], [], ["TICKET_CREATED", "DROP_CLAIMED"]]):
        await ask(
            ticking.admin,
            "AdminService/SetScopes",
            integration_id=holder,
            scopes=scope_requests(*scopes),
            reason="test",
        )
        await emit_all(ticking, [event(f"ticket{number}", **TICKET), event(f"drop{number}", **DROP)])
        await settle(ticking, clock, [live])
    assert ids(live.events) == ["ticket0", "drop1", "ticket3", "drop3"]
    changes = [frame.grants_changed for frame in live.frames if frame.HasField("grants_changed")]
    assert [(list(change.added), list(change.removed)) for change in changes] == [
        ([], numbers("DROP_CLAIMED")),
        (numbers("DROP_CLAIMED"), numbers("TICKET_CREATED")),
        ([], numbers("DROP_CLAIMED")),
        (numbers("TICKET_CREATED", "DROP_CLAIMED"), []),
    ]
    assert {change.reason for change in changes} == {"test"}
    assert ids((await read_out(ticking, clock, holder, reader)).events) == ["ticket3", "drop3"]
    before_all = live.frames[0].cursor
    assert ids((await read_out(ticking, clock, holder, reader, cursor=before_all)).events) == ["ticket3", "drop3"]


async def test_a_scope_that_is_set_again_keeps_its_position(ticking: RunningHub, clock: FakeClock) -> None:
    """Setting the same scopes again keeps their positions."""
    integration, reader = await ticking.register("TICKET_CREATED")
    holder = integration.integration_id
    await emit_all(ticking, [event("a", **TICKET), event("b", **DROP)])
    both = scope_requests("TICKET_CREATED", "DROP_CLAIMED")
    await ask(ticking.admin, "AdminService/SetScopes", integration_id=holder, scopes=both)
    await emit_all(ticking, [event("c", **TICKET), event("d", **DROP)])
    assert ids((await read_out(ticking, clock, holder, reader)).events) == ["a", "c", "d"]


async def test_events_of_a_suspension_are_delivered_after_it(ticking: RunningHub, clock: FakeClock) -> None:
    """Suspension ends the stream with the reason; afterwards the last cursor brings everything since."""
    integration, reader = await ticking.register("TICKET_CREATED")
    holder = integration.integration_id
    stream = RawStream(reader, holder, latest={})
    await stream.ready()
    await emit_all(ticking, tickets(range(3)))
    await settle(ticking, clock, [stream])
    await ask(ticking.admin, "AdminService/SuspendIntegration", integration_id=holder, reason="a look at it")
    assert reason_of(await stream.ending()) == "INTEGRATION_SUSPENDED"
    await emit_all(ticking, tickets(range(3, 6)))
    await ask(ticking.admin, "AdminService/ResumeIntegration", integration_id=holder)
    resumed = await read_out(ticking, clock, holder, reader, cursor=stream.frames[-1].cursor)
    assert ids(resumed.events) == ["3", "4", "5"]


async def test_a_long_replay_continues_live_without_gaps(start_hub: StartHub) -> None:
    """More events than window and cache hold, and new ones meanwhile: all arrive, in order, once."""
    clock = FakeClock()
    hub = await start_hub(clock, window_bytes=65_536, page_cache_bytes=65_536)
    integration, reader = await hub.register("TICKET_CREATED")
    holder, total = integration.integration_id, 2 * page_cache.PAGE + 100
    await emit_all(hub, tickets(range(total)))
    sizes = {20: "few", 100: "default", 1_000: "most"}
    streams = [RawStream(reader, holder, max_batch_size=size, subscription_id=name) for size, name in sizes.items()]
    for stream in streams:
        await stream.ready()
    for start in range(total, total + 500, 50):
        await emit_all(hub, tickets(range(start, start + 50)))
        for stream in streams:
            await stream.frame()
    await settle(hub, clock, streams)
    wanted = [str(number) for number in range(total + 500)]
    assert all(ids(stream.events) == wanted for stream in streams)
    middle = next(frame for frame in streams[1].frames if any(one.id == str(total // 2) for one in frame.events))
    resumed = await read_out(hub, clock, holder, reader, cursor=middle.cursor, max_batch_size=1_000)
    assert ids(resumed.events) == wanted[int(middle.events[-1].id) + 1 :]


async def test_a_cursor_resumes_after_a_restart(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events after the cursor come from the log, page by page."""
    monkeypatch.setattr(page_cache, "PAGE", 8)
    monkeypatch.setattr(chunks.CachedEvent, "size", 5_000)
    clock = FakeClock()
    hub = await start_hub(clock)
    integration, reader = await hub.register(*EVERY_SCOPE)
    holder = integration.integration_id
    await emit_all(hub, tickets(range(30)))
    before = await read_out(hub, clock, holder, reader, max_batch_size=4)
    await hub.close()
    hub = await start_hub(clock)
    await emit_all(hub, tickets(range(30, 40)))
    again = hub.caller(reader.key)
    seen = 0
    for frame in before.frames:
        seen += len(frame.events)
        resumed = await read_out(hub, clock, holder, again, cursor=frame.cursor)
        assert ids(resumed.events) == [str(number) for number in range(seen, 40)]


async def test_a_quiet_stream_sends_heartbeats(hub: RunningHub) -> None:
    """A heartbeat says that everything was delivered, and its cursor resumes."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={}, heartbeat_interval={"seconds": 1})
    await hub.emit(event("withheld", **DROP))
    frame = await stream.frame()
    assert frame.heartbeat.caught_up
    assert frame.heartbeat.lag.ToNanoseconds() == 0
    resumed = await reader.subscribe(cursor=frame.cursor, subscription_id="other")
    await hub.emit(event("seen", **TICKET))
    assert ids(await resumed.events(1)) == ids(await stream.events(1)) == ["seen"]
