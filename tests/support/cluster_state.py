"""The observable state of a cluster and its hubs, and waiting for it."""

import asyncio
from contextlib import suppress

from grpc_health.v1 import health_pb2, health_pb2_grpc

from hub.storage import STALE_AFTER
from hub.storage.jetstream.connection import NoReply
from hub.storage.jetstream.log import JetStreamLog
from hub.storage.jetstream.stream import ApiError
from tests.support.hubs import RunningHub
from tests.support.nats_servers import PATIENCE, Cluster, Server

_LOOK = 0.05


async def leader(log: JetStreamLog, cluster: Cluster) -> Server:
    """The server that leads the log's stream, once there is one."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(NoReply, ApiError):
                if name := (await log._replica.stream.info())["cluster"].get("leader"):
                    return cluster.named(name)
            await asyncio.sleep(_LOOK)


async def until_current(log: JetStreamLog, *, wanted: bool) -> None:
    """Wait until a replica hears from the store, or hears no more."""
    async with asyncio.timeout(PATIENCE):
        while (log.silence() < STALE_AFTER) is not wanted:  # noqa: ASYNC110  it is a matter of time, and nobody tells of it
            await asyncio.sleep(_LOOK)


async def until_serving(hub: RunningHub, *, wanted: bool, service: str = "") -> None:
    """Wait until health says so, of the hub or of a service."""
    stub = health_pb2_grpc.HealthStub(hub.channel)
    async with asyncio.timeout(PATIENCE):
        async for reply in stub.Watch(health_pb2.HealthCheckRequest(service=service)):
            if (reply.status == health_pb2.HealthCheckResponse.SERVING) is wanted:
                return


def log_of(hub: RunningHub) -> JetStreamLog:
    """The log of a hub on a cluster."""
    assert isinstance(hub.hub.log, JetStreamLog)
    return hub.hub.log
