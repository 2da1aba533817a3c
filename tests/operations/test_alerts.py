"""The alert rules and the dashboard before a real Prometheus, which scrapes a real hub."""

import asyncio
import json
import re
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import admin_service_pb2, event_pb2, event_service_pb2

from tests.operations.prometheus import ROOT, RULES, Prometheus, program, watching
from tests.support.certificates import certify
from tests.support.hubs import Caller, FakeClock, RunningHub, StartHub, only_in_the_log, require_embedded
from tests.support.nats_servers import free_port
from tests.support.processes import ended_of, run_hub, starting
from tests.support.receivers import ALLOWED, connect, receiving
from tests.support.small_disk import on_small_disk

DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"


def created(event_id: str) -> event_pb2.Event:
    """A ticket."""
    event = event_pb2.Event(id=event_id, guild_id="197038439483310086")
    event.ticket_created.creator_user_id = "53908232506183680"
    return event


def test_promtool_accepts_the_rules() -> None:
    """Prometheus' own checker finds nothing wrong."""
    command = [program("promtool"), "check", "rules", str(RULES)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603  ours
    assert checked.returncode == 0, checked.stderr


def test_the_unit_tests_of_the_alert_rules_pass() -> None:
    """Thresholds, durations, and cases in which an alert must not fire."""
    command = [program("promtool"), "test", "rules", str(Path(__file__).with_name("alerts_test.yml"))]
    tested = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603  ours
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_test() -> None:
    """A test below waits for each of them to fire."""
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    assert alerts == set(re.findall(r'until_firing\("(Hub\w+)"\)', Path(__file__).read_text()))


async def refused_for_a_while(hub: RunningHub, prometheus: Prometheus) -> None:
    """The bot tries to emit until Prometheus has seen it fail."""
    waiting = asyncio.create_task(prometheus.until_firing("HubEmitsFail"))
    while not waiting.done():
        try:
            await hub.emit(created("refused"))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  it fails each time
        await asyncio.sleep(0.1)
    await waiting


@pytest.mark.timeout(300)
async def test_alerts_of_the_hub_fire(start_hub: StartHub, tmp_path: Path) -> None:
    """Keys and limits, a reader that is left behind, a late event loop, a damaged event, damaged state, a hub gone."""
    clock = FakeClock()
    hub = await start_hub(clock, http_listen="127.0.0.1:0", max_service_keys=2)
    require_embedded(hub)
    async with watching(hub.hub.http.port, tmp_path) as prometheus:
        await prometheus.until_firing("HubBackupOld")
        await prometheus.until_firing("HubLimitAlmostReached")
        made = await run_hub("backup", "hub.backup", "--data-dir", str(hub.settings.data_dir), cwd=tmp_path)
        assert made.code == 0, made.err
        await prometheus.until_over("HubBackupOld")
        assert "HubKeyExpiring" not in await prometheus.firing()
        end = Timestamp()
        end.FromDatetime(datetime.now(UTC) + timedelta(days=5))
        _, reader = await hub.register("TICKET_CREATED", key_expire_time=end)
        await prometheus.until_firing("HubKeyExpiring")
        expected = {"HubLimitAlmostReached", "HubKeyExpiring"}
        assert await prometheus.firing() - {"HubEventLoopLate"} == expected  # a busy machine is late, too
        await leave_behind(hub, reader, clock)
        await prometheus.until_firing("HubReaderLosesEvents")
        time.sleep(0.7)  # noqa: ASYNC251  that is the fault
        await prometheus.until_firing("HubEventLoopLate")
        damage(hub, "UPDATE entries SET time = time + 1 WHERE id = 'two'")
        only_in_the_log(hub)
        assert await reader.open(earliest={}, subscription_id="log").ending()
        await prometheus.until_firing("HubStoreDamaged")
        assert "HubStoreFailed" not in await prometheus.firing()
        damage(hub, "UPDATE entries SET time = time + 1 WHERE key LIKE 'integration/%'")
        with pytest.raises(grpc.aio.AioRpcError):
            await hub.admin.call("AdminService/ListAuditEntries", admin_service_pb2.ListAuditEntriesRequest())
        await prometheus.until_firing("HubStoreFailed")
        await prometheus.until_firing("HubStoreNotCurrent")
        await prometheus.until_firing("HubNotServing")
        await prometheus.until_firing("HubErrorLogged")
        await refused_for_a_while(hub, prometheus)
        await hub.hub.http.stop()
        await prometheus.until_firing("HubDown")


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("fast_retries")
async def test_alerts_of_a_failing_endpoint_fire(start_hub: StartHub, tmp_path: Path) -> None:
    """After an hour, then again before events are lost; both end once its receiver takes what has waited."""
    clock = FakeClock()

    async def refuse(_body: dict[str, Any], _: web.Request) -> web.Response | None:
        return web.Response(status=500)

    async def take(_: web.Request) -> web.Response:
        return web.Response(status=204)  # it does not look at the time of the signature

    hub = await start_hub(clock, http_listen="127.0.0.1:0", **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(refuse) as receiver, watching(hub.hub.http.port, tmp_path) as prometheus:
        await connect(reader, receiver)
        await hub.emit(created("one"))
        await prometheus.until_answered('hub_endpoints{state="FAILING"} == 1')
        clock.wall_offset = 59 * 60 * 1_000_000
        await prometheus.until_answered("hub_endpoint_failing_max_seconds > 59 * 60")
        assert not {"HubEndpointFailing", "HubReaderLosesEvents"} & await prometheus.firing()
        clock.wall_offset = 61 * 60 * 1_000_000
        await prometheus.until_firing("HubEndpointFailing")
        assert "HubReaderLosesEvents" not in await prometheus.firing()
        clock.wall_offset = round(0.9 * hub.settings.retention * 1e6)
        await prometheus.until_firing("HubReaderLosesEvents")
        assert "loses events in 7h" in await prometheus.summary("HubReaderLosesEvents")  # 0.1 of 72 h
        receiver.handler = take
        await prometheus.until_answered("hub_endpoint_failing_max_seconds == 0 and hub_readers_near_retention == 0")
        await prometheus.until_answered("hub_reader_loses_events_seconds == hub_retention_seconds")
        await prometheus.until_over("HubEndpointFailing")
        await prometheus.until_over("HubReaderLosesEvents")


async def leave_behind(hub: RunningHub, reader: Caller, clock: FakeClock) -> None:
    """A reader commits its place, goes, and is away for nearly as long as events are kept."""
    stream = await reader.subscribe()
    await hub.emit(created("one"))
    await stream.events(1)
    request = event_service_pb2.CommitCursorRequest(cursor=stream.frames[-1].cursor)
    await reader.call("EventService/CommitCursor", request)
    stream.call.cancel()
    await hub.emit(created("two"))
    clock.wall_offset = round(0.9 * hub.settings.retention * 1e6)


def damage(hub: RunningHub, statement: str) -> None:
    """Change the file of the store behind the hub's back, as a bad disk does."""
    with closing(sqlite3.connect(hub.settings.data_dir / "hub.db", isolation_level=None)) as connection:
        connection.execute(statement)


@pytest.mark.timeout(300)
async def test_alerts_of_the_machine_fire(tmp_path: Path) -> None:
    """A disk with less than a tenth free, a certificate that expires in days, a log that is not read."""
    certificate = certify("hub", ends=timedelta(days=3))
    (tmp_path / "data").mkdir()
    (tmp_path / "hub.pem").write_bytes(certificate.pem)
    (tmp_path / "hub.key").touch(0o600)
    (tmp_path / "hub.key").write_bytes(certificate.key_pem)
    port = free_port()
    variables = {
        "HUB_LISTEN": "127.0.0.1:0",
        "HUB_HTTP_LISTEN": f"127.0.0.1:{port}",
        "HUB_TLS_CERTIFICATE": "hub.pem",
        "HUB_TLS_KEY": "hub.key",
    }
    before = [*on_small_disk(64, 60), "sh", "-c", 'exec "$@" 2>/dev/full', "sh"]
    async with (
        starting("serve", cwd=tmp_path, before=before, **variables) as process,
        watching(port, tmp_path, "https") as prometheus,
    ):
        await prometheus.until_firing("HubDiskAlmostFull")
        await prometheus.until_firing("HubCertificateExpiring")
        waiting = asyncio.create_task(prometheus.until_firing("HubLogLinesDropped"))
        while not waiting.done():
            process.send_signal(signal.SIGHUP)  # each has a line in the log
            await asyncio.sleep(0.2)
        await waiting
        process.terminate()
        assert (await ended_of(process)).code == 0


@pytest.mark.timeout(300)
async def test_every_query_of_the_dashboard_has_data(start_hub: StartHub, tmp_path: Path) -> None:
    """Asked of a Prometheus that has scraped a hub with a little life in it."""
    hub = await start_hub(http_listen="127.0.0.1:0", **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    async with receiving() as receiver, watching(hub.hub.http.port, tmp_path) as prometheus:
        await connect(reader, receiver)
        await prometheus.until_answered("hub_info")
        for number in range(2):
            await hub.emit(created(f"event-{number}"))
            await stream.events(1)
        try:
            await hub.emit(event_pb2.Event(id="no payload"))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017  any refusal will do
        stream.call.cancel()
        panels = json.loads(DASHBOARD.read_text())["panels"]
        for query in (target["expr"] for panel in panels for target in panel["targets"]):
            await prometheus.until_answered(query.replace("$instance", ".*"))
