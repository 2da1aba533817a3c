"""Calls whose request the test sends when it likes, or never."""

from typing import Any

import grpc

from tests.support.calls import fails
from tests.support.hubs import PATIENCE, Caller

LIST_SCOPES = "/tickets.hub.v1.DirectoryService/ListScopes"
EMIT = "/tickets.hub.v1.EventService/EmitEvent"
SUBSCRIBE = "/tickets.hub.v1.EventService/Subscribe"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
STREAMS = (SUBSCRIBE, WATCH)


class Upload:
    """A call of any method by a client that thinks that it takes a stream of requests."""

    def __init__(self, caller: Caller, method: str) -> None:
        make: Any = caller._channel.stream_stream if method in STREAMS else caller._channel.stream_unary
        self._call: Any = make(method, None, None)(metadata=caller.metadata, timeout=PATIENCE)
        self._is_stream = method in STREAMS

    async def send(self, *messages: bytes) -> "Upload":
        """Send these and end this side of the call."""
        for message in messages:
            await self._call.write(message)
        await self._call.done_writing()
        return self

    async def reply(self) -> Any:  # noqa: ANN401  whatever comes first
        """What comes first."""
        return await (self._call.read() if self._is_stream else self._call)

    async def ending(self) -> grpc.aio.AioRpcError:
        """How it fails."""
        return await fails(self.reply())

    def cancel(self) -> None:
        """End it from this side."""
        self._call.cancel()
