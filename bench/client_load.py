"""The load of our own client: ``emit()`` from many tasks at once, or from one; or the bare call beside it."""

import time
from collections.abc import Awaitable, Callable

from tickets_hub import AsyncClient
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import EmitEventRequest, EmitEventResponse
from tickets_hub.v1.event_service_pb2_grpc import EventServiceStub

from bench import events
from bench.jobs import EmitByClient, Outcome
from bench.loads import Go, finish, sample

EmitOne = Callable[[Event], Awaitable[EmitEventResponse]]


async def emit_by_client(job: EmitByClient, go: Go) -> Outcome:
    """Each caller emits one event after the other."""
    numbers, latencies = iter(range(job.first, job.first + job.calls)), list[float]()

    async def call(emit: EmitOne) -> None:
        for number in numbers:
            event, began = events.event(number), time.perf_counter()
            await emit(event)
            latencies.append(time.perf_counter() - began)

    async with AsyncClient(job.target, job.key) as client:
        emit = bare(client) if job.bare else client.emit
        await client.channel.channel_ready()
        await go()
        began, cpu = time.perf_counter(), time.process_time()
        failures = await finish([call(emit) for _ in range(job.callers)], job.seconds)
        return Outcome(
            events=len(latencies),
            messages=len(latencies),
            seconds=time.perf_counter() - began,
            cpu=time.process_time() - cpu,
            latencies=sample(latencies),
            failures=failures,
        )


def bare(client: AsyncClient) -> EmitOne:
    """The same call as the generated code makes it, over the client's channel."""
    stub = EventServiceStub(client.channel)

    async def emit(event: Event) -> EmitEventResponse:
        return await stub.EmitEvent(EmitEventRequest(event=event), metadata=client.metadata, timeout=10)

    return emit
