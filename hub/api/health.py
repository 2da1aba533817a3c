"""Health checks: whether the hub serves, and whether the store answers."""

import asyncio

import structlog
from grpc_health.v1 import _async as health_async
from grpc_health.v1 import health_pb2

from hub.permissions import SERVICES
from hub.storage import STALE_AFTER, Log

STORE_HEALTH = "store"
"""The health service of the store: SERVING while the store answers and no damage was found. The hub itself may serve
even if the store is not."""

STORE_PERIOD = 0.5
"""Seconds between two checks of the store."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

log = structlog.get_logger()


class Health:
    """The statuses of the health service.

    Attributes:
        servicer: what gRPC serves.
    """

    def __init__(self, max_store_silence: float) -> None:
        self.servicer = health_async.HealthServicer()
        self._max_store_silence = max_store_silence

    async def begin(self) -> None:
        """Report that the hub serves and the store answers."""
        await self._set_all(_SERVING)
        await self.servicer.set(STORE_HEALTH, _SERVING)

    async def shut_down(self) -> None:
        """Report, from now on, that the hub does not serve."""
        await self.servicer.enter_graceful_shutdown()

    async def watch(self, store: Log) -> None:
        """Follow the store, for as long as the hub runs.

        While streams wait for the store, only `STORE_HEALTH` says NOT_SERVING: clients would find no better hub.
        """
        was_current = was_serving = True
        while not store.failed:
            silence = store.silence()
            if was_current != (silence < STALE_AFTER):
                was_current = not was_current
                log.warning("the store answers again" if was_current else "the store is silent: no events are sent")
                await self.servicer.set(STORE_HEALTH, _SERVING if was_current else _NOT_SERVING)
            if was_serving != (silence < self._max_store_silence):
                was_serving = not was_serving
                log.warning("serving again" if was_serving else "the store stays silent: not serving")
                await self._set_all(_SERVING if was_serving else _NOT_SERVING)
            if store.damaged:
                await self.servicer.set(STORE_HEALTH, _NOT_SERVING)
            await asyncio.sleep(STORE_PERIOD)
        log.error("the store has failed: not serving until a restart")
        await self._set_all(_NOT_SERVING)
        await self.servicer.set(STORE_HEALTH, _NOT_SERVING)

    async def _set_all(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for name in ("", *(service.full_name for service in SERVICES)):
            await self.servicer.set(name, status)
