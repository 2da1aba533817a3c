"""Channel arguments: gRPC ignores a name that it does not know, and says nothing."""

import asyncio
import re
from pathlib import Path

import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled: it has no types
from tickets_hub.transport import CHANNEL_OPTIONS

from hub import config
from hub.api import grpc_core
from tests.support.http2_frames import Connection
from tests.support.hubs import StartHub

ROOT = Path(__file__).parents[2]


def arguments() -> set[str]:
    """Every quoted text that looks like a channel argument, in what the hub, its clients, bench and examples set."""
    files = [file for folder in ("hub", "clients", "bench", "examples") for file in (ROOT / folder).rglob("*.[pj][ys]")]
    texts = [file.read_text() for file in files if "node_modules" not in file.parts]
    return {name for text in texts for name in re.findall(r"""["'](grpc\.[a-z_0-9.]+)["']""", text)}


def test_every_argument_is_a_name_in_the_core() -> None:
    """The core silently ignores an argument that it does not know, so each name must occur in its binary."""
    core = set(re.findall(rb"grpc\.[a-z_0-9.]+", Path(cygrpc.__file__).read_bytes()))
    assert [name for name in sorted(arguments()) if name.encode() not in core] == []
    assert b"grpc.http2.min_recv_ping_interval_without_data_ms" not in core


def test_the_check_covers_every_argument_that_is_set() -> None:
    """The arguments of the server and of the clients are among those that are looked at."""
    options = {name for name, _ in (*grpc_core.transport_options(config.load()), *CHANNEL_OPTIONS)}
    assert len(options) > 15
    assert options <= arguments()


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "with a call"])
async def test_pings_are_allowed_as_documented(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch, *, idle: bool
) -> None:
    """A client may ping every 5 s, a little early too; one that pings without a pause is disconnected."""
    assert grpc_core.SHORTEST_PING <= 4_500
    monkeypatch.setattr(grpc_core, "SHORTEST_PING", 1)
    hub = await start_hub()
    async with Connection.open(hub.address) as connection:
        if not idle:
            connection.call(1, b"/grpc.health.v1.Health/Watch")
            connection.message(1, b"")
        for _ in range(20):
            await connection.ping()
            await asyncio.sleep(0.02)  # long enough for a clock that the core reads once for all that it has to do
        assert not connection.closed, connection.farewell
    monkeypatch.setattr(grpc_core, "SHORTEST_PING", 3_600_000)
    await hub.close()
    hub = await start_hub()
    async with Connection.open(hub.address) as connection:
        for _ in range(20):
            await connection.ping()
        assert connection.farewell == b"too_many_pings"
