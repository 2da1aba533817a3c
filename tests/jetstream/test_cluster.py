"""Faults of a cluster of three: what was acknowledged is never lost, the order is one, and all comes back by itself."""

import asyncio
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from tickets.hub.v1 import admin_service_pb2, event_pb2, event_service_pb2

from hub.errors import StorageUnavailable
from hub.storage.jetstream import JetStreamLog
from tests.conftest import REGISTRATION, asked
from tests.contract.stores import event
from tests.jetstream.conftest import Replica, rounds
from tests.jetstream.load import PATIENCE, Load
from tests.jetstream.proxy import Proxy
from tests.jetstream.servers import Cluster, Server
from tests.processes import serving

_LOOK = 0.05


async def leader(log: JetStreamLog, cluster: Cluster) -> Server:
    """The server that leads the log's stream."""
    return cluster.named((await log._stream.info())["cluster"]["leader"])


async def until_current(log: JetStreamLog, *, wanted: bool) -> None:
    """Wait until a replica hears from the store, or hears no more."""
    async with asyncio.timeout(PATIENCE):
        while log.is_current() is not wanted:  # noqa: ASYNC110  it is a matter of time, and nobody tells of it
            await asyncio.sleep(_LOOK)


async def test_a_leader_that_is_killed_loses_nothing(cluster: Cluster, replica: Replica) -> None:
    """Kill -9 of whoever leads the stream, under load, again and again; each time it comes back with its files."""
    log = await replica()
    load = Load([log, await replica()])
    async with load.running():
        for _ in range(rounds(1)):
            await load.more(50)
            killed = await leader(log, cluster)
            killed.kill()
            await load.more(50)
            await asyncio.to_thread(killed.start)
    await load.check()


async def test_a_server_that_stands_still_holds_nobody_up_for_long(cluster: Cluster, replica: Replica) -> None:
    """The leader, then any, does nothing for a while, as a machine that is cut off: the others go on, it catches up."""
    log = await replica()
    load = Load([log, await replica()])
    async with load.running():
        for n in range(rounds(1)):
            await load.more(50)
            frozen = random.choice(cluster.servers) if n else await leader(log, cluster)  # noqa: S311  a schedule
            frozen.freeze()
            await load.more(100)
            frozen.thaw()
    await load.check()


async def test_without_a_majority_nothing_is_acknowledged_and_it_comes_back(cluster: Cluster, replica: Replica) -> None:
    """Two of three gone: appends fail clearly, the replica knows that it does not hear; all of it comes back."""
    log = await replica(cluster.servers[0].url)
    load = Load([log])
    for n in range(rounds(1)):
        await log.append([event(f"before{n}")])
        for server in cluster.servers[1:]:
            server.kill()
        with pytest.raises(StorageUnavailable):
            await log.append([event(f"during{n}")])
        await until_current(log, wanted=False)
        with pytest.raises(StorageUnavailable):
            await log.append([event(f"during{n}")])
        for server in cluster.servers[1:]:
            await asyncio.to_thread(server.start)
        await until_current(log, wanted=True)
        for when in ("before", "during"):
            [appended] = await log.append([event(f"{when}{n}")])
            assert appended.duplicate or when == "during"
            load.acknowledged[f"{when}{n}"] = appended.position
    await load.check()


async def test_a_replica_that_is_cut_off_knows_it_and_comes_back(cluster: Cluster, replica: Replica) -> None:
    """Its connections stay open and pass nothing: it stops within its time, the other goes on; healed, it has all."""
    async with Proxy([server.port for server in cluster.servers]) as proxy:
        cut, other = await replica(proxy.url), await replica()
        load = Load([other])
        async with load.running():
            for _ in range(rounds(1)):
                await load.more(50)
                proxy.passes.clear()
                await until_current(cut, wanted=False)
                with pytest.raises(StorageUnavailable):
                    await cut.append([event("cut off")])
                await load.more(50)
                proxy.passes.set()
                await until_current(cut, wanted=True)
        load.logs = [cut, other]
        await load.check()


async def test_a_hub_that_is_killed_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """Kill -9 of the hub that took the events: a stream at the other one gets each that was acknowledged."""
    variables = {"HUB_STORAGE": cluster.url, "HUB_NATS_REPLICAS": "3"}
    async with serving(cwd=tmp_path, **variables) as here, serving(cwd=tmp_path, **variables) as there:
        keys = await here.first_keys()
        fields: dict[str, Any] = {**REGISTRATION, "scopes": asked("TICKET_CREATED")}
        request = admin_service_pb2.RegisterIntegrationRequest(**fields)
        registered = await there.caller(keys["HUB_ADMIN_KEY"]).call("AdminService/RegisterIntegration", request)
        stream = await there.caller(registered.key.secret).subscribe()
        bot = here.caller(keys["HUB_BOT_KEY"])
        acknowledged: list[str] = []

        async def emit(worker: int) -> None:
            with suppress(grpc.aio.AioRpcError):
                while True:
                    created = event_pb2.TicketCreated(creator_user_id="7")
                    one = event_pb2.Event(id=f"{worker}-{len(acknowledged)}", guild_id="1", ticket_created=created)
                    await bot.call("EventService/EmitEvent", event_service_pb2.EmitEventRequest(event=one))
                    acknowledged.append(one.id)

        emitters = [asyncio.create_task(emit(n)) for n in range(8)]
        got = {one.id for one in await stream.events(100)}
        await here.stop(signal.SIGKILL)
        await asyncio.gather(*emitters)
        while not got >= set(acknowledged):
            got |= {one.id for one in (await stream.frame()).events}


async def test_a_page_read_just_behind_the_leader_misses_nothing(replica: Replica) -> None:
    """Whatever replica of the stream answers: what was just acknowledged is in the page, or `through` says less."""
    writer, reader = await replica(), await replica()
    at = 0
    for n in range(rounds(150, 5_000)):
        [appended] = await writer.append([event(f"{n}")])
        await reader._view.reached(appended.position)
        while at < appended.position:
            page = await reader.read(at, 100)
            assert [entry.position for entry in page.entries] == list(range(at + 1, page.through + 1))
            at = page.through
