"""One and two replicas on one JetStream beside the embedded store: what a second one brings, and what it costs."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from bench import scene, servers
from bench.figures import Figure
from bench.jobs import CatchUp, Emit
from bench.measure import Measured, measure_all
from bench.reach import FRAME, STREAMS
from bench.servers import Server

BATCHES, SINGLES, READ = 200, 2_000, 10_000
"""Calls of 100 events, calls of one event, and events that each stream reads, in each run."""


class Side:
    """Hubs that share a store, and an integration of theirs."""

    def __init__(self, hubs: Sequence[Server], view: scene.View, bot: str) -> None:
        self.hubs = hubs
        self.view = view
        self.bot = bot

    async def emit(self, calls: int, in_flight: int, first: int, batch: int) -> Measured:
        """Emit through all of them, each its part, from one load program each."""
        share = len(self.hubs)
        method = scene.EMIT_BATCH if batch else scene.EMIT
        jobs = [
            Emit(
                hub.target,
                method,
                calls // share,
                in_flight // share,
                first + number * calls * max(1, batch),
                key=self.bot,
                batch=batch,
            )
            for number, hub in enumerate(self.hubs)
        ]
        return await measure_all(self.hubs, *jobs)

    async def catch_up(self) -> Measured:
        """Read from all of them, each its part of the streams."""
        streams = [self.view.stream(f"s{number}", total=READ) for number in range(STREAMS)]
        share = len(self.hubs)
        jobs = [CatchUp(hub.target, scene.SUBSCRIBE, streams[number::share]) for number, hub in enumerate(self.hubs)]
        return await measure_all(self.hubs, *jobs)


async def replicas(data: Path, runs: int) -> list[Figure]:
    """Rates and processor time of the hubs; that of nats-server comes on top and is not counted."""
    if not servers.nats_program():
        return []
    async with AsyncExitStack() as stack:
        embedded = await side([await stack.enter_async_context(servers.hub(data / "embedded", **scene.ROOM))])
        store = await stack.enter_async_context(servers.nats(data))
        settings = {**scene.ROOM, "storage": store.target}
        hubs = [await stack.enter_async_context(servers.hub(data / "first", **settings))]
        one = await side(hubs)
        hubs = [*hubs, await stack.enter_async_context(servers.replica(data / "second", **settings))]
        return await compared(embedded, {"1 hub": one, "2 hubs": Side(hubs, one.view, one.bot)}, runs)


async def side(hubs: list[Server]) -> Side:
    """Hubs of which the first was the first to start, with what every stream of the measurement reads."""
    keys = hubs[0].keys
    view = await scene.register(hubs[0], keys["HUB_ADMIN_KEY"])
    await scene.emit(hubs[0], keys["HUB_BOT_KEY"], 0, READ)
    return Side(hubs, view, keys["HUB_BOT_KEY"])


async def compared(embedded: Side, sides: dict[str, Side], runs: int) -> list[Figure]:
    """The same of each, run by run, beside the embedded store."""
    figures = []
    first = READ
    for name, one in sides.items():
        batches = Figure(f"{name} on JetStream: BatchEmitEvents of 100, 8 in flight", "events/s", "embedded", more=True)
        singles = Figure(f"{name} on JetStream: EmitEvent, 64 in flight", "calls/s", "embedded", more=True)
        reads = Figure(f"{name} on JetStream: catch-up, 50 streams", "us CPU/event", "embedded")
        rates = Figure(f"{name} on JetStream: catch-up, 50 streams", "events/s", "embedded", more=True)
        for _ in range(runs):
            mine, theirs = await one.emit(BATCHES, 8, first, FRAME), await embedded.emit(BATCHES, 8, first, FRAME)
            batches.add(mine.rate, theirs.rate, load_bound=mine.load_bound)
            first += BATCHES * FRAME * 2
            mine, theirs = await one.emit(SINGLES, 64, first, 0), await embedded.emit(SINGLES, 64, first, 0)
            singles.add(mine.rate, theirs.rate, load_bound=mine.load_bound)
            first += SINGLES * 2
            mine, theirs = await one.catch_up(), await embedded.catch_up()
            reads.add(mine.cpu_per_event, theirs.cpu_per_event)
            rates.add(mine.rate, theirs.rate, load_bound=mine.load_bound)
        figures += [batches, singles, reads, rates]
    return figures
