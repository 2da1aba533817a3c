"""The scripted hub: a gRPC server on loopback that follows a script, and notes what clients do.

It decides nothing. What a client does becomes an `Occurrence` with its time on the server's own clock.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from tickets_hub.v1.developer_service_pb2_grpc import DeveloperServiceServicer, add_DeveloperServiceServicer_to_server
from tickets_hub.v1.event_service_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server

TRAILER = "grpc-status-details-bin"

End = dict[str, Any]
"""An ending as a script has it: code, and where wanted reason, message, retry_after, metadata, violations."""


@dataclass(slots=True, eq=False)
class Occurrence:
    """A call that a client made.

    Attributes:
        method: "Subscribe", "CommitCursor".
        request: its message.
        key: what it showed as its key.
        time: when it came.
        todo: for the handler: messages to send, then an `End`, or None where the answer was the end.
        last: when the handler last sent something, or the call ended.
        gone: set once the client has cancelled the call, at `gone_time`.
    """

    method: str
    request: Any
    key: str
    time: float
    todo: asyncio.Queue[Message | End | None] = field(default_factory=asyncio.Queue)
    last: float = 0.0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    gone_time: float = 0.0


class ScriptedHub(EventServiceServicer, DeveloperServiceServicer):
    """What a client calls; each call waits in `calls` of its method."""

    def __init__(self) -> None:
        self.address = ""
        self.calls: dict[str, asyncio.Queue[Occurrence]] = {
            name: asyncio.Queue() for name in ("Subscribe", "CommitCursor", "Emit", "RotateOwnKey")
        }
        self.emitting = 0
        self.most_emitting = 0

    async def Subscribe(self, request: Message, context: Any) -> None:  # type: ignore[override]  # noqa: ANN401, N802  the generated name; the stubs know no coroutine that writes
        """Write what the script says."""
        await self._call("Subscribe", request, context)

    async def CommitCursor(self, request: Message, context: Any) -> Any:  # noqa: ANN401, N802  the same
        """Answer what the script says."""
        return await self._call("CommitCursor", request, context)

    async def RotateOwnKey(self, request: Message, context: Any) -> Any:  # noqa: ANN401, N802  the same
        """Answer what the script says."""
        return await self._call("RotateOwnKey", request, context)

    async def EmitEvent(self, request: Message, context: Any) -> Any:  # noqa: ANN401, N802  the same
        """Answer what the script says."""
        return await self._emit(request, context)

    async def BatchEmitEvents(self, request: Message, context: Any) -> Any:  # noqa: ANN401, N802  the same
        """Answer what the script says."""
        return await self._emit(request, context)

    async def _emit(self, request: Message, context: Any) -> Any:  # noqa: ANN401  the same
        self.emitting += 1
        self.most_emitting = max(self.most_emitting, self.emitting)
        try:
            return await self._call("Emit", request, context)
        finally:
            self.emitting -= 1

    async def _call(self, method: str, request: Message, context: Any) -> Message | None:  # noqa: ANN401  the same
        key = str(dict(context.invocation_metadata()).get("authorization", "")).removeprefix("Bearer ")
        call = Occurrence(method, request, key, time.monotonic())
        self.calls[method].put_nowait(call)
        try:
            while isinstance(step := await call.todo.get(), Message):
                call.last = time.monotonic()  # before the client can know of it
                if method != "Subscribe":
                    return step
                await context.write(step)
            call.last = time.monotonic()
            if step is not None:
                await refuse(context, step)
        except asyncio.CancelledError:
            call.gone_time = time.monotonic()
            call.gone.set()
            raise
        return None


async def refuse(context: Any, end: End) -> None:  # noqa: ANN401  the stubs' context is no type that exists at run time
    """End a call with a status and its details."""
    if end["code"] == "OK":
        return
    trailers = ((TRAILER, details(end)),) if end.get("reason") else ()
    await context.abort(grpc.StatusCode[end["code"]], end.get("message", "scripted"), trailers)


def details(end: End) -> bytes:
    """An ending as ``google.rpc.Status``, as the hub sends it."""
    return bytes(status(end).SerializeToString())


def status(end: End) -> Status:
    """The same as a message."""
    info = ErrorInfo(reason=end.get("reason", ""), domain="tickets.hub.v1", metadata=end.get("metadata", {}))
    parts: list[Message] = [info]
    if (seconds := end.get("retry_after")) is not None:
        retry = RetryInfo()
        retry.retry_delay.FromNanoseconds(round(seconds * 1e9))
        parts.append(retry)
    if violations := end.get("violations"):
        parts.append(BadRequest(field_violations=[BadRequest.FieldViolation(**one) for one in violations]))
    packed = [AnyMessage() for _ in parts]
    for box, part in zip(packed, parts, strict=True):
        box.Pack(part)
    return Status(code=code_pb2.Code.Value(end["code"]), message=end.get("message", "scripted"), details=packed)


@asynccontextmanager
async def scripted_hub() -> AsyncIterator[ScriptedHub]:
    """A scripted hub on a free port of loopback, for as long as the context lasts."""
    hub = ScriptedHub()  # type: ignore[abstract]  # what no script calls answers UNIMPLEMENTED
    server = grpc.aio.server()
    add_EventServiceServicer_to_server(hub, server)
    add_DeveloperServiceServicer_to_server(hub, server)
    hub.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield hub
    finally:
        await server.stop(0)
