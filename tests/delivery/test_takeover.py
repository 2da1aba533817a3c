"""One stream for each subscription, the newest; and only so many of them."""

import asyncio

import grpc
import pytest

from hub.model import Kind
from tests.support.calls import info_of, reason_of
from tests.support.events import ids
from tests.support.hubs import RunningHub, StartHub, emit, live, log_of, until
from tests.support.streams import names_until


async def test_a_newer_stream_takes_over(hub: RunningHub) -> None:
    """The older ends with SUBSCRIPTION_TAKEN_OVER; other subscriptions and integrations are left alone."""
    _, reader = await hub.register("TICKET_CREATED")
    _, somebody = await hub.register("TICKET_CREATED")
    bystanders = [await reader.subscribe(subscription_id="other"), await somebody.subscribe()]
    older = await reader.subscribe()
    newer = await reader.subscribe()
    ending = await older.ending()
    assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.ABORTED, "SUBSCRIPTION_TAKEN_OVER")
    assert info_of(ending).metadata["subscription_id"] == "default"
    await emit(hub, ["after"])
    for stream in (newer, *bystanders):
        assert await names_until(stream, "after") == ["after"]


async def test_of_concurrent_streams_of_a_subscription_one_stays(hub: RunningHub) -> None:
    """All others end, by the newest claim in the log; the one that stays gets everything once."""
    _, reader = await hub.register("TICKET_CREATED")
    racing = [reader.open() for _ in range(20)]
    first = {asyncio.create_task(stream.ending()): stream for stream in racing}
    done: set[asyncio.Task[grpc.aio.AioRpcError]] = set()
    while len(done) < 19:
        some, _ = await asyncio.wait(first.keys() - done, return_when=asyncio.FIRST_COMPLETED)
        done |= some
    assert {reason_of(task.result()) for task in done} == {"SUBSCRIPTION_TAKEN_OVER"}
    [stayed] = first.keys() - done
    await emit(hub, ids("e", 3))
    winner = first[stayed]
    await until(lambda: len([e for frame in winner.frames for e in frame.events]) == 3)
    claims = [entry for entry in await log_of(hub, Kind.STATE) if entry.key.startswith("claim/")]
    assert len(claims) == 1
    stayed.cancel()


async def test_a_takeover_needs_no_free_slot(start_hub: StartHub) -> None:
    """At the limit a reader can still reconnect; one more name is TOO_MANY_STREAMS, and says which there are."""
    hub = await start_hub(max_streams_per_integration=2)
    _, reader = await hub.register("TICKET_CREATED")
    _, other = await hub.register("TICKET_CREATED")
    older = await reader.subscribe(subscription_id="a")
    kept = [await reader.subscribe(subscription_id="b")]  # a call that nobody holds is cancelled
    kept.append(await reader.subscribe(subscription_id="a"))
    assert reason_of(await older.ending()) == "SUBSCRIPTION_TAKEN_OVER"
    ending = await reader.open(subscription_id="c").ending()
    assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
    assert dict(info_of(ending).metadata) == {"limit": "2", "subscriptions": "a,b"}
    await other.subscribe()
    assert len(kept) == 2


async def test_the_number_of_streams_of_a_hub_is_limited(start_hub: StartHub) -> None:
    """Over all integrations: TOO_MANY_STREAMS, and room again once a stream has ended."""
    hub = await start_hub(max_streams=2)
    readers = [(await hub.register("TICKET_CREATED"))[1] for _ in range(3)]
    streams = [await reader.subscribe() for reader in readers[:2]]
    ending = await readers[2].open().ending()
    assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS")
    streams[0].call.cancel()
    await until(lambda: len(live(hub)) == 1)
    await readers[2].subscribe()


@pytest.mark.parametrize("start", [{"cursor": "x"}, {"committed": {}}, {"scopes": [2]}])
async def test_a_refused_request_takes_nothing_over(hub: RunningHub, start: dict[str, object]) -> None:
    """It does not end the stream that is open."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    await reader.open(**start).ending()
    await emit(hub, ["after"])
    assert await names_until(stream, "after") == ["after"]
