"""Faults of a cluster of three: what was acknowledged is never lost, the order is one, and all comes back by itself."""

import asyncio
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from tickets.hub.v1 import admin_service_pb2, event_service_pb2
from tickets_hub import Start
from tickets_hub.aio_client import AsyncClient

from hub.errors import StorageUnavailable
from hub.model import Entry
from hub.state import COMPACTED_PREFIXES
from tests.jetstream.conftest import Hubs, Replica, rounds
from tests.support.calls import fails, reason_of
from tests.support.cluster_load import Load, Traffic
from tests.support.cluster_state import leader, log_of, until_current, until_serving
from tests.support.events import ticket
from tests.support.faults import Network, Proxy
from tests.support.hubs import REGISTRATION, RunningHub, scope_requests
from tests.support.nats_servers import PATIENCE, Cluster, Server
from tests.support.processes import Serving, serving
from tests.support.stores import event, read_all

FAR = 0.05
"""Seconds that each message between a slow server and the others takes."""


async def one_at_each(replica: Replica, servers: list[Server]) -> Load:
    """Load on replicas that know one server each: what they read is that server's copy."""
    return Load([await replica(server.url) for server in servers])


def other_than(server: Server, servers: list[Server]) -> Server:
    """One of the other servers."""
    return random.choice([one for one in servers if one is not server])  # noqa: S311  a schedule


async def test_killing_the_leader_loses_nothing(cluster: Cluster, replica: Replica) -> None:
    """Kill -9 of the leader of the stream, under load, again and again; each time it restarts with its files."""
    load = await one_at_each(replica, cluster.servers)
    async with load.running():
        for _ in range(rounds(2)):
            await load.more(50)
            killed = await leader(load.logs[0], cluster)
            killed.kill()
            await load.more(50)
            await asyncio.to_thread(killed.start)
    await load.check()


async def test_a_frozen_server_delays_others_only_briefly(cluster: Cluster, replica: Replica) -> None:
    """The leader, then another server, freezes for a while: the others continue, it catches up."""
    load = await one_at_each(replica, cluster.servers)
    async with load.running():
        for n in range(rounds(2)):
            await load.more(50)
            first = await leader(load.logs[0], cluster)
            frozen = other_than(first, cluster.servers) if n % 2 else first
            frozen.freeze()
            await load.more(100)
            frozen.thaw()
    await load.check()


async def test_a_slow_network_loses_nothing(network: Network, replica: Replica) -> None:
    """What passes between the leader, then another, and the rest takes long: appends take as long, and that is all."""
    cluster, loop = network.cluster, asyncio.get_running_loop()
    logs = [await replica(server.url) for server in cluster.servers]
    load = Load(logs[:1])
    async with load.running():
        for n in range(rounds(2)):
            await load.more(50)
            first = await leader(logs[0], cluster)
            network.slow_down(other_than(first, cluster.servers) if n % 2 else first, FAR)
            began = loop.time()
            await load.append(logs[0], [event(f"far{n}")])
            assert n % 2 or loop.time() - began > FAR
            await load.more(50)
            network.heal()
    load.logs = logs
    await load.check()


async def test_without_a_majority_nothing_is_acknowledged(cluster: Cluster, replica: Replica) -> None:
    """Two of three down: appends fail clearly, the replica knows that it is stale; then all recovers."""
    log = await replica(cluster.servers[0].url)
    load = Load([log])
    for n in range(rounds(2)):
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


async def test_a_replica_that_is_cut_off_stops_and_recovers(cluster: Cluster, replica: Replica) -> None:
    """Its connections stay open without traffic: it stops in time, the other continues; later it has everything."""
    async with Proxy([server.port for server in cluster.servers]) as proxy:
        cut, other = await replica(proxy.url), await replica(cluster.url)
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


async def test_a_partitioned_server_causes_no_split_brain(network: Network, hubs: Hubs) -> None:
    """The leader, then another: the hub there refuses and stops to serve; healed, each reader has all, in one order."""
    servers = network.cluster.servers
    running = await hubs(*(server.url for server in servers), nats_replicas=3, max_store_silence=5)
    _, reader = await running[0].register("TICKET_CREATED")
    traffic = Traffic(running, running[0].bot.key, reader.key)
    async with traffic.running():
        for n in range(rounds(2)):
            await traffic.more(50)
            first = await leader(log_of(running[0]), network.cluster)
            cut = other_than(first, servers) if n % 2 else first
            there = running[servers.index(cut)]
            await network.cut_off(cut, hang_up=n % 4 > 1)
            await until_serving(there, wanted=False)
            refusal = await fails(there.emit(ticket(f"refused{n}")))
            assert (refusal.code(), reason_of(refusal)) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
            await traffic.more(50)
            network.heal()
            await until_serving(there, wanted=True)
    traffic.check()
    copies = [await lasting(hub) for hub in running]
    assert all(copy == copies[0] for copy in copies)


async def lasting(hub: RunningHub) -> list[Entry]:
    """What a replica has of all that stays: what is compacted is written again each second, also while it is read."""
    await log_of(hub)._replica.state.wait_applied(await hub.hub.log.newest())
    return [entry for entry in await read_all(hub.hub.log) if not entry.key.startswith(COMPACTED_PREFIXES)]


async def test_killing_a_hub_loses_nothing(cluster: Cluster, replica: Replica, tmp_path: Path) -> None:
    """Kill -9 of the hub that takes the events: a reader at the other one gets each that was acknowledged."""
    await replica(cluster.url)  # the streams are there, so that no hub has to wait for them
    variables = {"HUB_STORAGE": cluster.url, "HUB_NATS_REPLICAS": "3"}
    async with serving(cwd=tmp_path, **variables) as there:
        keys = await there.first_keys()
        fields: dict[str, Any] = {**REGISTRATION, "scopes": scope_requests("TICKET_CREATED")}
        request = admin_service_pb2.RegisterIntegrationRequest(**fields)
        registered = await there.caller(keys["HUB_ADMIN_KEY"]).call("AdminService/RegisterIntegration", request)
        async with AsyncClient(f"127.0.0.1:{there.port}", registered.key.secret) as client:
            events = client.subscribe(start=Start.earliest())
            got: set[str] = set()
            for n in range(rounds(3)):
                async with serving(cwd=tmp_path, **variables) as here, asyncio.timeout(PATIENCE):
                    acknowledged: set[str] = set()
                    emitters = [
                        asyncio.create_task(emit(here, keys["HUB_BOT_KEY"], f"{n}-{m}", acknowledged)) for m in range(8)
                    ]
                    while len(got & acknowledged) < 100:
                        got.add((await anext(events)).id)
                    await here.stop(signal.SIGKILL)
                    await asyncio.gather(*emitters)
                    while not got >= acknowledged:
                        got.add((await anext(events)).id)


async def emit(hub: Serving, key: str, prefix: str, acknowledged: set[str]) -> None:
    """Emit events until the hub is gone."""
    bot, number = hub.caller(key), 0
    with suppress(grpc.aio.AioRpcError):
        while True:
            request = event_service_pb2.EmitEventRequest(event=ticket(f"{prefix}-{number}"))
            acknowledged.add((await bot.call("EventService/EmitEvent", request)).event_id)
            number += 1


async def test_a_page_read_just_behind_the_leader_misses_nothing(cluster: Cluster, replica: Replica) -> None:
    """Whatever replica of the stream answers: what was just acknowledged is in the page, or `through` says less."""
    writer, *readers = [await replica(server.url) for server in cluster.servers]
    at = [0 for _ in readers]
    for n in range(rounds(150, 5_000)):
        [appended] = await writer.append([event(f"{n}")])
        for number, reader in enumerate(readers):
            await reader._replica.state.wait_applied(appended.position)
            while at[number] < appended.position:
                page = await reader.read(at[number], 100)
                assert [entry.position for entry in page.entries] == list(range(at[number] + 1, page.through + 1))
                at[number] = page.through
