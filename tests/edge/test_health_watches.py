"""Health, which needs no key: a stranger that watches it, and takes nothing, changes nothing for anybody else."""

import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from hub import metrics
from tests.support.calls import fails, reason_of
from tests.support.http2_frames import HEADERS, NO_TABLE, RST_STREAM, Connection, frame
from tests.support.hubs import PATIENCE, RunningHub, StartHub, require_embedded, until

WATCH = b"/grpc.health.v1.Health/Watch"
NO_ROOM = NO_TABLE + struct.pack(">HI", 4, 0)
"""The settings of a peer that takes no byte of any answer."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def calls() -> Iterator[dict[tuple[str, ...], Any]]:
    """The calls that the metrics count during a test, by method, status and reason."""
    before = dict(metrics.CALLS.values)
    metrics.CALLS.values.clear()
    yield metrics.CALLS.values
    metrics.CALLS.values.update(before)


async def watched_without_reading(connection: Connection, stream: int = 1) -> None:
    """Open a watch; returns once the hub has begun to answer it."""
    connection.call(stream, WATCH)
    connection.message(stream, b"")
    await connection.until(lambda: any(one.stream == stream and one.kind == HEADERS for one in connection.frames))


async def test_a_stalled_watcher_does_not_block_the_status(hub: RunningHub) -> None:
    """The store fails, and all other watchers learn that the hub does not serve."""
    require_embedded(hub)
    stub: Any = health_pb2_grpc.HealthStub(hub.channel)
    async with Connection.open(hub.address, NO_ROOM) as stranger:
        await watched_without_reading(stranger)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert (await watch.read()).status == SERVING
        hub.hub.log._store._has_failed = True  # type: ignore[attr-defined]  # as the store does when it cannot go on
        assert (await watch.read()).status == NOT_SERVING
        assert (await stub.Check(health_pb2.HealthCheckRequest(service="store"))).status == NOT_SERVING


async def test_a_watcher_that_disconnects_is_no_incident(hub: RunningHub, calls: dict[tuple[str, ...], Any]) -> None:
    """It is counted as cancelled; an incident would be a log line for each of them."""
    with capture_logs() as lines:
        async with Connection.open(hub.address, NO_ROOM) as stranger:
            await watched_without_reading(stranger)
            stranger.send(frame(RST_STREAM, 0, 1, struct.pack(">I", 8)))
            await until(lambda: calls)
    assert set(calls) == {("grpc.health.v1.Health/Watch", "CANCELLED", "CANCELLED")}
    assert lines == []


async def test_a_watcher_that_leaves_does_not_end_others(hub: RunningHub) -> None:
    """Of two watchers of one service the other still learns of changes."""
    require_embedded(hub)
    stub: Any = health_pb2_grpc.HealthStub(hub.channel)
    first, second = (stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE) for _ in range(2))
    assert [(await one.read()).status for one in (first, second)] == [SERVING, SERVING]
    first.cancel()
    hub.hub.log._store._has_failed = True  # type: ignore[attr-defined]
    assert (await second.read()).status == NOT_SERVING


async def test_a_check_of_an_unknown_service_names_the_known_ones(
    hub: RunningHub, calls: dict[tuple[str, ...], Any]
) -> None:
    """It is counted as such; a watch waits for the service."""
    stub: Any = health_pb2_grpc.HealthStub(hub.channel)
    error = await fails(stub.Check(health_pb2.HealthCheckRequest(service="nowhere")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "'store', 'tickets.hub.v1.AdminService'" in str(error.details())
    assert set(calls) == {("grpc.health.v1.Health/Check", "NOT_FOUND", "NOT_FOUND")}
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="nowhere"), timeout=PATIENCE)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_short_refusals_of_guesses_are_counted_as_throttled(
    start_hub: StartHub, calls: dict[tuple[str, ...], Any]
) -> None:
    """The status without details has its reason in the metrics."""
    hub = await start_hub(max_failed_authentications=1)
    for _ in range(20):
        await fails(hub.caller("").subscribe())
    throttled = "tickets.hub.v1.EventService/Subscribe", "RESOURCE_EXHAUSTED", "AUTH_THROTTLED"
    assert set(calls) == {("tickets.hub.v1.EventService/Subscribe", "UNAUTHENTICATED", "KEY_MISSING"), throttled}
    assert sum(calls[throttled].counts) == 19


async def test_a_health_request_has_a_largest_size(hub: RunningHub) -> None:
    """A watch keeps its request while it lasts: 1,000 of the largest requests would be 250 MB."""
    stub: Any = health_pb2_grpc.HealthStub(hub.channel)
    large = health_pb2.HealthCheckRequest(service="a" * 1_024)
    for call in (stub.Check(large), stub.Watch(large).read()):
        error = await fails(call)
        assert reason_of(error) == "INVALID_REQUEST"
        assert "1027 bytes, at most 1024" in str(error.details())
