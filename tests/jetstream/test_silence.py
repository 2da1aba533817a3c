"""While the store does not answer, streams stay open without events and say why; a new leader lets them go on."""

import asyncio
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from tickets.hub.v1 import admin_service_pb2, event_service_pb2

from hub import config
from hub.errors import StorageUnavailable
from hub.model import Entry
from hub.storage import STALE_AFTER
from hub.storage.jetstream.connection import NatsConnection
from tests.jetstream.conftest import Hubs, Replica, rounds
from tests.operations.scraping import get, until_scraped
from tests.support.cluster_load import Load, Traffic
from tests.support.cluster_state import leader, log_of, until_serving
from tests.support.events import ticket
from tests.support.faults import Proxy
from tests.support.hubs import Subscriber, scope_requests, until
from tests.support.nats_servers import PATIENCE, Cluster, Server
from tests.support.stores import event
from tests.support.streams import unseal

SLOWEST = 3.0
"""Seconds within which 99 of 100 emits are acknowledged in the minute in which a leader dies."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A NATS server that a test may harm."""
    one = Server(tmp_path / "nats")
    one.start()
    yield one
    one.kill()


async def silent_heartbeat(stream: Subscriber) -> event_service_pb2.SubscribeResponse:
    """The next heartbeat that says that the store is silent; fails where an event comes first."""
    while not (frame := await stream.frame()).heartbeat.store_silent:
        assert not frame.events
    return frame


async def test_a_stream_survives_a_short_silence_of_the_store(server: Server, hubs: Hubs) -> None:
    """Heartbeats say so, and their cursor does not move; once the store answers the same stream gets events."""
    [hub] = await hubs(server.url, max_store_silence=600)
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(heartbeat_interval={"seconds": 1})
    server.freeze()
    frames = [await silent_heartbeat(stream) for _ in range(3)]
    assert not any(frame.heartbeat.caught_up for frame in frames)
    assert all(frame.heartbeat.lag.ToMicroseconds() >= 5_000_000 for frame in frames)
    await until_serving(hub, wanted=True)
    await until_serving(hub, wanted=False, service="store")
    server.thaw()
    await until_serving(hub, wanted=True, service="store")
    assert len({await unseal(hub, frame.cursor) for frame in frames}) == 1
    await hub.emit(ticket("e"))
    assert [one.id for one in await stream.events(1)] == ["e"]


async def test_metrics_and_readyz_report_a_silent_store(server: Server, hubs: Hubs) -> None:
    """The metrics are served as usual, and /readyz is 503."""
    [hub] = await hubs(server.url, max_store_silence=600, http_listen="127.0.0.1:0")
    port = hub.hub.http.port
    assert (await until_scraped(port, "hub_store_current", 1)).value("hub_serving") == 1
    server.freeze()
    silent = await until_scraped(port, "hub_store_silence_seconds", STALE_AFTER)
    assert (silent.value("hub_store_current"), silent.value("hub_serving")) == (0, 0)
    assert (await get(port, "/readyz")).text == "the store is silent: no events are sent\n"
    server.thaw()
    assert (await until_scraped(port, "hub_store_current", 1)).value("hub_store_silence_seconds") < STALE_AFTER


async def test_a_quiet_stream_learns_at_once_that_the_store_answers(server: Server, hubs: Hubs) -> None:
    """It does not wait for the next heartbeat that is due to learn that it misses nothing."""
    [hub] = await hubs(server.url, max_store_silence=600)
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(heartbeat_interval={"seconds": 60})
    server.freeze()
    await silent_heartbeat(stream)
    server.thaw()
    frame = await stream.frame()
    assert frame.heartbeat.caught_up
    assert not frame.heartbeat.store_silent


async def test_revocations_during_a_silence_apply_before_any_event(server: Server, hubs: Hubs) -> None:
    """A hub that is cut off while another one takes a scope away: its stream shows nothing of it afterwards."""
    async with Proxy([server.port]) as proxy:
        there, here = await hubs(proxy.url, server.url, max_store_silence=600)
        integration, reader = await here.register("TICKET_CREATED", "MEMBER_VERIFIED")
        await until(lambda: integration.integration_id in there.hub.registry.integrations)
        stream = await there.caller(reader.key).subscribe(heartbeat_interval={"seconds": 1})
        proxy.passes.clear()
        await silent_heartbeat(stream)
        request = admin_service_pb2.SetScopesRequest(
            integration_id=integration.integration_id, scopes=scope_requests("MEMBER_VERIFIED"), reason="less"
        )
        await here.admin.call("AdminService/SetScopes", request)
        await here.emit(ticket("secret"))
        proxy.passes.set()
        while not (frame := await stream.frame()).HasField("grants_changed"):
            assert not frame.events
        while not (frame := await stream.frame()).heartbeat.caught_up:
            assert not frame.events
        assert not frame.events


@pytest.mark.parametrize("fault", [Server.kill, Server.freeze])
async def test_streams_and_emits_survive_the_loss_of_the_leader(
    cluster: Cluster, hubs: Hubs, fault: Callable[[Server], None]
) -> None:
    """Killed or frozen: no stream of any hub ends, every emit is acknowledged and delivered, most of them soon."""
    running = await hubs(*[cluster.url] * 3, nats_replicas=3, max_store_silence=600)
    _, reader = await running[0].register("TICKET_CREATED")
    traffic = Traffic(running, running[0].bot.key, reader.key)
    async with traffic.running():
        for _ in range(rounds(1, 20)):
            traffic.seconds.clear()
            await traffic.more(500)
            dead = await leader(log_of(running[0]), cluster)
            fault(dead)
            await traffic.more(500)
            await asyncio.to_thread(dead.revive)
            await traffic.more(500)
            assert sorted(traffic.seconds)[len(traffic.seconds) * 99 // 100] <= SLOWEST
    traffic.check()
    assert not traffic.broken


async def test_the_log_names_the_leader_and_missing_servers(cluster: Cluster, replica: Replica) -> None:
    """A leader dies: the log names it, its successor, and what is missing; later it says that all servers are back."""
    with structlog.testing.capture_logs() as lines:
        log = await replica(cluster.url)
        dead = await leader(log, cluster)
        dead.kill()
        await until_line(lines, "NATS does not answer", leader=dead.name)
        await until_line(lines, "another NATS server leads the log", before=dead.name)
        await until_line(lines, "NATS servers are missing", missing=[dead.name])
        await asyncio.to_thread(dead.start)
        await until_line(lines, "all NATS servers are there", leader=(await leader(log, cluster)).name)


def more_than_the_ways_hold() -> list[Entry]:
    """Twenty megabytes: more than the sockets and the client's buffer take."""
    return [event(f"e{number}", body=bytes(500_000)) for number in range(40)]


async def test_a_hub_leaves_a_server_that_reads_nothing(cluster: Cluster, replica: Replica) -> None:
    """The connection is aborted, not closed: closing waits until the server reads, which it may never do."""
    log = await replica(cluster.url)
    address = log._replica.stream.connection.server
    [frozen] = [server for server in cluster.servers if server.url.endswith(address)]
    frozen.freeze()
    async with asyncio.timeout(PATIENCE):
        await Load([log]).append(log, more_than_the_ways_hold())


async def test_a_hub_stops_although_no_server_reads(cluster: Cluster, replica: Replica) -> None:
    """What waits is refused in its time, and the log closes."""
    log = await replica(cluster.url)
    for server in cluster.servers:
        server.freeze()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StorageUnavailable):
            await log.append(more_than_the_ways_hold())
        await log.close()


async def test_a_stopping_hub_does_not_reconnect(server: Server, tmp_path: Path) -> None:
    """Also where it stops just after its connection broke: so many turns of the event loop later."""
    for turns in range(20):
        async with Proxy([server.port]) as proxy:
            several = f"{proxy.url},{proxy.url},{proxy.url}"
            connection = await NatsConnection.connect(config.load({"data_dir": tmp_path, "storage": several}))
        for _ in range(turns):
            await asyncio.sleep(0)
        await connection.close()
        left = [task for task in asyncio.all_tasks() if "_attempt_reconnect" in repr(task)]
        assert not left


async def until_line(lines: list[MutableMapping[str, Any]], text: str, **words: object) -> None:
    """Wait until the log has such a line."""
    async with asyncio.timeout(PATIENCE):
        while not any(line["event"] == text and words.items() <= line.items() for line in lines):  # noqa: ASYNC110  a log
            await asyncio.sleep(0.05)
