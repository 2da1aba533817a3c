"""Bursts of calls: what is refused is refused by the hub, with a reason; gRPC drops nothing by itself."""

import asyncio
from collections import Counter
from typing import Any

import grpc
from tickets.hub.v1 import event_service_pb2

from tests.support.calls import reason_of
from tests.support.events import event
from tests.support.failures import TICKET, retry_seconds
from tests.support.hubs import Caller, RunningHub, StartHub

EMIT = "/tickets.hub.v1.EventService/EmitEvent"
PATIENT = 100.0
"""Seconds for the last of thousands of calls on a busy machine."""


async def burst(hub: RunningHub, channels: int, each: int) -> Counter[str]:
    """Emit so many events at once; returns how they ended: "OK", the reason of the hub's, or gRPC's own status."""
    opened = [grpc.aio.insecure_channel(hub.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(channels)]
    calls = [
        emit(Caller(channel, hub.bot.key), f"{number}-{n}")
        for number, channel in enumerate(opened)
        for n in range(each)
    ]
    ends = await asyncio.gather(*calls)
    for channel in opened:
        await channel.close()
    return Counter(ends)


async def emit(bot: Caller, name: str) -> str:
    """How one emit ends."""
    call: Any = bot._channel.unary_unary(EMIT, event_service_pb2.EmitEventRequest.SerializeToString, None)
    try:
        await call(
            event_service_pb2.EmitEventRequest(event=event(name, **TICKET)), metadata=bot.metadata, timeout=PATIENT
        )
    except grpc.aio.AioRpcError as error:
        if not any(name == "grpc-status-details-bin" for name, _ in error.trailing_metadata() or ()):
            return f"{error.code().name} {error.details()}"
        return reason_of(error) if retry_seconds(error) else "no time to come again"
    return "OK"


async def test_a_burst_on_one_connection_is_stored(hub: RunningHub) -> None:
    """Three thousand single emits at once: what goes beyond the calls of a connection waits in its client."""
    assert await burst(hub, channels=1, each=3_000) == {"OK": 3_000}


async def test_a_burst_over_many_connections_is_refused_by_the_hub_only(start_hub: StartHub) -> None:
    """Where the hub cannot take all, each call that it refuses has a reason and a time to come again."""
    hub = await start_hub(max_concurrent_calls=20, max_half_open_calls=200)
    ends = await burst(hub, channels=8, each=500)
    assert ends.pop("OK") > 0
    assert set(ends) <= {"TOO_MANY_CALLS"}


async def test_calls_that_wait_in_the_client_are_neither_reset_nor_refused(start_hub: StartHub) -> None:
    """With few calls for each connection the others wait for a slot."""
    hub = await start_hub(max_calls_per_connection=10)
    assert await burst(hub, channels=2, each=500) == {"OK": 1_000}
