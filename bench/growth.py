"""How cost grows: each figure is the hub at the large end of something, against the hub at its small end."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from bench import floor, machine, scene, servers
from bench.figures import Figure
from bench.jobs import Emit, Idle, Live, Stream
from bench.measure import Load, measure
from bench.servers import Server

FEW, MANY, CROWD = 10, 1_000, 5_000
FRAME = 100
BATCHES, RATE = 100, 20.0
SHARED = 50
"""Streams on one connection, where connections are not what is measured."""
ALLOWED_IDLE = 40.0
"""KB that an idle stream may take."""


async def outsiders(data: Path, runs: int) -> list[Figure]:
    """More and more streams that do not see what is emitted: half are of other guilds, half have other scopes."""
    figures = [
        Figure(
            f"{crowd:,} streams without the event",
            "us CPU/event",
            f"{FEW} streams",
            reach=1.2,
            curve="an event, by the streams that do not have it",
            sizes=(FEW, crowd),
        )
        for crowd in (MANY, CROWD)
    ]
    for run in range(runs):
        costs = {}
        for count in (FEW, MANY, CROWD):
            async with servers.hub(data / f"hub{run}-{count}", **scene.ROOM) as hub:
                costs[count] = await beside_idle(hub, await strangers(hub, count))
        figures[0].add(costs[MANY], costs[FEW])
        figures[1].add(costs[CROWD], costs[FEW])
    return figures


async def strangers(hub: Server, count: int) -> list[Stream]:
    """Streams that see nothing of ticket_created in the guilds of the load, though they might see other things."""
    admin = hub.keys["HUB_ADMIN_KEY"]
    all_scopes = await scene.register(hub, admin)
    others = await scene.register(hub, admin, [scene.STATS])
    return [
        (all_scopes if number % 2 else others)
        .only(str(900_000_000_000_000_000 + number))
        .stream(f"s{number}", latest=True)
        for number in range(count)
    ]


async def beside_idle(hub: Server, streams: Sequence[Stream]) -> float:
    """Microseconds of processor time an event, net of what the same streams cost while nothing is emitted."""
    crowd = await Load.start(Idle(hub.target, scene.SUBSCRIBE, list(streams), shared=SHARED))
    try:
        seconds = BATCHES / RATE
        before = machine.cpu(hub.pid)
        await asyncio.sleep(seconds)
        idle = machine.cpu(hub.pid) - before
        bot = hub.keys["HUB_BOT_KEY"]
        busy = await measure(hub, Emit(hub.target, scene.EMIT_BATCH, BATCHES, 8, 0, bot, batch=FRAME, rate=RATE))
        return max(1e-6, busy.cpu - idle) / (BATCHES * FRAME) * 1e6
    finally:
        await crowd.stop()


async def insiders(data: Path, runs: int) -> list[Figure]:
    """More streams that all get what is emitted."""
    figure = Figure(
        f"{MANY:,} streams that all have the event",
        "us CPU/delivery",
        f"{FEW} streams",
        reach=1.0,
        curve="a delivery, by the streams that have the event",
        sizes=(FEW, MANY),
    )
    for run in range(runs):
        costs = {}
        for count, batches in ((FEW, 200), (MANY, 10)):
            async with servers.hub(data / f"hub{run}-{count}", **scene.ROOM) as hub:
                view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
                streams = [view.stream(f"s{n}", latest=True, total=batches * FRAME) for n in range(count)]
                bot, rate = hub.keys["HUB_BOT_KEY"], batches / 10
                emit = Emit(hub.target, scene.EMIT_BATCH, batches, 2, 0, bot, batch=FRAME, rate=rate)
                costs[count] = (await measure(hub, Live(hub.target, scene.SUBSCRIBE, streams, emit))).cpu_per_event
        figure.add(costs[MANY], costs[FEW])
    return [figure]


async def reconnect(data: Path, runs: int) -> list[Figure]:
    """A thousand clients that all come at once after a restart, each on a connection of its own."""
    figure = Figure(f"{MANY:,} clients reconnect after a restart: time to the last Ready", "s", "floor")
    async with servers.hub(data / "hub", **scene.ROOM) as hub:
        view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
    streams = [view.stream(f"s{number}", latest=True) for number in range(MANY)]
    for _ in range(runs):
        async with servers.hub(data / "hub", **scene.ROOM) as hub:
            mine = await measure(hub, Idle(hub.target, scene.SUBSCRIBE, streams))
        async with servers.floor(data) as bare:
            theirs = await measure(bare, Idle(bare.target, floor.FOLLOW, [Stream(b"-")] * MANY))
        figure.add(mine.outcome.seconds, theirs.outcome.seconds)
    return [figure]


async def memory(data: Path, runs: int) -> list[Figure]:
    """What an idle stream takes, and what a thousand readers take that do not read."""
    idle = Figure("memory of an idle stream", "KB", "floor")
    allowed = Figure("memory of an idle stream", "KB", f"{ALLOWED_IDLE:g} KB", reach=1.0)
    stalled = Figure(f"memory for {MANY:,} stalled readers, 20,000 events later", "MB", "the same, reading", reach=1.5)
    for run in range(runs):
        async with AsyncExitStack() as stack:
            hub = await stack.enter_async_context(servers.hub(data / f"hub{run}", **scene.ROOM))
            bare = await stack.enter_async_context(servers.floor(data))
            view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
            streams = [view.stream(f"s{number}", latest=True) for number in range(MANY)]
            mine = await held(hub, Idle(hub.target, scene.SUBSCRIBE, streams, shared=SHARED))
            theirs = await held(bare, Idle(bare.target, floor.FOLLOW, [Stream(b"-")] * MANY, shared=SHARED))
        idle.add(mine / MANY / 1024, theirs / MANY / 1024)
        allowed.add(mine / MANY / 1024, ALLOWED_IDLE)
        costs = [await beside_flood(data / f"flood{run}-{reads}", reads=reads) for reads in (False, True)]
        stalled.add(costs[0] / 2**20, costs[1] / 2**20)
    return [idle, allowed, stalled]


async def held(server: Server, job: Idle) -> float:
    """Bytes that a server holds more while these streams are open."""
    before = machine.usage(server.pid).memory
    crowd = await Load.start(job)
    try:
        return float(machine.usage(server.pid).memory - before)
    finally:
        await crowd.stop()


async def beside_flood(data: Path, *, reads: bool) -> float:
    """Bytes that the hub holds more after 20,000 events for a thousand streams whose clients read, or do not."""
    async with servers.hub(data, **scene.ROOM) as hub:
        view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
        streams = [view.stream(f"s{number}", latest=True) for number in range(MANY)]
        before = machine.usage(hub.pid).memory
        crowd = await Load.start(Idle(hub.target, scene.SUBSCRIBE, streams, reads=reads))
        try:
            await scene.emit(hub, hub.keys["HUB_BOT_KEY"], 0, 20_000)
            await asyncio.sleep(5)
            return float(machine.usage(hub.pid).memory - before)
        finally:
            await crowd.stop()
