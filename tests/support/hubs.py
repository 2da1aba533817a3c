"""Running hubs, their callers, and a clock that only a test moves."""

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import grpc
import pytest
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
    privacy_service_pb2_grpc,
    webhook_service_pb2_grpc,
)

from hub import logs
from hub.app import Hub
from hub.clock import Clock
from hub.config import Settings
from hub.delivery.retention import Retention
from hub.delivery.stream import Stream
from hub.model import Entry, Kind, Role
from hub.privacy.audit_retention import AuditRetention
from tests.support.events import ticket

PATIENCE = 30.0
"""Seconds that a test waits for something before it fails."""

REGISTRATION = {
    "display_name": "Statistics",
    "description": "Counts what happens.",
    "owner_user_id": "80351110224678912",
    "documentation_url": "https://stats.example/docs",
    "support_url": "https://stats.example/support",
}


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

    async def sleep(self, seconds: float) -> None:
        """A wait that ends, too, when a test lets the monotonic clock run on."""
        due = self.monotonic() + seconds
        while (left := due - self.monotonic()) > 0:  # noqa: ASYNC110  tests move it by assignment
            await asyncio.sleep(min(left, 0.01))


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
    """Whoever holds a key: the services' stubs, with the key in the metadata.

    Attributes:
        linger: seconds that streams ask for unless the test says otherwise; the fixture of that name sets it.
    """

    linger: ClassVar[float] = 0.0

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        self.key = key
        self.metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._channel = channel
        self.opened: list[Subscriber] = []  # a call that nothing refers to is collected, and with it cancelled
        self._stubs: dict[str, Any] = {
            "EventService": event_service_pb2_grpc.EventServiceStub(channel),
            "AdminService": admin_service_pb2_grpc.AdminServiceStub(channel),
            "DeveloperService": developer_service_pb2_grpc.DeveloperServiceStub(channel),
            "DirectoryService": directory_service_pb2_grpc.DirectoryServiceStub(channel),
            "PrivacyService": privacy_service_pb2_grpc.PrivacyServiceStub(channel),
            "WebhookService": webhook_service_pb2_grpc.WebhookServiceStub(channel),
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
        request = lingering(request)
        call = self._stubs["EventService"].Subscribe(
            event_service_pb2.SubscribeRequest(**request), metadata=self.metadata
        )
        self.opened.append(Subscriber(call))
        return self.opened[-1]


def lingering(request: dict[str, Any]) -> dict[str, Any]:
    """The fields of a SubscribeRequest, with the linger of this test."""
    return {"linger": timedelta(seconds=Caller.linger), **request} if Caller.linger else request


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
        request = admin_service_pb2.RegisterIntegrationRequest(
            **(REGISTRATION | fields), scopes=scope_requests(*scopes)
        )
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


StartHub = Callable[..., Awaitable[RunningHub]]


def require_embedded(hub: RunningHub) -> None:
    """Go on only over SQLite: the test reaches into its file. What it shows does not depend on the store."""
    if hub.settings.storage != "sqlite":
        pytest.skip("it breaks the file of the embedded store")


def scope_requests(*scopes: str) -> list[integration_pb2.ScopeRequest]:
    """Requests for scopes by their short names ("TICKET_CREATED"), each with a justification."""
    return [
        integration_pb2.ScopeRequest(scope=permissions_pb2.Scope.Value(f"SCOPE_{name}"), justification="for the tests")
        for name in scopes
    ]


async def emit_all(hub: RunningHub, events: Sequence[event_pb2.Event]) -> list[event_service_pb2.EmitEventResponse]:
    """Emit events in lists of the largest size."""
    results: list[event_service_pb2.EmitEventResponse] = []
    for start in range(0, len(events), 1_000):
        request = event_service_pb2.BatchEmitEventsRequest(events=events[start : start + 1_000])
        results += (await hub.bot.call("EventService/BatchEmitEvents", request)).results
    return results


def log_to_memory(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Let the hub's log go to memory; returns where it can be read, also after the hub has ended."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    logs.configure("info", "json")
    return written


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that no event announces."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.01)


def only_in_the_log(hub: RunningHub) -> None:
    """Have the hub keep nothing of its window: what was emitted is read from the log."""
    feed = hub.hub.feed
    feed.window.clear(feed.through)


async def emit(
    hub: RunningHub, names: Sequence[str], make: Callable[[str], event_pb2.Event] = ticket
) -> list[event_service_pb2.EmitEventResponse]:
    """Emit an event for each id, in order; all are stored when it returns."""
    return await emit_all(hub, [make(name) for name in names])


async def log_of(hub: RunningHub, *kinds: Kind) -> list[Entry]:
    """The hub's log, from the store."""
    entries: list[Entry] = []
    through, last = 0, (await hub.hub.log.bounds()).last
    while through < last:
        page = await hub.hub.log.read(through, 1_000, frozenset(kinds) if kinds else None)
        entries += page.entries
        through = page.through
    return entries


def live(hub: RunningHub) -> list[Stream]:
    """Every open stream of the hub."""
    return hub.hub.streams.all()


async def pass_time(hub: RunningHub, clock: FakeClock, seconds: float) -> None:
    """Let time pass for all of the hub's clocks, then let it remove what has become too old."""
    clock.wall_offset += round(seconds * 1_000_000)
    clock.monotonic_offset += seconds
    await retention(hub, clock).remove_old()


def retention(hub: RunningHub, clock: FakeClock) -> Retention:
    """What removes old events, to be asked for a look when a test wants it."""
    audit = AuditRetention(hub.hub.log, hub.hub.registry, hub.settings, clock)
    return Retention(hub.hub.log, hub.hub.feed, hub.hub.expire_subscriptions, audit.remove_old, hub.settings, clock)
