"""A hub that is stopped says so to everyone, loses nothing that it acknowledged, and ends in time."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tickets.hub.v1 import admin_service_pb2, event_service_pb2

from tests.support.calls import detail_of, reason_of, set_scopes
from tests.support.events import ids, ticket
from tests.support.hubs import PATIENCE, REGISTRATION, Caller, RunningHub, Subscriber, emit, live, scope_requests, until
from tests.support.processes import Serving, serving
from tests.support.streams import standing_still

STREAMS = 1_000
DRAIN = 5
ROOM = {"HUB_MAX_STREAMS_PER_INTEGRATION": str(STREAMS), "HUB_MAX_SUBSCRIPTIONS": str(STREAMS)}


async def register(hub: Serving, admin_key: str) -> Caller:
    """An integration with a scope."""
    fields: dict[str, Any] = REGISTRATION | {"scopes": scope_requests("TICKET_CREATED")}
    request = admin_service_pb2.RegisterIntegrationRequest(**fields)
    reply = await hub.caller(admin_key).call("AdminService/RegisterIntegration", request)
    return hub.caller(reply.key.secret)


async def emit_until_refused(bot: Caller) -> list[str]:
    """Emit one event after the other; returns the ids of those that were acknowledged."""
    acknowledged: list[str] = []
    for name in ids("e", 100_000):
        try:
            await bot.call("EventService/EmitEvent", event_service_pb2.EmitEventRequest(event=ticket(name)))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  whatever else would be a fault
            return acknowledged
        acknowledged.append(name)
    raise AssertionError("it never stopped")


async def health_until_it_ends(hub: Serving, said: list[int]) -> list[int]:
    """What the health service says, for as long as it says anything."""
    watching = health_pb2_grpc.HealthStub(hub.channel).Watch(health_pb2.HealthCheckRequest())
    try:
        async with asyncio.timeout(PATIENCE):
            async for answer in watching:
                said.append(answer.status)  # noqa: PERF401  what was said before it broke off counts
    except grpc.aio.AioRpcError:
        pass
    return said


async def test_a_drain_ends_a_thousand_streams_in_time(tmp_path: Path) -> None:
    """NOT_SERVING, Goodbye on each, UNAVAILABLE, exit 0; acknowledged events are there afterwards."""
    variables = ROOM | {"HUB_DRAIN_TIME": str(DRAIN), "HUB_MAX_STREAMS": str(STREAMS)}
    variables |= {"HUB_MAX_CALLS_PER_CONNECTION": str(STREAMS * 2), "HUB_MAX_HALF_OPEN_CALLS": str(STREAMS * 2)}
    async with serving(cwd=tmp_path, **variables) as hub:
        keys = await hub.first_keys()
        reader = await register(hub, keys["HUB_ADMIN_KEY"])
        streams = [reader.open(subscription_id=f"s{number}") for number in range(STREAMS)]
        for stream in streams:  # one after the other: each has the patience of a test for itself
            await stream.frame()
        said: list[int] = []
        watching = asyncio.create_task(health_until_it_ends(hub, said))
        await until(lambda: len(said) == 1)
        emitting = asyncio.create_task(emit_until_refused(hub.caller(keys["HUB_BOT_KEY"])))
        await streams[0].frame()
        endings = asyncio.gather(*(stream.ending() for stream in streams))
        async with asyncio.timeout(DRAIN + 3):  # and the interpreter's own time to end
            ended = await hub.stop(signal.SIGTERM)
        assert ended.code == 0
        assert {(ending.code(), reason_of(ending)) for ending in await endings} == {
            (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        }
        assert_all_were_told(streams, await endings)
        serve, stop = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watching == [serve, stop]
        acknowledged = await emitting
    async with serving(cwd=tmp_path, **variables) as hub:
        stream = hub.caller(reader.key).open(subscription_id="s0", earliest={})
        assert [event.id for event in await stream.events(len(acknowledged))] == acknowledged


def assert_all_were_told(streams: list[Subscriber], endings: list[grpc.aio.AioRpcError]) -> None:
    """Each stream's last frame is Goodbye; the delays, there and in RetryInfo, are not all the same."""
    goodbyes = [stream.frames[-1].goodbye for stream in streams]
    assert all(goodbye.reconnect and goodbye.reason for goodbye in goodbyes)
    delays = [goodbye.retry_delay.ToMilliseconds() for goodbye in goodbyes]
    assert len(set(delays)) > len(streams) / 10
    told = [detail_of(ending, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() for ending in endings]
    assert told == delays


async def test_goodbye_is_the_last_frame(hub: RunningHub) -> None:
    """Changes during the Goodbye are not sent any more: the client sees them after it reconnects."""
    integration, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("e", 5_000))
    async with standing_still(hub, reader) as slow:
        stream = await slow.subscribe(earliest={})
        [one] = live(hub)
        await until(lambda: one.writes.began)
        draining = asyncio.create_task(hub.hub.streams.drain(PATIENCE))
        await until(lambda: one.ending)
        await set_scopes(hub, integration, "TICKET_STATS")
        ending = await stream.ending()
        await draining
    assert reason_of(ending) == "DRAINING"
    assert stream.frames[-1].HasField("goodbye")
    assert not any(frame.HasField("grants_changed") for frame in stream.frames)


async def test_a_reader_that_does_not_read_does_not_delay_the_stop(hub: RunningHub) -> None:
    """The hub stops without it; the transport drops what it held for it."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("e", 5_000))
    async with standing_still(hub, reader) as slow:
        await slow.subscribe(earliest={})
        [one] = live(hub)
        await until(lambda: one.writes.began)
        async with asyncio.timeout(PATIENCE):
            await hub.hub.stop()
        assert not live(hub)
