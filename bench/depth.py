"""How cost grows with the length of the log and the number of integrations and installations."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from msgspec.structs import replace
from tickets.hub.v1 import directory_service_pb2, directory_service_pb2_grpc, event_service_pb2

from bench import loads, machine, scene, servers
from bench.figures import Figure
from bench.fill import fill
from bench.jobs import Emit
from bench.measure import measure
from bench.servers import Server, channel
from hub import config
from hub.model import Entry
from hub.storage import Log, open_storage

SHORT, LONG = 10_000, 1_000_000
TRIES = 4
FEW, MANY = 10, 10_000
INSTALLATIONS = 100_000
STARTS = ("a deep cursor", "since", "committed")


async def log_length(data: Path, runs: int) -> list[Figure]:
    """A hundred times longer log: the time to the first events, and the memory of the hub."""
    first = {
        name: by_length(Figure(f"first frame from {name}, 10^6 events", "ms", "10^4 events", reach=1.5))
        for name in STARTS
    }
    memory = by_length(Figure("memory of the hub, 10^6 events", "MB", "10^4 events", reach=1.1))
    for count in (SHORT, LONG):
        async with servers.hub(data / str(count), **scene.ROOM) as hub:
            view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
        await fill(data / str(count), 0, count, age=3600)
        found = [await depths(data / str(count), view, count) for _ in range(runs)]
        for name in (*STARTS, "memory"):
            figure = memory if name == "memory" else first[name]
            (figure.other if count == SHORT else figure.hub).extend(one[name] for one in found)
    return [*first.values(), memory]


def by_length(figure: Figure) -> Figure:
    """A figure that is the end of a curve over the length of the log."""
    return replace(figure, curve=f"{figure.name.partition(',')[0]}, by events in the log", sizes=(SHORT, LONG))


async def depths(data: Path, view: scene.View, count: int) -> dict[str, float]:
    """Milliseconds to the first events from places all over the log, and megabytes of a hub that has just started.

    Each place is on a page of its own and each start has a hub of its own: nothing is in memory yet.
    """
    async with servers.hub(data, **scene.ROOM) as hub:
        found = {"memory": machine.usage(hub.pid).memory / 2**20}
        places = await scene.cursors(hub, view, count, 500)
    step = len(places) // (TRIES + 1)
    chosen = [cursor for _, cursor in places[step : step * TRIES + 1 : step]]
    async with servers.hub(data, **scene.ROOM) as hub:
        times = [await first_frame(hub, view, f"c{n}", cursor=cursor) for n, cursor in enumerate(chosen)]
        found["a deep cursor"], frames = median(took for took, _ in times), [frame for _, frame in times]
        for number, cursor in enumerate(chosen):
            await commit(hub, view, f"k{number}", cursor)
    async with servers.hub(data, **scene.ROOM) as hub:
        starts = [frame.events[0].accept_time for frame in frames]
        times = [await first_frame(hub, view, f"s{n}", since=start) for n, start in enumerate(starts)]
        found["since"] = median(took for took, _ in times)
    async with servers.hub(data, **scene.ROOM) as hub:
        times = [await first_frame(hub, view, f"k{n}", committed={}) for n in range(TRIES)]
        found["committed"] = median(took for took, _ in times)
    return found


async def first_frame(
    hub: Server,
    view: scene.View,
    name: str,
    **start: Any,  # noqa: ANN401  a field of SubscribeRequest
) -> tuple[float, event_service_pb2.SubscribeResponse]:
    """Milliseconds from opening a stream on an open connection to its first events; and these."""
    request = event_service_pb2.SubscribeRequest(subscription_id=name, **start)
    async with channel(hub.target) as connection:
        await connection.channel_ready()
        subscribe: Any = connection.unary_stream(scene.SUBSCRIBE)
        began = time.perf_counter()
        call = subscribe(request.SerializeToString(), metadata=loads.metadata(view.key), timeout=60)
        async for data in call:
            frame = event_service_pb2.SubscribeResponse.FromString(data)
            if frame.events:
                took = (time.perf_counter() - began) * 1e3
                call.cancel()
                return took, frame
    raise EOFError("the stream ended before its first events")


async def commit(hub: Server, view: scene.View, name: str, cursor: str) -> None:
    """Keep a place."""
    request = event_service_pb2.CommitCursorRequest(cursor=cursor, subscription_id=name)
    async with channel(hub.target) as connection:
        call: Any = connection.unary_unary("/tickets.hub.v1.EventService/CommitCursor")
        await call(request.SerializeToString(), metadata=loads.metadata(view.key), timeout=60)


async def population(data: Path, runs: int) -> list[Figure]:
    """A thousand times more integrations, each with a key, and 10^5 installations."""
    much = f"{MANY:,} integrations, {INSTALLATIONS:,} installations"
    sizes = (FEW, MANY)
    call = Figure(
        f"EmitEvent, {much}", "us CPU/call", f"{FEW}", reach=1.2, curve="EmitEvent, by integrations", sizes=sizes
    )
    start = Figure(f"start of the hub, {much}", "s", f"{FEW}", curve="start of the hub, by integrations", sizes=sizes)
    for count, installed in ((FEW, FEW), (MANY, INSTALLATIONS)):
        path = data / str(count)
        keys = await begun(path)
        await populate(path, count, installed)
        for run in range(runs):
            async with servers.hub(path) as hub:
                emit = Emit(hub.target, scene.EMIT, 3_000, 32, run * 3_000, keys["HUB_BOT_KEY"])
                cost = (await measure(hub, emit)).cpu_per_event
                (call.other if count == FEW else call.hub).append(cost)
                (start.other if count == FEW else start.hub).append(hub.start_seconds)
    return [call, start]


async def begun(path: Path) -> Any:  # noqa: ANN401  the first keys
    """A store with one integration and one installation, to make the others like."""
    async with servers.hub(path) as hub:
        view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
        request = directory_service_pb2.InstallIntegrationRequest(
            integration_id=view.integration_id, guild_id="700000000000000000", acting_user_id="80351110224678912"
        )
        async with channel(hub.target) as connection:
            directory = directory_service_pb2_grpc.DirectoryServiceStub(connection)
            await directory.InstallIntegration(request, metadata=loads.metadata(hub.keys["HUB_BOT_KEY"]), timeout=30)
        return hub.keys


async def populate(path: Path, integrations: int, installations: int) -> None:
    """Integrations and installations like those that are there, with ids of their own, appended to the store."""
    log = await open_storage(config.load({"data_dir": str(path)}))
    try:
        entries, _ = await log.snapshot()
        one = next(entry for entry in entries if entry.key.startswith("integration/"))
        other = next(entry for entry in entries if entry.key.startswith("installation/"))
        old = one.key.split("/")[1]
        await append(
            log, integrations - 1, lambda n: like(one, {old: numbered(old, n), key_id_of(one): numbered("K" * 12, n)})
        )
        guild = "700000000000000000"
        await append(log, installations - 1, lambda n: like(other, {guild: str(int(guild) + n)}))
    finally:
        await log.close()


async def append(log: Log, count: int, make: Callable[[int], Entry]) -> None:
    """Entries 1 to `count`, in groups."""
    for start in range(1, count + 1, 1_000):
        await log.append([make(number) for number in range(start, min(start + 1_000, count + 1))])


def like(entry: Entry, names: dict[str, str]) -> Entry:
    """An entry like another one, but for some names in it."""
    key, body = entry.key, entry.body
    for old, new in names.items():
        key, body = key.replace(old, new), body.replace(old.encode(), new.encode())
    return replace(entry, key=key, body=body, position=0)


def numbered(name: str, number: int) -> str:
    """A name of the same length, with a number at its end."""
    return f"{name[:-6]}{number:06d}"


def key_id_of(entry: Entry) -> str:
    """The id of the first key in an integration's record."""
    return entry.body.split(b'"key_id":"')[-1][:12].decode()
