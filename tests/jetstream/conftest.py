"""A cluster of three servers and what stands on it. Its faults: a few rounds of each, a hundred with TORTURE=1.

Three servers that elect a leader need the processor when they need it. So whoever waits for them here waits long, and
for what they say themselves: a machine that is busy with something else makes these tests slow, and nothing more.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub import config
from hub.app import Hub
from hub.storage.jetstream import connection as _jetstream_wire
from hub.storage.jetstream import replica as _replica
from hub.storage.jetstream import setup as _jetstream_setup
from hub.storage.jetstream.log import JetStreamLog
from tests.support.faults import Network
from tests.support.hubs import RunningHub
from tests.support.nats_servers import PATIENCE, Cluster, shared
from tests.support.stores import remove_streams

TORTURE = bool(os.environ.get("TORTURE"))

Replica = Callable[..., Awaitable[JetStreamLog]]
Hubs = Callable[..., Awaitable[list[RunningHub]]]


def rounds(short: int, long: int = 100) -> int:
    """How often a fault is put."""
    return long if TORTURE else short


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A cluster takes the time that it takes, and the long form its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(6 * 3600 if TORTURE else 600))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three NATS servers that sync each write before they acknowledge it; a test may do to them what it likes."""
    three = Cluster(tmp_path / "nats")
    three.start()
    yield three
    three.stop()


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    """The same, with ways between them that a test may cut."""
    async with Network(tmp_path / "nats") as one:
        yield one


@pytest.fixture
def patient_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long an election takes is not what is tested."""
    monkeypatch.setattr(_jetstream_wire, "CONNECT_TIME", PATIENCE)
    for module in (_jetstream_setup, _replica):
        monkeypatch.setattr(module, "START_TIME", PATIENCE)


@pytest.fixture
async def replica(tmp_path: Path, patient_start: None) -> AsyncIterator[Replica]:  # noqa: ARG001  it is in place
    """Opens a log that is kept three times, each time as another replica of the hub would."""
    opened: list[JetStreamLog] = []

    async def one(url: str) -> JetStreamLog:
        settings = config.load({"data_dir": tmp_path, "storage": url, "nats_replicas": 3})
        opened.append(await JetStreamLog.open(settings))
        return opened[-1]

    yield one
    for log in opened:
        await log.close()


@pytest.fixture
async def hubs(tmp_path: Path, patient_start: None) -> AsyncIterator[Hubs]:  # noqa: ARG001  it is in place
    """Starts replicas of one hub at once, one at each URL; the keys of whichever was first are everyone's."""
    running: list[RunningHub] = []

    async def start(*urls: str, **flags: Any) -> list[RunningHub]:  # noqa: ANN401  any setting
        same = {"data_dir": tmp_path, "listen": "127.0.0.1:0", "drain_time": 1} | flags
        settings = [config.load(same | {"storage": url}) for url in urls]
        started = await asyncio.gather(*map(Hub.start, settings))
        [keys] = [hub.first_keys for hub in started if hub.first_keys]
        running.extend(RunningHub(hub, own, keys) for hub, own in zip(started, settings, strict=True))
        return running

    yield start
    for one in running:
        await one.close()


@pytest.fixture
async def name() -> AsyncIterator[str]:
    """The name of a store; it is removed once its hubs have stopped."""
    one = f"T{secrets.token_hex(8)}"
    yield one
    await remove_streams(shared().url, one)


@pytest.fixture
def flags() -> dict[str, str]:
    """Settings of the hubs of `two`; a module that needs some overrides it."""
    return {}


@pytest.fixture
async def two(name: str, hubs: Hubs, flags: dict[str, str]) -> list[RunningHub]:
    """Two replicas on a store of their own."""
    return await hubs(*[shared().url] * 2, nats_stream=name, **flags)
