"""Figures that want a long log: ingest on it, and how soon an event arrives, also while others replay it."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from bench import centrifugo, events, floor, scene, servers
from bench.figures import Figure
from bench.fill import fill
from bench.jobs import CatchUp, Emit, Live, Outcome, Stream
from bench.measure import Load, Measured, measure
from bench.reach import FRAME, STREAMS, batch_job, of_centrifugo
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
    name, unit = "live, single events, 50 streams, 100 events/s", "us CPU/delivery"
    cost, peer = Figure(name, unit, "floor", reach=1.25, dream=1.1), Figure(name, unit, "Centrifugo")
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(servers.floor(data))
        hub = await stack.enter_async_context(servers.hub(data / "hub", **scene.ROOM))
        other = await stack.enter_async_context(servers.centrifugo_server(data)) if centrifugo.program() else None
        view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
        for run in range(runs):
            mine = await measure(hub, live_job(hub, view, hub.keys["HUB_BOT_KEY"], run * CALLS))
            ground = await measure(bare, floor_job(bare, run * CALLS))
            cost.add(mine.cpu_per_event, ground.cpu_per_event)
            if other is not None:
                told = Emit(other.keys["api"], centrifugo.PUBLISH, CALLS, 32, run * CALLS, rate=RATE)
                peer.add(mine.cpu_per_event, (await measure(other, of_centrifugo(other, told))).cpu_per_event)
            for figure, share in ((p50, 0.5), (p99, 0.99)):
                figure.add(*(milliseconds(one, share) for one in (mine, ground)), load_bound=mine.load_bound)
    return [p50, p99, cost, *([peer] if peer.hub else [])]


async def linger(data: Path, runs: int) -> list[Figure]:
    """Streams that linger for a second against streams that do not; both less what streams that see nothing cost."""
    figure = Figure("linger 1 s, 50 streams, 100 events/s", "us CPU/delivery", "without linger", reach=0.05, dream=0.02)
    calls = 2 * CALLS
    async with servers.hub(data / "hub", **scene.ROOM) as hub:
        view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
        bot = hub.keys["HUB_BOT_KEY"]
        for run in range(runs):
            firsts = [(3 * run + number) * calls for number in range(3)]
            deaf = await measure(hub, live_job(hub, view.only("1"), bot, firsts[0], calls))
            live = await measure(hub, live_job(hub, view, bot, firsts[1], calls))
            lingering = await measure(hub, live_job(hub, view, bot, firsts[2], calls, linger=1))
            costs = (max(0.0, one.cpu - deaf.cpu) / one.outcome.events * 1e6 for one in (lingering, live))
            figure.add(*costs, load_bound=live.load_bound)
            figure.note = f"frames of {lingering.outcome.events / lingering.outcome.messages:.0f}"
    return [figure]


def live_job(  # noqa: PLR0913  one word for each thing that differs
    hub: Server, view: scene.View, bot: str, first: int, calls: int = CALLS, linger: int = 0
) -> Live:
    """Single events at a rate, and the streams that follow them."""
    total = first + calls
    streams = [view.stream(f"s{n}", latest=True, after=first, total=total, linger=linger) for n in range(STREAMS)]
    return Live(hub.target, scene.SUBSCRIBE, streams, Emit(hub.target, scene.EMIT, calls, 32, first, bot, rate=RATE))


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
        "emit to deliver: p99, 10 streams replay 1 M, retention trims",
        "ms",
        "beside replays of the floor",
        reach=1.5,
        dream=1.2,
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
    """Once: what retention removes is gone after it.

    The replaying load yields to the one that is measured. What it takes from the hub's two cores, it takes from them
    as well while it replays the floor.
    """
    first = LONG_LOG * 2
    frames = REPLAYED // FRAME
    request = msgspec.json.encode(floor.Frames(events.frame(0, FRAME), frames))
    dummies = [Stream(request, events=REPLAYED)] * REPLAYING
    streams = [view.stream(f"replay{number}", after=0, total=REPLAYED) for number in range(REPLAYING)]
    async with servers.floor(data) as bare, servers.hub(data / "long", **scene.ROOM) as hub:
        began = asyncio.get_running_loop().time()
        dummy = CatchUp(bare.target, floor.STREAM, dummies, nice=10)
        calm, _ = await beside(dummy, hub, live_job(hub, view, bot, first))
        await asyncio.sleep(max(0.0, began + FIRST_TRIM - 2 - asyncio.get_running_loop().time()))
        replay = CatchUp(hub.target, scene.SUBSCRIBE, streams, nice=10)
        busy, replayed = await beside(replay, hub, live_job(hub, view, bot, first + CALLS))
    figure.add(milliseconds(busy, 0.99), milliseconds(calm, 0.99))
    figure.note = f"{replayed.events:,} events were replayed in {replayed.seconds:.1f} s beside it"


async def beside(replay: CatchUp, server: Server, job: Live) -> tuple[Measured, Outcome]:
    """Measure a job while another load runs; what both saw."""
    load = await Load.start(replay)
    try:
        load.go()
        measured = await measure(server, job)
        return measured, await load.outcome()
    finally:
        await load.stop()
