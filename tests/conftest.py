"""A real hub on loopback with a real store, and the three kinds of caller to it."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tickets.hub.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    developer_service_pb2_grpc,
    directory_service_pb2_grpc,
    event_pb2,
    event_service_pb2,
    event_service_pb2_grpc,
    integration_pb2,
    permissions_pb2,
)

from hub import config, logs
from hub.api.server import Hub
from hub.clock import Clock
from hub.config import Settings
from hub.model import Role
from tests.contract.stores import remove_streams
from tests.jetstream.servers import shared

BOTH = (
    "test_smoke.py",
    "api/test_permissions.py",
    "delivery/test_permission.py",
    "delivery/test_takeover.py",
    "jetstream/test_doubt.py",
)
"""Test files that run over both backends with every `make test`; TEST_STORAGE=jetstream runs all over that one."""

PATIENCE = 10.0
"""Seconds that a test waits for something before it fails."""

REGISTRATION = {
    "display_name": "Statistics",
    "description": "Counts what happens.",
    "owner_user_id": "80351110224678912",
    "documentation_url": "https://stats.example/docs",
    "support_url": "https://stats.example/support",
}


@pytest.fixture(autouse=True)
def quiet_logs() -> None:
    """Log what matters, as JSON, on standard error, where capsys finds it."""
    logs.configure("info", "json")


class FakeClock(Clock):
    """The machine's clocks, moved by what a test adds to them."""

    def __init__(self) -> None:
        self.wall_offset = 0
        self.monotonic_offset = 0.0

    def now(self) -> int:
        """The wall clock, stepped."""
        return super().now() + self.wall_offset

    def monotonic(self) -> float:
        """The monotonic clock, let run on."""
        return super().monotonic() + self.monotonic_offset


class Subscriber:
    """A stream of an integration: reads frames with patience."""

    def __init__(self, call: "grpc.aio.UnaryStreamCall[Any, event_service_pb2.SubscribeResponse]") -> None:
        self.call = call
        self.frames: list[event_service_pb2.SubscribeResponse] = []

    async def frame(self) -> event_service_pb2.SubscribeResponse:
        """The next frame; fails where the stream ends first."""
        async with asyncio.timeout(PATIENCE):
            frame = await self.call.read()
        assert isinstance(frame, event_service_pb2.SubscribeResponse), "the stream has ended"
        self.frames.append(frame)
        return frame

    async def events(self, count: int) -> list[event_pb2.Event]:
        """The next so many events, from as many frames as it takes."""
        events: list[event_pb2.Event] = []
        while len(events) < count:
            events.extend((await self.frame()).events)
        return events

    async def ending(self) -> grpc.aio.AioRpcError:
        """How the stream ends; frames before that are kept in `frames`."""
        async with asyncio.timeout(PATIENCE):
            try:
                while (frame := await self.call.read()) is not grpc.aio.EOF:
                    self.frames.append(frame)  # type: ignore[arg-type]  # not EOF
            except grpc.aio.AioRpcError as error:
                return error
        raise AssertionError("the stream ended with OK")


class Caller:
    """Whoever holds a key: the services' stubs, with the key in the metadata."""

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        self.key = key
        self.metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._channel = channel
        self._stubs: dict[str, Any] = {
            "EventService": event_service_pb2_grpc.EventServiceStub(channel),
            "AdminService": admin_service_pb2_grpc.AdminServiceStub(channel),
            "DeveloperService": developer_service_pb2_grpc.DeveloperServiceStub(channel),
            "DirectoryService": directory_service_pb2_grpc.DirectoryServiceStub(channel),
        }

    async def call(self, method: str, request: Any) -> Any:  # noqa: ANN401  any message
        """Call "AdminService/GetIntegration" and return its reply."""
        service, name = method.split("/")
        return await getattr(self._stubs[service], name)(request, metadata=self.metadata, timeout=PATIENCE)

    async def subscribe(self, **request: Any) -> Subscriber:  # noqa: ANN401  fields of SubscribeRequest
        """Open a stream, and wait for its Ready."""
        subscriber = self.open(**request)
        frame = await subscriber.frame()
        assert frame.HasField("ready")
        return subscriber

    def open(self, **request: Any) -> Subscriber:  # noqa: ANN401  fields of SubscribeRequest
        """Open a stream, and wait for nothing."""
        call = self._stubs["EventService"].Subscribe(
            event_service_pb2.SubscribeRequest(**request), metadata=self.metadata
        )
        return Subscriber(call)


class RunningHub:
    """A hub, its first keys, and who calls it."""

    def __init__(self, hub: Hub, settings: Settings, keys: dict[Role, str]) -> None:
        self.hub = hub
        self.settings = settings
        self.keys = keys
        self.address = f"127.0.0.1:{hub.port}"
        self.channel = grpc.aio.insecure_channel(self.address)
        self.admin = self.caller(keys[Role.ADMIN])
        self.bot = self.caller(keys[Role.BOT])

    def caller(self, key: str) -> Caller:
        """Somebody with a key; "" = without."""
        return Caller(self.channel, key)

    async def register(
        self,
        *scopes: str,
        **fields: Any,  # noqa: ANN401  fields of the request
    ) -> tuple[integration_pb2.Integration, Caller]:
        """A new integration with these scopes ("TICKET_CREATED"), and its caller."""
        request = admin_service_pb2.RegisterIntegrationRequest(**(REGISTRATION | fields), scopes=asked(*scopes))
        reply = await self.admin.call("AdminService/RegisterIntegration", request)
        return reply.integration, self.caller(reply.key.secret)

    async def emit(self, event: event_pb2.Event) -> event_service_pb2.EmitEventResponse:
        """Emit one event as the bot."""
        reply = await self.bot.call("EventService/EmitEvent", event_service_pb2.EmitEventRequest(event=event))
        assert isinstance(reply, event_service_pb2.EmitEventResponse)
        return reply

    async def close(self) -> None:
        """End it."""
        await self.channel.close()
        await self.hub.stop()


def require_embedded(hub: RunningHub) -> None:
    """Go on only over SQLite: the test reaches into its file. What it shows does not depend on the store."""
    if hub.settings.storage != "sqlite":
        pytest.skip("it breaks the file of the embedded store")


StartHub = Callable[..., Awaitable[RunningHub]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what starts a hub over each backend that is asked for: see `BOTH`."""
    if "backend" in metafunc.fixturenames:
        chosen = os.environ.get("TEST_STORAGE")
        name = metafunc.definition.path.relative_to(Path(__file__).parent).as_posix()
        metafunc.parametrize("backend", [chosen] if chosen else ["sqlite", "jetstream"][: 1 + (name in BOTH)])


@pytest.fixture
async def store_flags(backend: str) -> AsyncIterator[dict[str, Any]]:
    """The settings that name a fresh store of a backend; nothing of it is left afterwards."""
    if backend == "sqlite":
        yield {}
        return
    name = f"T{secrets.token_hex(8)}"
    yield {"storage": shared().url, "nats_stream": name}
    await remove_streams(shared().url, name)


@pytest.fixture
async def start_hub(tmp_path: Path, store_flags: dict[str, Any]) -> AsyncIterator[StartHub]:
    """Starts hubs: `start_hub(retention=60, ...)`; a second start on the same directory has the keys of the first."""
    running: list[RunningHub] = []
    known: dict[Path, dict[Role, str]] = {}

    async def start(clock: Clock | None = None, **flags: Any) -> RunningHub:  # noqa: ANN401  any setting
        flags = {"data_dir": tmp_path / "data", "listen": "127.0.0.1:0", "drain_time": 1} | store_flags | flags
        if "nats_stream" in flags:  # a store for each directory, as the embedded one has it
            flags["nats_stream"] = f"{flags['nats_stream']}_{Path(str(flags['data_dir'])).name}"
        settings = config.load(flags)
        hub = await Hub.start(settings, clock)
        keys = known.setdefault(settings.data_dir, hub.first_keys or {})
        running.append(RunningHub(hub, settings, keys))
        return running[-1]

    yield start
    for one in running:
        await one.close()


@pytest.fixture
async def hub(start_hub: StartHub) -> RunningHub:
    """A hub with the default settings."""
    return await start_hub()


def asked(*scopes: str) -> list[integration_pb2.ScopeRequest]:
    """Scopes by their short names ("TICKET_CREATED"), each with a justification."""
    return [
        integration_pb2.ScopeRequest(scope=permissions_pb2.Scope.Value(f"SCOPE_{name}"), justification="for the tests")
        for name in scopes
    ]


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in a failure's ErrorInfo."""
    return str(info_of(error).reason)


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """A failure's ErrorInfo."""
    info = detail_of(error, error_details_pb2.ErrorInfo)
    assert info.domain == "tickets.hub.v1"
    return info


def detail_of(error: grpc.aio.AioRpcError, kind: Any) -> Any:  # noqa: ANN401  a message class and its message
    """The detail of one kind that a failure carries; fails where there is none."""
    status = rpc_status.from_call(error)
    for box in status.details if status is not None else ():
        if box.Is(kind.DESCRIPTOR):
            detail = kind()
            box.Unpack(detail)
            return detail
    raise AssertionError(f"no {kind.__name__} in {error}")
