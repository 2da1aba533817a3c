"""What can be seen of a cluster and of the hubs on it, and waiting until it is so."""

import asyncio
from contextlib import suppress

from grpc_health.v1 import health_pb2, health_pb2_grpc

from hub.storage._jetstream_api import ApiError
from hub.storage._jetstream_wire import NoAnswer
from hub.storage.jetstream import JetStreamLog
from tests.conftest import RunningHub
from tests.jetstream.servers import PATIENCE, Cluster, Server

_LOOK = 0.05


async def leader(log: JetStreamLog, cluster: Cluster) -> Server:
    """The server that leads the log's stream, once there is one."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(NoAnswer, ApiError):
                if name := (await log._stream.info())["cluster"].get("leader"):
                    return cluster.named(name)
            await asyncio.sleep(_LOOK)


async def until_current(log: JetStreamLog, *, wanted: bool) -> None:
    """Wait until a replica hears from the store, or hears no more."""
    async with asyncio.timeout(PATIENCE):
        while log.is_current() is not wanted:  # noqa: ASYNC110  it is a matter of time, and nobody tells of it
            await asyncio.sleep(_LOOK)


async def until_serving(hub: RunningHub, *, wanted: bool) -> None:
    """Wait until health says so."""
    stub = health_pb2_grpc.HealthStub(hub.channel)
    async with asyncio.timeout(PATIENCE):
        async for reply in stub.Watch(health_pb2.HealthCheckRequest()):
            if (reply.status == health_pb2.HealthCheckResponse.SERVING) is wanted:
                return


def log_of(hub: RunningHub) -> JetStreamLog:
    """The log of a hub on a cluster."""
    assert isinstance(hub.hub._log, JetStreamLog)
    return hub.hub._log
