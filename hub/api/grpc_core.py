"""gRPC's server as the hub runs it: the options of its core, its start and its end.

Every limit of the core answers without a reason, so each is set where the hub's own limits are met first;
``docs/adr/0009-grpcio-version.md`` lists them.
"""

import asyncio
import logging
import traceback
from contextlib import suppress
from types import SimpleNamespace
from weakref import WeakKeyDictionary

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled: it has no types

from hub.config import MIB, Settings

SLACK = 1 * MIB
"""Bytes that the transport accepts beyond the largest request, so that the hub itself can refuse it with a reason."""

PENDING_CONNECTIONS = 4
"""How many connections may be full of calls before gRPC's core drops calls that the hub has not seen; each connection
takes 25 KB."""

PENDING_SECONDS = 600
"""How long a call may wait in gRPC's core for the event loop; the core drops it after that."""

SHORTEST_PING = 4_000
"""Milliseconds between two pings of a client. The documents promise 5 s; a client's timer may be early."""


def transport_options(settings: Settings) -> list[tuple[str, int]]:
    """The options of gRPC's core. A half-open peer is gone within keepalive interval + timeout; no port is shared."""
    pending = PENDING_CONNECTIONS * settings.max_calls_per_connection
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max(settings.max_request_bytes, settings.max_batch_bytes) + SLACK),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        ("grpc.max_concurrent_streams", settings.max_calls_per_connection),
        # Calls that have ended for the client, and not yet for the core, must not count: it would reset the next ones.
        ("grpc.http2.max_deallocating_streams", settings.max_calls_per_connection),
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", pending),
        ("grpc.server_max_unrequested_time_in_server", PENDING_SECONDS),
        ("grpc.server_handshake_timeout_ms", round(settings.keepalive_interval * 1_000)),
        ("grpc.keepalive_time_ms", round(settings.keepalive_interval * 1_000)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout * 1_000)),
        ("grpc.http2.ping_timeout_ms", round(settings.keepalive_timeout * 1_000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING),
    ]


_starts: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""One server of an event loop starts at a time: the tasks of two concurrent starts cannot be distinguished."""


class Transport:
    """A gRPC server, and the task in which it accepts calls."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._serving: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Accept calls.

        Raises:
            RuntimeError: this version of grpcio accepts calls in another way than the known ones.
        """
        keep_quiet()
        keep_poller()
        async with _starts.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            before = asyncio.all_tasks()
            await self._server.start()
            found = [task for task in asyncio.all_tasks() - before if takes_calls(task)]
        if len(found) != 1:
            raise RuntimeError("gRPC's serving task cannot be found: see docs/adr/0009-grpcio-version.md")
        self._serving = found[0]

    async def watch(self) -> None:
        """Wait until the server accepts no more calls because of `stop`.

        Not ``wait_for_termination``: it waits for open calls, and a caller of it that is cancelled breaks ``stop``.

        Raises:
            RuntimeError: it stopped by itself.
        """
        if self._serving is None:
            raise RuntimeError("watched before it was started")
        await asyncio.wait({self._serving})
        ended = None if self._serving.cancelled() else self._serving.exception()
        if not self._stopping:
            raise RuntimeError("gRPC's server takes no more calls") from ended

    async def stop(self, grace: float) -> None:
        """Accept no more calls, and end the open ones after `grace` seconds; may be called before `start`, too."""
        self._stopping = True
        if self._serving is not None and self._serving.done():
            # It ended by itself: the first attempt raises what ended it, and changes gRPC's state.
            with suppress(Exception, asyncio.CancelledError):
                await self._server.stop(0)
        await self._server.stop(grace)


def takes_calls(task: asyncio.Task[object]) -> bool:
    """Whether a task is the one in which gRPC accepts calls; it has no public name."""
    return getattr(task.get_coro(), "__qualname__", "") == "AioServer._server_main_loop"


def keep_quiet() -> None:
    """Keep gRPC from writing tracebacks: anybody can cause one with a path that is not UTF-8.

    Faults of handlers do not get that far (``status.guarded``), and the end of the serving task is the hub's (`watch`).
    """
    logging.getLogger(cygrpc.__name__).setLevel(logging.CRITICAL + 1)
    cygrpc.traceback = SimpleNamespace(print_exc=lambda: None, format_exception=traceback.format_exception)


def keep_poller() -> None:
    """Keep gRPC's polling thread until the process ends.

    Else the last server or channel that is freed waits for that thread, in the event loop, and the thread may wait for
    the event loop to read: neither ends (grpc's pull request 40989).
    """
    grpc.aio.init_grpc_aio()
