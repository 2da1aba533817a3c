"""What metrics cost: the hub that counts beside one that does not, and what a scrape costs."""

import asyncio
import time
from pathlib import Path

from bench import machine, scene, servers
from bench.figures import Figure
from bench.jobs import Emit, Live
from bench.measure import measure
from bench.servers import Server, free_port

STREAMS, FRAME = 50, 100
CALLS = 3_000
BATCHES, RATE = 150, 50.0

SCRAPES = 100
IDLE = 5.0
SCRAPE_PERIOD = 15.0
"""Seconds between two scrapes, as most Prometheus servers have it."""


async def counting(data: Path, runs: int) -> list[Figure]:
    """Single events, and fifty streams that follow 5,000 events a second; the two hubs take turns."""
    calls = Figure("EmitEvent, 64 in flight, all of it counted", "us CPU/call", "not counted", reach=1.02)
    fanout = Figure("live fan-out, 50 streams, all of it counted", "us CPU/event", "not counted", reach=1.02)
    async with (
        servers.hub(data / "on", **scene.ROOM) as on,
        servers.uncounted_hub(data / "off", **scene.ROOM) as off,
    ):
        pair = [(hub, await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])) for hub in (on, off)]
        for run in range(runs):
            order = pair if run % 2 == 0 else pair[::-1]  # who comes second finds a warmer machine
            emits = {hub.pid: await emit_cost(hub, run) for hub, _ in order}
            calls.add(emits[on.pid], emits[off.pid])
            lives = {hub.pid: await live_cost(hub, view, run) for hub, view in order}
            fanout.add(lives[on.pid], lives[off.pid])
    for figure in (calls, fanout):
        figure.note = spread(figure)
    return [calls, fanout]


def spread(figure: Figure) -> str:
    """How far the ratios of the runs lie apart."""
    ratios = sorted(mine / theirs for mine, theirs in zip(figure.hub, figure.other, strict=True))
    return (
        f"the ratios of {len(ratios)} alternating runs: {ratios[0]:.3f} to {ratios[-1]:.3f}, median {figure.ratio:.3f}"
    )


async def scrapes(data: Path, runs: int) -> list[Figure]:
    """What one scrape costs, beside what an idle hub uses in the 15 s until the next one."""
    figure = Figure("a scrape", "ms CPU", "an idle hub, in 15 s")
    port = free_port()
    async with servers.hub(data, http_listen=f"127.0.0.1:{port}") as hub:
        for _ in range(runs):
            idle = machine.cpu(hub.pid)
            await asyncio.sleep(IDLE)
            idle = (machine.cpu(hub.pid) - idle) / IDLE
            began, before = time.monotonic(), machine.cpu(hub.pid)
            for _ in range(SCRAPES):
                await scrape(port)
            spent = machine.cpu(hub.pid) - before - idle * (time.monotonic() - began)
            figure.add(spent / SCRAPES * 1e3, idle * SCRAPE_PERIOD * 1e3)
    return [figure]


async def emit_cost(hub: Server, run: int) -> float:
    """Microseconds of processor time for each of some single events."""
    job = Emit(hub.target, scene.EMIT, CALLS, 64, run * CALLS, hub.keys["HUB_BOT_KEY"])
    return (await measure(hub, job)).cpu_per_event


async def live_cost(hub: Server, view: scene.View, run: int) -> float:
    """Microseconds of processor time for each event that a stream gets."""
    first = 10_000_000 + run * BATCHES * FRAME
    streams = [view.stream(f"s{n}", latest=True, after=first, total=first + BATCHES * FRAME) for n in range(STREAMS)]
    emit = Emit(hub.target, scene.EMIT_BATCH, BATCHES, 8, first, hub.keys["HUB_BOT_KEY"], batch=FRAME, rate=RATE)
    return (await measure(hub, Live(hub.target, scene.SUBSCRIBE, streams, emit))).cpu_per_event


async def scrape(port: int) -> None:
    """Fetch the metrics; fails where they do not come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await reader.read()
    writer.close()
    if b"hub_serving 1.0" not in answer:
        raise RuntimeError("the hub is not scraped")
