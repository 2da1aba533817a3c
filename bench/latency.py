"""Figures that want a long log: ingest on it, and how soon an event arrives, also while others replay it."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from bench import events, floor, scene, servers
from bench.figures import Figure
from bench.fill import fill
from bench.jobs import CatchUp, Emit, Live, Stream
from bench.measure import Load, Measured, measure
from bench.reach import FRAME, STREAMS, batch_job
from bench.servers import Server

LONG_LOG = 2_500_000
EXPIRED = 300_000
"""Events of the long log that retention removes while the hub runs."""
REPLAYED = 1_000_000
REPLAYING = 10
RETENTION_HOURS = 72
FIRST_TRIM = 10.0
"""Seconds after its start at which a hub first removes what is too old."""
CALLS, RATE = 600, 100.0


async def latency(data: Path, runs: int) -> list[Figure]:
    """From sending an event to reading it on each of fifty streams, at 100 events a second."""
    p50 = Figure("emit to deliver, 50 streams, 100 events/s: p50", "ms", "durable echo", reach=1.5, dream=1.1)
    p99 = Figure("emit to deliver, 50 streams, 100 events/s: p99", "ms", "durable echo", reach=1.5, dream=1.1)
    async with servers.floor(data) as bare, servers.hub(data / "hub", **scene.ROOM) as hub:
        view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
        for run in range(runs):
            mine = await measure(hub, live_job(hub, view, hub.keys["HUB_BOT_KEY"], run * CALLS))
            ground = await measure(bare, floor_job(bare, run * CALLS))
            for figure, share in ((p50, 0.5), (p99, 0.99)):
                figure.add(*(milliseconds(one, share) for one in (mine, ground)), load_bound=mine.load_bound)
    return [p50, p99]


def live_job(hub: Server, view: scene.View, bot: str, first: int) -> Live:
    """Single events at a rate, and the streams that follow them."""
    streams = [view.stream(f"s{number}", latest=True, after=first, total=first + CALLS) for number in range(STREAMS)]
    return Live(hub.target, scene.SUBSCRIBE, streams, Emit(hub.target, scene.EMIT, CALLS, 32, first, bot, rate=RATE))


def floor_job(bare: Server, first: int) -> Live:
    """The same of the floor."""
    emit = Emit(bare.target, floor.STORE, CALLS, 32, first, rate=RATE, ready=True)
    return Live(bare.target, floor.FOLLOW, [Stream(b"-", events=CALLS)] * STREAMS, emit)


def milliseconds(measured: Measured, share: float) -> float:
    """A percentile of the latencies."""
    return events.percentile(measured.outcome.latencies, share) * 1e3


async def long_log(data: Path, runs: int) -> list[Figure]:
    """A log of 2.5 million events: what it costs to add to it, and to be heard while it is replayed and trimmed."""
    ingest = Figure(
        "BatchEmitEvents on 2.5 M events (UUIDv7)", "events/s", "empty log", reach=0.7, dream=0.9, more=True
    )
    busy = Figure(
        "emit to deliver: p99, 10 streams replay 1 M, retention trims", "ms", "durable echo", reach=3.0, dream=1.5
    )
    async with servers.hub(data / "long", **scene.ROOM) as hub:
        keys = hub.keys
        view = await scene.register(hub, keys["HUB_ADMIN_KEY"])
    await fill(data / "long", 0, EXPIRED, age=RETENTION_HOURS * 3600 + 600)
    await fill(data / "long", EXPIRED, LONG_LOG - EXPIRED)
    await measure_ingest(data, runs, ingest, keys["HUB_BOT_KEY"])
    await measure_busy(data, busy, view, keys["HUB_BOT_KEY"])
    return [ingest, busy]


async def measure_ingest(data: Path, runs: int, figure: Figure, bot: str) -> None:
    """The same batches to a long log and to an empty one, side by side."""
    calls = 400
    async with AsyncExitStack() as stack:
        full = await stack.enter_async_context(servers.hub(data / "long", retention=30 * 24 * 3600))
        empty = await stack.enter_async_context(servers.hub(data / "empty"))
        for run in range(runs):
            first = LONG_LOG + run * calls * FRAME
            mine = await measure(full, batch_job(full, bot, first, calls))
            theirs = await measure(empty, batch_job(empty, empty.keys["HUB_BOT_KEY"], first, calls))
            figure.add(mine.rate, theirs.rate)


async def measure_busy(data: Path, figure: Figure, view: scene.View, bot: str) -> None:
    """Once: what retention removes is gone after it. The replaying load yields to the one that is measured."""
    first = LONG_LOG * 2
    async with servers.floor(data) as bare, servers.hub(data / "long", **scene.ROOM) as hub:
        began = asyncio.get_running_loop().time()
        ground = await measure(bare, floor_job(bare, first))
        streams = [view.stream(f"replay{number}", after=0, total=REPLAYED) for number in range(REPLAYING)]
        replay = await Load.start(CatchUp(hub.target, scene.SUBSCRIBE, streams, nice=10))
        try:
            await asyncio.sleep(max(0.0, began + FIRST_TRIM - 2 - asyncio.get_running_loop().time()))
            replay.go()
            mine = await measure(hub, live_job(hub, view, bot, first))
            replayed = await replay.outcome()
        finally:
            await replay.stop()
    figure.add(milliseconds(mine, 0.99), milliseconds(ground, 0.99))
    figure.note = f"{replayed.events:,} events were replayed in {replayed.seconds:.1f} s beside it"
