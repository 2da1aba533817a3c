"""The figures of ``make bench``: the hub beside its floor and the usual alternatives."""

from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from msgspec.structs import replace

from bench import centrifugo, events, floor, scene, servers
from bench.figures import Figure
from bench.jobs import CatchUp, Emit, Live, NatsConsume, NatsPublish, RedisAdd, RedisRead, Stream
from bench.measure import Measured, measure
from bench.servers import Server

STREAMS = 50
CATCH_UP = 20_000
PEERS_CATCH_UP = 4_000
FRAME = 100


def repeated(stream: Stream, count: int) -> list[Stream]:
    """The same stream so many times."""
    return [stream] * count


def floor_streams(frames: int) -> list[Stream]:
    """What the floor is asked for: as many frames of 100 events, each as long as the hub's."""
    request = msgspec.json.encode(floor.Frames(events.frame(0, FRAME), frames))
    return repeated(Stream(request, events=frames * FRAME), STREAMS)


async def catch_up(data: Path, runs: int) -> list[Figure]:
    """Fifty streams that are behind: on one view, on fifty; the floor; the peers."""
    same = Figure("catch-up, 50 streams on one view, frames of 100", "us CPU/event", "floor", reach=2.0, dream=1.2)
    views = Figure("catch-up, 50 views from 50 cursors", "us CPU/event", "floor", reach=3.0, dream=2.0)
    recent = Figure("catch-up, one view, events still in memory", "us CPU/event", "floor", reach=2.0, dream=1.2)
    peers = {
        "JetStream": Figure("catch-up, one view", "us CPU/event", "JetStream", reach=0.5, dream=0.2),
        "Redis": Figure("catch-up, one view", "us CPU/event", "Redis", reach=2.5, dream=1.0),
    }
    async with servers.hub(data / "hub", **scene.ROOM) as hub:
        admin = hub.keys["HUB_ADMIN_KEY"]
        one = await scene.register(hub, admin)
        many = await scene.different_views(hub, admin, STREAMS)
        await scene.emit(hub, hub.keys["HUB_BOT_KEY"], 0, CATCH_UP)
        places = await scene.cursors(hub, one, CATCH_UP, 37)
    streams = [one.stream(f"s{number}", total=CATCH_UP) for number in range(STREAMS)]
    wanted = [
        view.stream("v", cursor=places[number * 3][1], after=places[number * 3][0], total=CATCH_UP)
        for number, view in enumerate(many)
    ]
    async with servers.floor(data) as bare:
        for run in range(runs):
            ground = await measure(bare, CatchUp(bare.target, floor.STREAM, floor_streams(CATCH_UP // FRAME)))
            async with servers.hub(data / "hub", **scene.ROOM) as hub:
                mine = await measure(hub, CatchUp(hub.target, scene.SUBSCRIBE, streams))
            async with servers.hub(data / "hub", **scene.ROOM) as hub:
                apart = await measure(hub, CatchUp(hub.target, scene.SUBSCRIBE, wanted))
            same.add(mine.cpu_per_event, ground.cpu_per_event)
            views.add(apart.cpu_per_event, ground.cpu_per_event)
            for name, value in (await catch_up_of_peers(data)).items():
                peers[name].add(mine.cpu_per_event, value.cpu_per_event)
            recent.add((await catch_up_in_memory(data / f"memory{run}")).cpu_per_event, ground.cpu_per_event)
    return [same, views, recent, *(figure for figure in peers.values() if figure.hub)]


async def catch_up_in_memory(data: Path) -> Measured:
    """A hub that has just taken the events in, and still holds them."""
    async with servers.hub(data, **scene.ROOM) as hub:
        view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
        await scene.emit(hub, hub.keys["HUB_BOT_KEY"], 0, CATCH_UP)
        streams = [view.stream(f"s{number}", total=CATCH_UP) for number in range(STREAMS)]
        return await measure(hub, CatchUp(hub.target, scene.SUBSCRIBE, streams))


async def catch_up_of_peers(data: Path) -> dict[str, Measured]:
    """The same of those peers that are installed."""
    found: dict[str, Measured] = {}
    if servers.nats_program():
        async with servers.nats(data) as server:
            found["JetStream"] = await measure(server, NatsConsume(server.target, STREAMS, PEERS_CATCH_UP))
    if servers.redis_program():
        async with servers.redis(data) as server:
            found["Redis"] = await measure(server, RedisRead(server.target, STREAMS, CATCH_UP))
    return found


async def live(data: Path, runs: int) -> list[Figure]:
    """Fifty streams that follow 5,000 events a second, which come in batches."""
    name, unit = "live fan-out, 50 streams, 5,000 events/s", "us CPU/event"
    figure = Figure(name, unit, "floor", reach=1.6, dream=1.3)
    peer = Figure(name, unit, "Centrifugo", reach=0.6)
    calls, rate = 250, 50.0
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(servers.floor(data))
        hub = await stack.enter_async_context(servers.hub(data / "hub", **scene.ROOM))
        other = await stack.enter_async_context(servers.centrifugo_server(data)) if centrifugo.program() else None
        view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
        bot = hub.keys["HUB_BOT_KEY"]
        for run in range(runs):
            first = run * calls * FRAME
            streams = [view.stream(f"s{n}", latest=True, total=calls * FRAME) for n in range(STREAMS)]
            emit = Emit(hub.target, scene.EMIT_BATCH, calls, 8, first, key=bot, batch=FRAME, rate=rate)
            mine = await measure(hub, Live(hub.target, scene.SUBSCRIBE, streams, emit))
            size = max(1, round(mine.outcome.events / mine.outcome.messages))
            frames = calls * FRAME // size
            follow = repeated(Stream(b"-", events=frames * size), STREAMS)
            ready = Emit(bare.target, floor.PUBLISH, frames, 8, first, batch=size, rate=rate * FRAME / size, ready=True)
            ground = await measure(bare, Live(bare.target, floor.FOLLOW, follow, ready))
            figure.add(mine.cpu_per_event, ground.cpu_per_event, load_bound=mine.load_bound or ground.load_bound)
            figure.note = f"frames of {size}"
            if other is not None:
                told = Emit(other.keys["api"], centrifugo.BATCH, 20, 8, first, batch=FRAME, rate=4.0)
                theirs = await measure(other, of_centrifugo(other, told))
                peer.note = "Centrifugo: 400 events/s, a message each, as many as the load program reads"
                peer.add(mine.cpu_per_event, theirs.cpu_per_event, load_bound=mine.load_bound or theirs.load_bound)
    return [figure, peer] if peer.hub else [figure]


def of_centrifugo(server: Server, emit: Emit) -> Live:
    """Fifty streams of Centrifugo that follow what is published."""
    events_due = emit.calls * max(1, emit.batch)
    follow = repeated(Stream(centrifugo.connect(), events=events_due), STREAMS)
    return Live(server.target, centrifugo.CONSUME, follow, replace(emit, published=True))


async def unary(data: Path, runs: int) -> list[Figure]:
    """Single events, each acknowledged once it is durable, 64 in flight from two load programs."""
    echo = Figure("EmitEvent, durable, 64 in flight", "calls/s", "echo", reach=0.7, dream=0.8, more=True)
    others = {
        name: Figure("EmitEvent, durable, 64 in flight", "calls/s", name, more=True) for name in ("JetStream", "Redis")
    }
    calls = 4_000
    async with AsyncExitStack() as stack:
        bare = await stack.enter_async_context(servers.floor(data))
        hub = await stack.enter_async_context(servers.hub(data / "hub"))
        peers = await running_peers(stack, data)
        for run in range(runs):
            firsts = [(run * 2 + side) * calls for side in range(2)]
            bot = hub.keys["HUB_BOT_KEY"]
            ground = await measure(bare, *(Emit(bare.target, floor.ECHO, calls, 32, first) for first in firsts))
            mine = await measure(hub, *(Emit(hub.target, scene.EMIT, calls, 32, first, key=bot) for first in firsts))
            echo.add(mine.rate, ground.rate, load_bound=ground.load_bound)
            for name, server in peers.items():
                kind = NatsPublish if name == "JetStream" else RedisAdd
                theirs = await measure(server, kind(server.target, calls, 64))
                others[name].add(mine.rate, theirs.rate, load_bound=theirs.load_bound)
    return [echo, *(figure for figure in others.values() if figure.hub)]


async def running_peers(stack: AsyncExitStack, data: Path) -> dict[str, Server]:
    """Those peers that are installed, running until the stack ends."""
    found = {}
    if servers.nats_program():
        found["JetStream"] = await stack.enter_async_context(servers.nats(data))
    if servers.redis_program():
        found["Redis"] = await stack.enter_async_context(servers.redis(data))
    return found


def batch_job(hub: Server, bot: str, first: int, calls: int) -> Emit:
    """Batches of 100, 8 in flight."""
    return Emit(hub.target, scene.EMIT_BATCH, calls, 8, first, key=bot, batch=FRAME)


async def batches(data: Path, runs: int) -> list[Figure]:
    """Batches, each acknowledged once it is durable."""
    name = "BatchEmitEvents of 100, durable, 8 in flight"
    jetstream = Figure(name, "events/s", "JetStream", reach=1.5, dream=3.0, more=True)
    redis = Figure(name, "events/s", "Redis", dream=1.0, more=True)
    calls = 400
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(servers.hub(data / "hub"))
        peers = await running_peers(stack, data)
        for run in range(runs):
            mine = await measure(hub, batch_job(hub, hub.keys["HUB_BOT_KEY"], run * calls * FRAME, calls))
            for figure in (jetstream, redis):
                if server := peers.get(figure.against):
                    kind = NatsPublish if figure is jetstream else RedisAdd
                    theirs = await measure(server, kind(server.target, calls // 2, 8, FRAME))
                    figure.add(mine.rate, theirs.rate, load_bound=theirs.load_bound)
    return [figure for figure in (jetstream, redis) if figure.hub]
