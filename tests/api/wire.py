"""What the tests over the wire share: streams as raw bytes, and knowing that a stream has brought all that it will."""

import asyncio
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from tickets.hub.v1 import event_pb2, event_service_pb2, integration_pb2, permissions_pb2

from hub import logs
from hub.delivery.cursor import CursorSeal
from tests.conftest import PATIENCE, Caller, FakeClock, RunningHub

SERVICE = "/tickets.hub.v1.EventService"
EVERY_SCOPE = (
    "TICKET_CREATED",
    "TRANSCRIPT_CREATED",
    "DROP_CLAIMED",
    "MEMBER_VERIFIED",
    "TICKET_STATS",
    "MEMBER_VERIFIED_IDENTITY",
)
SILENCE = 60
"""The longest heartbeat interval, in seconds: a stream that asked for it stays silent until a test lets time pass."""


class RawStream:
    """A stream as the wire has it: the bytes of each frame, and the message in them."""

    def __init__(self, caller: Caller, integration_id: str, **request: Any) -> None:  # noqa: ANN401  its fields
        if not {"latest", "cursor"} & request.keys():
            request["earliest"] = {}
        request.setdefault("heartbeat_interval", {"seconds": SILENCE})
        open_stream: Any = caller._channel.unary_stream(
            f"{SERVICE}/Subscribe",
            request_serializer=event_service_pb2.SubscribeRequest.SerializeToString,
            response_deserializer=None,
        )
        self.integration_id = integration_id
        self.call: Any = open_stream(event_service_pb2.SubscribeRequest(**request), metadata=caller.metadata)
        self.raw: list[bytes] = []
        self.frames: list[event_service_pb2.SubscribeResponse] = []

    async def frame(self) -> event_service_pb2.SubscribeResponse:
        """The next frame; fails where the stream ends first."""
        async with asyncio.timeout(PATIENCE):
            raw = await self.call.read()
        assert isinstance(raw, bytes), "the stream has ended"
        self.raw.append(raw)
        self.frames.append(event_service_pb2.SubscribeResponse.FromString(raw))
        return self.frames[-1]

    async def ready(self) -> event_service_pb2.Ready:
        """The first frame."""
        frame = await self.frame()
        assert frame.HasField("ready")
        return frame.ready

    async def until_caught_up(self, seal: CursorSeal, position: int) -> None:
        """Read until the stream says that it brought all there was up to a position of the log."""
        while True:
            frame = await self.frame()
            if frame.heartbeat.caught_up and seal.open(frame.cursor).position >= position:
                return

    async def ending(self) -> grpc.aio.AioRpcError:
        """How it ends."""
        while True:
            try:
                await self.frame()
            except grpc.aio.AioRpcError as error:
                return error

    @property
    def events(self) -> list[event_pb2.Event]:
        """All events so far, in order."""
        return [event for frame in self.frames for event in frame.events]

    def close(self) -> None:
        """End it from this side."""
        self.call.cancel()


def event(event_id: str, guild_id: str = "41", **fields: Any) -> event_pb2.Event:  # noqa: ANN401  of an Event
    """An event: `event("t1", ticket_created={"creator_user_id": "7"})`."""
    return event_pb2.Event(id=event_id, guild_id=guild_id, **fields)


async def settle(hub: RunningHub, clock: FakeClock, streams: Sequence[RawStream]) -> None:
    """Read streams until each has said that it is caught up with all that was accepted before.

    Lets the hub's time run on, so that heartbeats are due at once, instead of waiting for them.
    """
    last = (await hub.hub._log.bounds()).last
    seal = CursorSeal(await hub.hub._log.secret())
    reading = asyncio.gather(*(stream.until_caught_up(seal, last) for stream in streams))
    while not reading.done():
        live = [one for several in hub.hub._streams._open.values() for one in several]
        if not any(one.write_began for one in live):  # else the hub would take its client for one that does not read
            clock.monotonic_offset += SILENCE
            for holder in {stream.integration_id for stream in streams}:
                for one in hub.hub._streams._open[holder]:
                    one.wake()
        await asyncio.wait({reading}, timeout=0.02)  # a stream that has just written is not silent yet: once more
    await reading


async def emit_all(hub: RunningHub, events: Sequence[event_pb2.Event]) -> list[event_service_pb2.EmitEventResponse]:
    """Emit events in lists of the largest size."""
    results: list[event_service_pb2.EmitEventResponse] = []
    for start in range(0, len(events), 1_000):
        request = event_service_pb2.BatchEmitEventsRequest(events=events[start : start + 1_000])
        results += (await hub.bot.call("EventService/BatchEmitEvents", request)).results
    return results


def numbers(*scopes: str) -> list[permissions_pb2.Scope.ValueType]:
    """Scopes by their short names ("TICKET_CREATED"), as requests want them."""
    return [permissions_pb2.Scope.Value(f"SCOPE_{scope}") for scope in scopes]


async def ask(caller: Caller, name: str, **fields: Any) -> Any:  # noqa: ANN401  its fields, its reply
    """Call a method of any service: `ask(hub.admin, "AdminService/GetIntegration", integration_id="x")`."""
    service, _, method = name.partition("/")
    descriptor = descriptor_pool.Default().FindServiceByName(f"tickets.hub.v1.{service}").methods_by_name[method]
    request, reply = (message_factory.GetMessageClass(side) for side in (descriptor.input_type, descriptor.output_type))
    return reply.FromString(await send(caller, name, request(**fields).SerializeToString()))


async def send(caller: Caller, name: str, raw: bytes) -> bytes:
    """Call a method with these bytes as the request; returns those of the reply."""
    call: Any = caller._channel.unary_unary(f"/tickets.hub.v1.{name}", None, None)
    reply = await call(raw, metadata=caller.metadata, timeout=PATIENCE)
    assert isinstance(reply, bytes)
    return reply


def log_to_memory(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Let the hub's log go to memory; returns where it can be read, also after the hub has ended."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    logs.configure("info", "json")
    return written


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that the hub tells nobody of."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.01)


async def fails(call: Any) -> grpc.aio.AioRpcError:  # noqa: ANN401  anything that can be awaited
    """How a call fails; the test fails where it does not."""
    try:
        async with asyncio.timeout(PATIENCE):
            reply = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"it was answered: {reply}")


async def read(hub: RunningHub, integration_id: str) -> integration_pb2.Integration:
    """An integration as it is now."""
    reply = await ask(hub.admin, "AdminService/GetIntegration", integration_id=integration_id)
    assert isinstance(reply.integration, integration_pb2.Integration)
    return reply.integration
