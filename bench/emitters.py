"""Figures of the producing side: what ``emit()`` of the client makes of many callers, and costs one."""

from contextlib import AsyncExitStack
from pathlib import Path

from bench import events, servers
from bench.figures import Figure
from bench.jobs import EmitByClient, NatsPublish
from bench.measure import Measured, measure
from bench.servers import Server

CALLERS = 256
EVENTS = 20_000
LONE = 2_000


async def emitters(data: Path, runs: int) -> list[Figure]:
    """Many callers of one client against JetStream one by one; one caller against the bare call. All are durable."""
    many = Figure(f"emit() of one client, {CALLERS} callers", "events/s", "JetStream", reach=3.0, dream=6.0, more=True)
    lone = Figure("a lone emit(): p50", "ms", "bare call", reach=1.05, dream=1.0)
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(servers.hub(data / "hub"))
        nats = await stack.enter_async_context(servers.nats(data)) if servers.nats_program() else None
        first = 0
        for _ in range(runs):
            if nats is not None:
                mine = await measure(hub, job(hub, first, EVENTS, CALLERS))
                theirs = await measure(nats, NatsPublish(nats.target, EVENTS // 4, 64))
                many.add(mine.rate, theirs.rate, load_bound=theirs.load_bound)
            first += EVENTS
            ours = await measure(hub, job(hub, first, LONE, 1))
            bare = await measure(hub, job(hub, first + LONE, LONE, 1, bare=True))
            lone.add(milliseconds(ours), milliseconds(bare))
            first += 2 * LONE
    return [figure for figure in (many, lone) if figure.hub]


def job(hub: Server, first: int, count: int, callers: int, *, bare: bool = False) -> EmitByClient:
    """So many events from so many callers."""
    return EmitByClient(hub.target, hub.keys["HUB_BOT_KEY"], count, callers, first, bare)


def milliseconds(measured: Measured) -> float:
    """The median time of a call."""
    return events.percentile(measured.outcome.latencies, 0.5) * 1_000
