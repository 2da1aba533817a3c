"""The faults of a cluster: a few rounds with TEST_CLUSTER=1, a hundred of each with TORTURE=1.

Three servers that elect a leader need the processor when they need it: on a machine that is busy with something else a
cluster may not come up in time, which says nothing of the hub. So `make test` leaves them out; `make cluster-test` and
`make torture` run them. What needs one server only runs with every test.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub import config
from hub.storage import _jetstream_setup, jetstream
from hub.storage.jetstream import JetStreamLog
from tests.jetstream.servers import Cluster

TORTURE = bool(os.environ.get("TORTURE"))
WANTED = TORTURE or bool(os.environ.get("TEST_CLUSTER"))

Replica = Callable[..., Awaitable[JetStreamLog]]


def rounds(short: int, long: int = 100) -> int:
    """How often a fault is put."""
    return long if TORTURE else short


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave them out unless they are asked for; the long form takes its time."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if TORTURE:
            item.add_marker(pytest.mark.timeout(6 * 3600))
        elif not WANTED and "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason="a cluster needs a quiet machine: make cluster-test"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three NATS servers that sync each write before they acknowledge it; a test may do to them what it likes."""
    three = Cluster(tmp_path / "nats")
    three.start()
    yield three
    three.stop()


@pytest.fixture
async def replica(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replica]:
    """Opens the log that the cluster keeps three times, each time as another replica of the hub would."""
    for module in (_jetstream_setup, jetstream):  # how long an election takes is not what is tested
        monkeypatch.setattr(module, "START_TIME", 60.0)
    opened: list[JetStreamLog] = []

    async def one(url: str = "", **flags: Any) -> JetStreamLog:  # noqa: ANN401  any setting
        named = {"data_dir": tmp_path, "storage": url or cluster.url, "nats_replicas": 3}
        opened.append(await JetStreamLog.open(config.load(named | flags)))
        return opened[-1]

    yield one
    for log in opened:
        await log.close()
