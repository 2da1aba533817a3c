"""A crawler of the directory: what it costs a live stream, ``python -m bench crawler``.

The directory lists 10,000 integrations. The crawler reads one page after the other, over four connections, as fast as
it is answered: lists and pages of integrations, none twice in a run. A bot emits 100 events a second and a stream reads
them; its latency is from the call that emits to the event's arrival. Spans with the crawler and without take turns.
The crawler has the lowest priority, since on a machine of its own it would take nothing from the hub. The latency says
something on a machine that has nothing else to do; the hub's processor time does on any. A busy Linux is as good as a
quiet one for a process of real-time priority that writes to no disk:

    TMPDIR=/dev/shm chrt -f 10 python -m bench crawler
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import aiohttp
from tickets.hub.v1 import admin_service_pb2, admin_service_pb2_grpc, event_service_pb2, event_service_pb2_grpc

from bench import events, loads, machine, scene, servers
from bench.servers import ROOT, Server

INTEGRATIONS = 10_000
AT_ONCE = 64
CONNECTIONS = 4
EMITS_A_SECOND = 100
SECONDS = 10.0
PAIRS = 9


async def crawl(url: str) -> None:
    """Read pages until the end of standard input; print how many were read."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # the one who measures may have a real-time policy
    os.nice(19)
    addresses = iter([f"{url}/?page={page}" for page in range(1, INTEGRATIONS // 30)])
    found: list[str] = []
    count = 0

    async def read(session: aiohttp.ClientSession) -> None:
        nonlocal count
        while address := (f"{url}{found.pop()}" if found else next(addresses, None)):
            async with session.get(address) as answer:
                text = await answer.text()
                count += answer.status == 200
                found.extend(part.partition('"')[0] for part in text.split('<h2><a href="')[1:])

    async with aiohttp.ClientSession() as session:
        readers = [asyncio.create_task(read(session)) for _ in range(CONNECTIONS)]
        await asyncio.to_thread(sys.stdin.readline)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    print(count, flush=True)


async def register_many(hub: Server) -> None:
    """The integrations of the directory, by an admin's calls."""
    async with servers.channel(hub.target) as channel:
        admin: Any = admin_service_pb2_grpc.AdminServiceStub(channel)
        numbers = iter(range(INTEGRATIONS))

        async def register() -> None:
            for number in numbers:
                request = admin_service_pb2.RegisterIntegrationRequest(
                    display_name=f"Integration {number}",
                    description="Reads what it is given, and shows it to the people of a server in a table. " * 3,
                    owner_user_id=str(10**17 + number),
                    documentation_url="https://load.example/docs",
                    support_url="https://load.example/support",
                )
                request.scopes.add(scope=scene.CREATED, justification="to be measured")
                await admin.RegisterIntegration(request, metadata=loads.metadata(hub.keys["HUB_ADMIN_KEY"]))

        await asyncio.gather(*(register() for _ in range(AT_ONCE)))


class Latency:
    """A bot that emits at a pace, a stream that reads, and the times in between."""

    def __init__(self, channel: Any, hub: Server, view: scene.View) -> None:  # noqa: ANN401  gRPC's
        self._stub: Any = event_service_pb2_grpc.EventServiceStub(channel)
        self._bot = loads.metadata(hub.keys["HUB_BOT_KEY"])
        self._call = self._stub.Subscribe(event_service_pb2.SubscribeRequest(), metadata=loads.metadata(view.key))
        self._sent: dict[str, float] = {}
        self._taken: list[float] = []
        self._number = 0
        self._pid = hub.pid

    async def read(self) -> None:
        """Note when each event arrives."""
        async for frame in self._call:
            now = time.perf_counter()
            self._taken += [now - self._sent.pop(event.id) for event in frame.events if event.id in self._sent]

    async def measured(self) -> tuple[float, float]:
        """The p99 of some seconds, in milliseconds, and the hub's share of a core meanwhile."""
        self._taken.clear()
        used = machine.cpu(self._pid)
        begin = time.perf_counter()
        calls = []
        for tick in range(int(SECONDS * EMITS_A_SECOND)):
            await asyncio.sleep(max(0, begin + tick / EMITS_A_SECOND - time.perf_counter()))
            calls.append(asyncio.create_task(self._emit()))
        await asyncio.gather(*calls)
        await asyncio.sleep(0.2)
        share = (machine.cpu(self._pid) - used) / (time.perf_counter() - begin)
        return 1_000 * statistics.quantiles(self._taken, n=100)[98], share

    async def _emit(self) -> None:
        self._number += 1
        request = event_service_pb2.EmitEventRequest(event=events.event(self._number * 5))
        request.event.id = f"crawled-{self._number}"
        self._sent[request.event.id] = time.perf_counter()
        await self._stub.EmitEvent(request, metadata=self._bot)


async def with_crawler(latency: Latency, url: str) -> tuple[float, float, int]:
    """The latency and the hub's share of a core beside a crawler, and how many pages that read."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.crawler", url), cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    p99, share = await latency.measured()
    said, _ = await process.communicate(b"\n")
    return p99, share, int(said)


async def measure() -> None:
    """Print the pairs, and the median of their ratios."""
    port = servers.free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with servers.hub(Path(folder, "data"), directory_listen=f"127.0.0.1:{port}", **scene.ROOM) as hub:
            await register_many(hub)
            view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
            async with servers.channel(hub.target) as channel:
                latency = Latency(channel, hub, view)
                reading = asyncio.create_task(latency.read())
                await latency.measured()  # everything is warm
                ratios = []
                for _ in range(PAIRS):
                    alone, busy = await latency.measured()
                    beside, busier, pages = await with_crawler(latency, url)
                    ratios.append(beside / alone)
                    print(f"p99 {alone:.1f} ms alone, {beside:.1f} ms beside {pages} pages: {beside / alone:.2f}")
                    print(f"the hub on a core: {busy:.1%} alone, {busier:.1%} beside", flush=True)
                reading.cancel()
    print(f"median ratio {statistics.median(ratios):.2f}; {machine.described()}")


if __name__ == "__main__":
    asyncio.run(crawl(sys.argv[1]))
