"""Delivery to URLs: its cost beside a bare client, and what dead endpoints cost live ones."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from tickets.hub.v1 import event_service_pb2, event_service_pb2_grpc, webhook_service_pb2, webhook_service_pb2_grpc

from bench import events, loads, machine, scene, servers
from bench.figures import Figure
from bench.jobs import Post
from bench.measure import BUSY, Load
from bench.posts import Receiver, receiving
from bench.servers import Server

SETTINGS: dict[str, object] = {"webhook_allow": "127.0.0.0/8", "max_changes": 1_000_000, **scene.ROOM}
EVENTS, FRAME = 10_000, 100
MAX_RATE = 20
"""Requests a second that an endpoint may have; the bare client keeps to it, too."""
AN_INTEGRATION = 5
"""Endpoints of one integration at most."""
DEAD, HANGING = 1_000, 200
AT_ONCE = 32
RATE, SECONDS = 100, 6.0
HEARD_GUILDS = 2
"""Of 20 guilds: so many that the endpoint has fewer events than the 20 requests a second that it may have."""
PATIENCE = 120.0


class Endpoints:
    """Makes endpoints, verified, at receivers."""

    def __init__(self, hub: Server, channel: Any) -> None:  # noqa: ANN401  gRPC's
        self._hub = hub
        self._stub: Any = webhook_service_pb2_grpc.WebhookServiceStub(channel)

    async def make(self, receiver: Receiver, view: scene.View, name: str, **fields: Any) -> None:  # noqa: ANN401
        """One endpoint."""
        path, key = f"/{view.integration_id}/{name}", loads.metadata(view.key)
        request = webhook_service_pb2.CreateEndpointRequest()
        request.endpoint.MergeFrom(webhook_service_pb2.Endpoint(endpoint_id=name, url=receiver.url(path), **fields))
        receiver.secrets[path] = (await self._stub.CreateEndpoint(request, metadata=key)).secret
        await self._stub.VerifyEndpoint(webhook_service_pb2.VerifyEndpointRequest(endpoint_id=name), metadata=key)

    async def make_many(self, receiver: Receiver, count: int) -> list[tuple[scene.View, str]]:
        """So many, of as many integrations as they need."""
        made: list[tuple[scene.View, str]] = []
        numbers = iter(range(count // AN_INTEGRATION))

        async def make() -> None:
            for _ in numbers:
                view = await scene.register(self._hub, self._hub.keys["HUB_ADMIN_KEY"])
                for number in range(AN_INTEGRATION):
                    await self.make(receiver, view, f"e{number}")
                    made.append((view, f"e{number}"))

        await asyncio.gather(*(make() for _ in range(AT_ONCE)))
        return made

    async def rewind(self, view: scene.View, name: str) -> None:
        """Have all events delivered again."""
        request = webhook_service_pb2.RewindEndpointRequest(endpoint_id=name)
        request.earliest = True
        await self._stub.RewindEndpoint(request, metadata=loads.metadata(view.key))

    async def failures(self, view: scene.View, name: str) -> int:
        """How often in a row an endpoint has failed."""
        request = webhook_service_pb2.GetEndpointRequest(endpoint_id=name)
        reply = await self._stub.GetEndpoint(request, metadata=loads.metadata(view.key))
        failed: int = reply.endpoint.failed_attempts
        return failed


async def delivery(data: Path, runs: int) -> list[Figure]:
    """A log delivered to one endpoint, and to five of one view; the bare client posts such bodies at the same pace."""
    figures = []
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(receiving())
        hub = await stack.enter_async_context(servers.hub(data / "hub", **SETTINGS))
        endpoints = Endpoints(hub, await stack.enter_async_context(servers.channel(hub.target)))
        view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
        await scene.emit(hub, hub.keys["HUB_BOT_KEY"], 0, EVENTS)
        for count in (1, AN_INTEGRATION):
            named = f"webhooks, {count} endpoint{'s' if count > 1 else ''}, {FRAME} events a body"
            figure = Figure(named, "us CPU/event", "bare aiohttp client", reach=2.0)
            names = [f"e{number}" for number in range(count)]
            for name in names if count == 1 else names[1:]:
                await endpoints.make(receiver, view, name)
            for _ in range(runs):
                await measure_delivery(figure, hub, receiver, endpoints, [(view, name) for name in names])
            figures.append(figure)
    return figures


async def measure_delivery(
    figure: Figure, hub: Server, receiver: Receiver, endpoints: Endpoints, rewound: list[tuple[scene.View, str]]
) -> None:
    """One run: the hub, then the bare client."""
    receiver.events = receiver.bodies = 0
    total = EVENTS * len(rewound)
    before = machine.cpu(hub.pid)
    for one in rewound:
        await endpoints.rewind(*one)
    await receiver.until(total, PATIENCE)
    spent, bodies = machine.cpu(hub.pid) - before, receiver.bodies
    headers, body = receiver.largest
    kept = {name: value for name, value in headers.items() if name.lower() not in ("host", "content-length")}
    job = Post(receiver.url("/bare"), kept, body, bodies, len(rewound), FRAME, 1 / MAX_RATE)
    load = await Load.start(job)
    try:
        load.go()
        ground = await load.outcome()
    finally:
        await load.stop()
    if ground.failures:
        raise RuntimeError(f"bare client: {ground.failures}")
    bound = ground.cpu > BUSY * ground.seconds
    figure.add(spent / total * 1e6, ground.cpu / ground.events * 1e6, load_bound=bound)
    figure.note = f"{total / bodies:.0f} events and {len(body):,} bytes a body"


class Latencies(NamedTuple):
    """Seconds from the call that emits to the arrival."""

    stream: list[float]
    endpoint: list[float]


class Living:
    """A bot that emits at a pace, a stream and an endpoint that live."""

    def __init__(self, hub: Server, channel: Any, view: scene.View, receiver: Receiver) -> None:  # noqa: ANN401  gRPC's
        self._stub: Any = event_service_pb2_grpc.EventServiceStub(channel)
        self._bot = loads.metadata(hub.keys["HUB_BOT_KEY"])
        self._call = self._stub.Subscribe(event_service_pb2.SubscribeRequest(), metadata=loads.metadata(view.key))
        self._sent: dict[str, float] = {}
        self._number = 0
        self._taken = Latencies([], [])
        receiver.seen = self._arrived

    async def read(self) -> None:
        """Note when each event arrives by the stream."""
        async for frame in self._call:
            now = time.perf_counter()
            self._taken.stream.extend(now - self._sent[event.id] for event in frame.events)

    def _arrived(self, body: bytes) -> None:
        now = time.perf_counter()
        found = msgspec.json.decode(body)["data"]["events"]
        self._taken.endpoint.extend(now - self._sent[event["id"]] for event in found)

    async def measured(self) -> Latencies:
        """The latencies of some seconds."""
        self._taken = Latencies([], [])
        begin, calls = time.perf_counter(), []
        for tick in range(int(SECONDS * RATE)):
            await asyncio.sleep(max(0.0, begin + tick / RATE - time.perf_counter()))
            calls.append(asyncio.create_task(self.emit()))
        await asyncio.gather(*calls)
        await asyncio.sleep(0.5)
        return self._taken

    async def emit(self) -> None:
        """Emit the next event."""
        self._number += 1
        request = event_service_pb2.EmitEventRequest(event=events.event(self._number * events.TYPES))
        self._sent[request.event.id] = time.perf_counter()
        await self._stub.EmitEvent(request, metadata=self._bot)


async def dead(data: Path, runs: int) -> list[Figure]:
    """A live stream and a live endpoint, alone and beside dead ones: some never answer, the others refuse."""
    names = ("stream", "endpoint")
    figures = [Figure(f"live {name} beside 1,000 dead endpoints: p99", "ms", "alone", reach=1.2) for name in names]
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(servers.hub(data / "hub", **SETTINGS))
        channel = await stack.enter_async_context(servers.channel(hub.target))
        receiver, hanging = [await stack.enter_async_context(receiving()) for _ in range(2)]
        endpoints = Endpoints(hub, channel)
        view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
        await endpoints.make(receiver, view, "live", guild_ids=events.GUILDS[:HEARD_GUILDS])
        living = Living(hub, channel, view, receiver)
        reading = asyncio.create_task(living.read())
        await living.measured()  # everything is warm
        alone = [await living.measured() for _ in range(runs)]
        await bury(endpoints, hanging, living)
        for before, beside in zip(alone, [await living.measured() for _ in range(runs)], strict=True):
            for figure, mine, other in zip(figures, beside, before, strict=True):
                figure.add(*(1e3 * events.percentile(sorted(one), 0.99) for one in (mine, other)))
        reading.cancel()
    return figures


async def bury(endpoints: Endpoints, hanging: Receiver, living: Living) -> None:
    """Make the endpoints, have their receivers die, and wait until each has failed to take an event."""
    async with receiving() as refusing:
        made = await endpoints.make_many(refusing, DEAD - HANGING)
        made += await endpoints.make_many(hanging, HANGING)
        hanging.is_dead = True
    await living.emit()
    async with asyncio.timeout(PATIENCE):
        for one in made:
            while not await endpoints.failures(*one):  # noqa: ASYNC110  another process knows
                await asyncio.sleep(0.2)
