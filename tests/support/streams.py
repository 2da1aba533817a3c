"""What the tests over the wire share: streams as raw bytes, and knowing that a stream has brought all that it will."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from tickets.hub.v1 import event_pb2, event_service_pb2

from hub.delivery.cursor import CursorSeal
from hub.model import Cursor
from tests.support.hubs import PATIENCE, Caller, FakeClock, RunningHub, Subscriber, lingering

EARLIEST = event_service_pb2.ON_EXPIRED_CURSOR_EARLIEST
ALMOST_CLOSED = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1_024))
"""A client that takes in about 64 KiB ahead of what it reads, and nothing more: a slow one, soon noticed."""

SERVICE = "/tickets.hub.v1.EventService"
SILENCE = 60
"""The longest heartbeat interval, in seconds: a stream that asked for it stays silent until a test lets time pass."""


class RawStream:
    """A stream as the wire has it: the bytes of each frame, and the message in them."""

    def __init__(self, caller: Caller, integration_id: str, /, **request: Any) -> None:  # noqa: ANN401  its fields
        if not {"latest", "cursor"} & request.keys():
            request["earliest"] = {}
        request.setdefault("heartbeat_interval", {"seconds": SILENCE})
        open_stream: Any = caller._channel.unary_stream(
            f"{SERVICE}/Subscribe",
            request_serializer=event_service_pb2.SubscribeRequest.SerializeToString,
            response_deserializer=None,
        )
        self.integration_id = integration_id
        self.call: Any = open_stream(event_service_pb2.SubscribeRequest(**lingering(request)), metadata=caller.metadata)
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


async def settle(hub: RunningHub, clock: FakeClock, streams: Sequence[RawStream]) -> None:
    """Read streams until each has said that it is caught up with all that was accepted before.

    Lets the hub's time run on, so that heartbeats are due at once, instead of waiting for them.
    """
    last = (await hub.hub.log.bounds()).last
    seal = CursorSeal((await hub.hub.log.secrets())[0])
    reading = asyncio.gather(*(stream.until_caught_up(seal, last) for stream in streams))
    while not reading.done():
        live = hub.hub.streams.all()
        if not any(one.writes.began for one in live):  # else the hub would take its client for one that does not read
            clock.monotonic_offset += SILENCE
            read = {stream.integration_id for stream in streams}
            for one in live:
                if one.subscriber.integration_id in read:
                    one.wake()
        await asyncio.wait({reading}, timeout=0.02)  # a stream that has just written is not silent yet: once more
    await reading


async def names_until(stream: Subscriber, last: str) -> list[str]:
    """Read until an event comes: the ids of all that came, that one included."""
    names: list[str] = []
    while last not in names:
        names += [event.id for event in (await stream.frame()).events]
    return names


async def notice(stream: Subscriber, kind: str) -> event_service_pb2.SubscribeResponse:
    """Read until a frame carries a notice of this kind."""
    while not (frame := await stream.frame()).HasField(kind):  # type: ignore[arg-type]  # the name of a notice
        pass
    return frame


async def unseal(hub: RunningHub, cursor: str) -> Cursor:
    """The place that a cursor stands for, as only the hub knows."""
    return CursorSeal((await hub.hub.log.secrets())[0]).open(cursor)


@asynccontextmanager
async def standing_still(hub: RunningHub, reader: Caller) -> AsyncIterator[Caller]:
    """The same integration through a connection that takes in next to nothing ahead of what is read."""
    async with grpc.aio.insecure_channel(hub.address, options=ALMOST_CLOSED) as channel:
        caller = Caller(channel, reader.key)
        yield caller
        for stream in caller.opened:  # a call that somebody still holds would keep the connection
            stream.call.cancel()
