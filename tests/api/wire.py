"""What the tests over the wire share: streams as raw bytes, and knowing that a stream has brought all that it will."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from tickets.hub.v1 import admin_service_pb2, event_pb2, event_service_pb2, integration_pb2, permissions_pb2

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
    request = admin_service_pb2.GetIntegrationRequest(integration_id=integration_id)
    reply = await hub.admin.call("AdminService/GetIntegration", request)
    assert isinstance(reply.integration, integration_pb2.Integration)
    return reply.integration
