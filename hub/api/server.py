"""The composition root: builds the hub from its parts, starts it, and ends it so that nobody loses anything.

Must not decide anything about events, keys or requests.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext, suppress
from typing import Any

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import _async as health_async
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import _async as reflection_async
from grpc_reflection.v1alpha import reflection_pb2
from tickets.hub.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    developer_service_pb2,
    developer_service_pb2_grpc,
    directory_service_pb2,
    directory_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
)

from hub.api.access import AccessInterceptor, learn_rules
from hub.api.admin import AdminService
from hub.api.commands import Commands
from hub.api.developer import DeveloperService
from hub.api.directory import DirectoryService
from hub.api.events import EventService
from hub.api.failures import Context, FailureInterceptor, Handler, guarded
from hub.api.listing import SubscriptionList
from hub.api.notices import StreamNotices
from hub.api.paging import Pages
from hub.api.symbols import Symbols
from hub.clock import Clock
from hub.config import MIB, Settings, version
from hub.control.changes import Changes, initialise
from hub.control.registry import Registry
from hub.delivery.cursor import CursorSeal
from hub.delivery.feed import Feed
from hub.delivery.retention import Retention
from hub.delivery.streams import Streams
from hub.delivery.subscriptions import Subscriptions
from hub.errors import HubError, StartError
from hub.model import Role
from hub.scopes import roles_allowed
from hub.storage import Log, open_storage

SERVICES: list[ServiceDescriptor] = [
    event_service_pb2.DESCRIPTOR.services_by_name["EventService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
    developer_service_pb2.DESCRIPTOR.services_by_name["DeveloperService"],
    directory_service_pb2.DESCRIPTOR.services_by_name["DirectoryService"],
]
HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Both versions have the same messages; the library knows the older name only."""

STORE_PERIOD = 0.5
"""Seconds between two looks at whether the store has failed."""

SLACK = 1 * MIB
"""What the transport takes beyond the largest request, so that the hub itself can say what is too large."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

log = structlog.get_logger()


class Hub:
    """A hub that is being started, runs, or has ended.

    Attributes:
        port: where it listens.
        first_keys: the texts of the first keys, by role, if this start made them.
        failed: done, with an exception, when the hub cannot go on.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.port = 0
        self.first_keys: dict[Role, str] | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settings = settings
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []
        self._log: Log
        self._changes: Changes
        self._streams: Streams
        self._server: grpc.aio.Server | None = None
        self._health = health_async.HealthServicer()

    @classmethod
    async def start(cls, settings: Settings, clock: Clock | None = None) -> "Hub":
        """Open the store, catch up with it, then serve.

        Raises:
            StartError: it cannot start; nothing is left open.
        """
        hub = cls(settings, clock or Clock())
        await hub.begin()
        return hub

    async def begin(self) -> None:
        """As `start`, of a hub that somebody has already: a start that fails or is cancelled may have made the keys."""
        self._log = await open_storage(self._settings)
        try:
            await self._assemble()
        except BaseException:
            await self.stop()
            raise

    async def _assemble(self) -> None:
        settings, clock = self._settings, self._clock
        secret = await self._log.secret()
        entries, through = await self._log.snapshot()
        registry = Registry(secret, clock)
        registry.apply(entries)
        registry.advance(through)
        server = self._make_server(registry)
        self._bind(server)  # before the first keys are made: a start that fails would never show them
        await self._make_first_keys(registry, secret)
        feed = Feed(self._log, registry, settings, clock)
        await feed.open()
        self._changes = Changes(self._log, registry, clock)
        seal, notices = CursorSeal(secret), StreamNotices(registry, settings)
        self._streams = Streams(self._log, registry, feed, seal, notices, settings, clock)
        self._spawn(feed.pump())
        await self._until_failure(registry.applied((await self._log.bounds()).last))
        self._spawn(self._streams.watch())
        retention = Retention(self._log, feed, settings, clock)
        await retention.begin()
        self._spawn(every(retention.period, retention.look))
        self._spawn(every(1, self._save_usage))
        self._add_services(server, registry, feed, seal, Pages(secret, settings))
        await self._serve(server)

    async def _make_first_keys(self, registry: Registry, secret: bytes) -> None:
        """What was begun comes to its end in a start that is cancelled, too: keys that nobody is shown are lost."""
        making = asyncio.ensure_future(initialise(self._log, registry, self._clock, secret))
        try:
            await asyncio.shield(making)
        finally:
            self.first_keys = await making

    def _add_services(
        self, server: grpc.aio.Server, registry: Registry, feed: Feed, seal: CursorSeal, pages: Pages
    ) -> None:
        settings, clock, changes, streams = self._settings, self._clock, self._changes, self._streams
        subscriptions = Subscriptions(self._log, registry, feed, seal, settings, clock)
        shown = SubscriptionList(registry, streams, subscriptions)
        commands = Commands(registry, changes, settings, clock)
        add_event_service(server, EventService(feed, streams, subscriptions, shown, settings, clock))
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminService(self._log, registry, changes, commands, shown, pages, clock), server
        )
        developer_service_pb2_grpc.add_DeveloperServiceServicer_to_server(
            DeveloperService(registry, streams, commands, pages, clock), server
        )
        directory_service_pb2_grpc.add_DirectoryServiceServicer_to_server(
            DirectoryService(registry, changes, commands, pages, settings, clock), server
        )

    def _make_server(self, registry: Registry) -> grpc.aio.Server:
        roles = {path: allowed for service in SERVICES for path, allowed in roles_allowed(service).items()}
        access = AccessInterceptor(registry, roles, self._settings, self._clock)
        learn_rules(SERVICES)
        server = grpc.aio.server(
            interceptors=(FailureInterceptor(), access),
            options=transport_options(self._settings),
            maximum_concurrent_rpcs=most_calls(self._settings),
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        add_reflection(server, access, needs_key=not self._settings.is_loopback)
        return server

    def _bind(self, server: grpc.aio.Server) -> None:
        try:
            credentials = tls_credentials(self._settings)
            if credentials is None:
                self.port = server.add_insecure_port(self._settings.listen)
            else:
                self.port = server.add_secure_port(self._settings.listen, credentials)
        except RuntimeError:
            raise StartError(
                f"cannot listen on {self._settings.listen}: the address is in use or not of this machine"
            ) from None

    async def _serve(self, server: grpc.aio.Server) -> None:
        await server.start()
        self._server = server
        await self._tell_health(_SERVING)
        self._spawn(self._watch_store())
        log.info("serving", address=self._settings.listen, port=self.port, version=version(), **where(self._settings))

    async def stop(self) -> None:
        """End: not serving at once, streams with a Goodbye, calls within the drain time, then the store. Idempotent."""
        patience = self._settings.drain_time
        if self._server is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._health.enter_graceful_shutdown(), patience / 10 + 0.1)
            await self._streams.drain(patience * 0.8)
            await self._server.stop(patience * 0.2)
            with suppress(HubError):
                await self._save_usage()
            self._server = None
            log.info("stopped")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._log.close()

    async def _watch_store(self) -> None:
        """Say in health whether the store is heard from; where it failed, that it needs a restart."""
        serving = True
        while not self._log.failed:
            if serving != self._log.is_current():
                serving = not serving
                log.warning("the store is heard from again" if serving else "the store is silent: not serving")
                await self._tell_health(_SERVING if serving else _NOT_SERVING)
            await asyncio.sleep(STORE_PERIOD)
        log.error("the store has failed: not serving until a restart")
        await self._tell_health(_NOT_SERVING)

    async def _tell_health(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for name in ("", *(service.full_name for service in SERVICES)):
            await self._health.set(name, status)

    async def _save_usage(self) -> None:
        self._streams.note_usage()
        await self._changes.save_usage()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something for as long as the hub runs; its failure is the hub's."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.failed.done():
            self.failed.set_exception(error)

    async def _until_failure(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for something, or raise what made the hub fail meanwhile."""
        waiting = asyncio.ensure_future(work)
        try:
            await asyncio.wait({waiting, self.failed}, return_when=asyncio.FIRST_COMPLETED)
            if self.failed.done():
                self.failed.result()
            await waiting
        finally:
            waiting.cancel()


async def every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do some housekeeping again and again; a store that refuses it for now (a full disk) must not end the hub."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except HubError as error:
            log.warning("put off", work=work.__name__, reason=error.reason())


def where(settings: Settings) -> dict[str, str]:
    """Which store this is, for the log; of a cluster's URL the settings have taken the password out."""
    if settings.storage == "sqlite":
        return {"data_dir": str(settings.data_dir.absolute())}
    return {"storage": settings.storage, "nats_stream": settings.nats_stream}


def most_calls(settings: Settings) -> int:
    """The last resort: what gRPC refuses beyond this it refuses without a reason, so all other limits come first."""
    return 2 * (settings.max_streams + settings.max_concurrent_calls + settings.max_open_calls)


def transport_options(settings: Settings) -> list[tuple[str, int]]:
    """What gRPC's core is told. A half-open peer is gone within keepalive interval + timeout, and no port is shared."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max(settings.max_request_bytes, settings.max_batch_bytes) + SLACK),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        ("grpc.keepalive_time_ms", round(settings.keepalive_interval * 1_000)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_timeout * 1_000)),
        ("grpc.http2.ping_timeout_ms", round(settings.keepalive_timeout * 1_000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ]


def tls_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """The hub's certificate, and whose certificates clients must show; None for plaintext.

    Raises:
        StartError: a file cannot be read, or does not hold what it should.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    try:
        pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
        authority = settings.tls_client_ca.read_bytes() if settings.tls_client_ca else None
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # gRPC itself tells only that it could not listen
        trial.load_cert_chain(settings.tls_certificate, settings.tls_key, password=str)
        if authority is not None:
            trial.load_verify_locations(cadata=authority.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise StartError(f"TLS: these are no PEM files of a certificate, its key and an authority: {error}") from None
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}") from None
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def add_event_service(server: grpc.aio.Server, service: EventService) -> None:
    """Register EventService; Subscribe writes ready bytes, so its responses are not serialised again."""
    behaviour: Any = service.Subscribe  # a coroutine that writes, as grpc.aio allows
    subscribe: Handler = grpc.unary_stream_rpc_method_handler(
        behaviour,
        request_deserializer=event_service_pb2.SubscribeRequest.FromString,
        response_serializer=None,
    )
    event_service_pb2_grpc.add_EventServiceServicer_to_server(service, server)
    server.add_registered_method_handlers(SERVICES[0].full_name, {"Subscribe": subscribe})


def add_reflection(server: grpc.aio.Server, access: AccessInterceptor, *, needs_key: bool) -> None:
    """Serve reflection, v1 and v1alpha; `needs_key`: any valid one."""
    names = [service.full_name for service in SERVICES] + [HEALTH, *REFLECTION]
    servicer = reflection_async.ReflectionServicer(names, pool=Symbols())

    async def answer(requests: Any, context: Context) -> None:  # noqa: ANN401  messages of the library
        if needs_key:
            access.identify(context, "ServerReflection")
        with nullcontext() if needs_key else access.place(context):
            async for response in servicer.ServerReflectionInfo(requests, context):
                await context.write(response)

    behaviour: Any = guarded(answer, "ServerReflection/ServerReflectionInfo")
    handler = grpc.stream_stream_rpc_method_handler(
        behaviour,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in REFLECTION:
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}),)
        )
