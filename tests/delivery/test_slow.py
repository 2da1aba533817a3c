"""Readers that are slow or stand still: bounded, dropped in time, without loss, and nobody else notices."""

import asyncio

import grpc
import pytest

from hub import logs
from hub.clock import Clock
from hub.delivery import fanout
from tests.support.calls import reason_of
from tests.support.events import ids
from tests.support.hubs import FakeClock, StartHub, Subscriber, emit, live, until
from tests.support.streams import names_until, standing_still


async def rest_of(stream: Subscriber) -> tuple[list[str], str, grpc.aio.AioRpcError]:
    """What the transport still holds of a stream that has ended: the ids, the last cursor, and the ending."""
    ending = await stream.ending()
    return [event.id for frame in stream.frames for event in frame.events], stream.frames[-1].cursor, ending


async def test_a_stalled_reader_is_dropped_and_resumes_without_loss(start_hub: StartHub) -> None:
    """After the write deadline its stream ends; its last cursor resumes."""
    hub = await start_hub(write_deadline=1)
    _, reader = await hub.register("TICKET_CREATED")
    names = ids("e", 5_000)
    async with standing_still(hub, reader) as still:
        stream = await still.subscribe()
        await emit(hub, names)
        await until(lambda: not live(hub))
        got, cursor, ending = await rest_of(stream)
    assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.UNAVAILABLE, "SLOW_CONSUMER")
    assert got == names[: len(got)]
    assert len(got) < len(names)
    assert got + await names_until(await reader.subscribe(cursor=cursor), names[-1]) == names


async def test_a_stalled_reader_uses_bounded_memory(start_hub: StartHub) -> None:
    """The hub keeps no more than the window, however much arrives meanwhile."""
    hub = await start_hub(window_bytes=64 * 1024)
    _, reader = await hub.register("TICKET_CREATED")
    feed = hub.hub.feed
    async with standing_still(hub, reader) as still:
        stream = await still.subscribe()
        for number in range(10):
            await emit(hub, ids(f"{number}-", 1_000))
        [one] = live(hub)
        await until(lambda: one.writes.began)
        held = one._membership.group.buffer.events
        window = feed.window.between(0, feed.through)
        assert sum(event.size for event in window) <= hub.settings.window_bytes
        assert {event.position for event in held} <= {event.position for event in window}
        assert len(one._membership.group.batches) <= fanout._SHARED_BATCHES
        assert await names_until(stream, "9-00999") == [name for n in range(10) for name in ids(f"{n}-", 1_000)]


async def test_one_stalled_reader_of_a_hundred_delays_no_other(start_hub: StartHub) -> None:
    """99 streams take all there is while the hundredth takes nothing; it has lost nothing either."""
    hub = await start_hub(max_streams_per_integration=100, max_subscriptions=100)
    _, reader = await hub.register("TICKET_CREATED")
    names = ids("e", 3_000)
    async with standing_still(hub, reader) as still:
        stuck = await still.subscribe(subscription_id="stuck")
        others = [await reader.subscribe(subscription_id=f"s{n}") for n in range(99)]
        reading = [asyncio.create_task(names_until(stream, names[-1])) for stream in others]
        await emit(hub, names)
        for got in await asyncio.gather(*reading):
            assert got == names
        [one] = [stream for stream in live(hub) if stream.subscriber.options.subscription_id == "stuck"]
        await until(lambda: one.writes.began)
        assert one.progress.position < hub.hub.feed.through
        assert await names_until(stuck, names[-1]) == names


async def test_a_slow_reader_gets_smaller_frames_down_to_one_event(start_hub: StartHub) -> None:
    """Each write that takes long halves the next frame; quick ones bring it back to what was asked for."""
    clock = FakeClock()
    hub = await start_hub(clock)
    _, reader = await hub.register("TICKET_CREATED")
    async with standing_still(hub, reader) as slow:
        stream = await slow.subscribe(max_batch_size=256)
        await emit(hub, ids("e", 20_000))
        [one] = live(hub)
        slow_write = 0.0
        while not stream.frames[-1].events or len(stream.frames[-1].events) > 1:
            if one.writes.began != slow_write:
                slow_write = one.writes.began
                clock.monotonic_offset += 2 if slow_write else 0  # it took that long already
            await stream.frame()
        await names_until(stream, "e19999")
    sizes = [len(frame.events) for frame in stream.frames[1:]]
    assert {256, 128, 64, 32, 16, 8, 4, 2, 1} <= set(sizes)
    assert 256 in sizes[sizes.index(1) :]


@pytest.mark.parametrize("largest", [1_024, 5_000])
async def test_frames_respect_the_byte_limit(start_hub: StartHub, largest: int) -> None:
    """Live and in replay; the rest follows in the next frame."""
    hub = await start_hub(max_frame_bytes=largest)
    _, reader = await hub.register("TICKET_CREATED")
    names = ids("e", 500)
    stream = await reader.subscribe(max_batch_size=1_000)
    await emit(hub, names)
    assert await names_until(stream, names[-1]) == names
    replay = await reader.subscribe(earliest={}, max_batch_size=1_000)
    assert await names_until(replay, names[-1]) == names
    for frame in stream.frames[1:] + replay.frames[1:]:
        assert len(frame.SerializeToString()) <= largest + 100  # the cursor and its tag come on top
    assert len(replay.frames) < len(names) / 5


async def test_a_stalled_reader_cannot_keep_a_stream_that_was_taken_over(start_hub: StartHub) -> None:
    """A stream that ended while its reader took nothing is gone long before the write deadline, and says why."""
    hub = await start_hub(write_deadline=600, max_streams_per_integration=1)
    _, reader = await hub.register("TICKET_CREATED")
    async with standing_still(hub, reader) as still:
        older = await still.subscribe()
        await emit(hub, ids("e", 5_000))
        await until(lambda: any(stream.writes.began for stream in live(hub)))
        newer = await reader.subscribe()
        await until(lambda: len(live(hub)) == 1)
        _, _, ending = await rest_of(older)
    assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.ABORTED, "SUBSCRIPTION_TAKEN_OVER")
    await emit(hub, ["after"])
    assert await names_until(newer, "after") == ["after"]
    await reader.subscribe()


async def test_unread_ended_streams_are_limited(start_hub: StartHub) -> None:
    """However often stalled readers take a subscription over, the number of handlers is limited."""
    hub = await start_hub(write_deadline=600, max_streams_per_integration=1)
    _, reader = await hub.register("TICKET_CREATED")
    async with standing_still(hub, reader) as still:
        await still.subscribe()
        await emit(hub, ids("e", 5_000))
        await until(lambda: any(stream.writes.began for stream in live(hub)))
        await still.subscribe()
        third = still.open()
        refused = await third.ending()
    assert (refused.code(), reason_of(refused)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")


async def test_unread_dropped_streams_are_limited(start_hub: StartHub) -> None:
    """Their rest in the transport is kept until their reader takes it or leaves: until then it counts."""
    hub = await start_hub(write_deadline=1, max_streams_per_integration=1)
    _, reader = await hub.register("TICKET_CREATED")
    _, other = await hub.register("TICKET_CREATED")
    await emit(hub, ids("e", 5_000))
    for reads_on in (True, False):
        async with standing_still(hub, reader) as still:
            stream = await still.subscribe(earliest={})
            await until(lambda: any(one.writes.began for one in live(hub)))
            await until(lambda: not live(hub))
            ending = await reader.open().ending()
            assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
            (await other.subscribe()).call.cancel()
            if reads_on:
                await rest_of(stream)
                await until(lambda: not hub.hub.streams.slots.dropping)
        await until(lambda: not hub.hub.streams.slots.dropping and not live(hub))
    await reader.subscribe()


async def test_a_client_killed_during_a_frame_is_no_internal_error(
    start_hub: StartHub, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log has no incident."""
    logs.configure("info", "json")  # to where capsys looks
    hub = await start_hub()
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("e", 5_000))
    async with standing_still(hub, reader) as still:
        await still.subscribe(earliest={})
        now = Clock().monotonic
        await until(lambda: any(0 < stream.writes.began < now() - 0.3 for stream in live(hub)))  # it is held up
    await until(lambda: not live(hub))
    await hub.close()
    written = capsys.readouterr().err
    assert "stopped" in written
    assert "incident" not in written
