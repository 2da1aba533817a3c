"""Health checks: whether the hub serves, and whether the store answers."""

import asyncio
from collections.abc import Mapping
from typing import TypeAlias

import grpc
import structlog
from grpc_health.v1 import health_pb2

from hub.api.status import Context, end
from hub.permissions import SERVICES
from hub.storage import STALE_AFTER, Log

STORE_HEALTH = "store"
"""The health service of the store: SERVING while the store answers and no damage was found. The hub itself may serve
even if the store is not."""

STORE_PERIOD = 0.5
"""Seconds between two checks of the store."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

Status: TypeAlias = "health_pb2.HealthCheckResponse.ServingStatus.ValueType"

log = structlog.get_logger()


class HealthServicer:
    """The service ``grpc.health.v1.Health``.

    Not the library's: that one changes no status while a watcher takes no bytes, and anybody may watch.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, Status] = {}
        self._news = asyncio.Event()  # set once, at the next change of any status

    def set(self, statuses: Mapping[str, Status]) -> None:
        """Set the status of each service; wakes the watchers if one changes."""
        if statuses == self._statuses:
            return
        self._statuses = dict(statuses)
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def Check(  # noqa: N802  the contract's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status of a service."""
        status = self._statuses.get(request.service)
        if status is None:
            names = ", ".join(map(repr, sorted(self._statuses)))
            await end(context, grpc.StatusCode.NOT_FOUND, f"there is no such service: ask for one of {names}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:  # noqa: N802
        """The status of a service now, and whenever it is another one."""
        shown: Status | None = None
        while True:
            news, status = self._news, self._statuses.get(request.service, _UNKNOWN)
            if status != shown:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                shown = status
            await news.wait()


class Health:
    """The statuses of the health service.

    Attributes:
        servicer: what gRPC serves.
    """

    def __init__(self, max_store_silence: float) -> None:
        self.servicer = HealthServicer()
        self._max_store_silence = max_store_silence
        self._stopping = False

    def begin(self) -> None:
        """Report that the hub serves and the store answers."""
        self._report(is_serving=True, is_store_well=True)

    def shut_down(self) -> None:
        """Report, from now on, that the hub does not serve."""
        self._report(is_serving=False, is_store_well=False)
        self._stopping = True

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
            if was_serving != (silence < self._max_store_silence):
                was_serving = not was_serving
                log.warning("serving again" if was_serving else "the store stays silent: not serving")
            self._report(is_serving=was_serving, is_store_well=was_current and not store.damaged)
            await asyncio.sleep(STORE_PERIOD)
        log.error("the store has failed: not serving until a restart")
        self._report(is_serving=False, is_store_well=False)

    def _report(self, *, is_serving: bool, is_store_well: bool) -> None:
        if not self._stopping:
            names = ("", *(service.full_name for service in SERVICES))
            store = {STORE_HEALTH: _SERVING if is_store_well else _NOT_SERVING}
            self.servicer.set(dict.fromkeys(names, _SERVING if is_serving else _NOT_SERVING) | store)
