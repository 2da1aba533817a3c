"""The floor: a bare grpc.aio server that has its bytes ready. No store, no permission, no validation.

Run as a program it prints its port. What it does for each method is the least that the method can mean.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import grpc
import msgspec

SERVICE = "bench.Floor"
STREAM, ECHO, FOLLOW, PUBLISH, STORE = (
    f"/{SERVICE}/{name}" for name in ("Stream", "Echo", "Follow", "Publish", "Store")
)


class Frames(msgspec.Struct, frozen=True):
    """What a Stream request asks for: the same frame so many times."""

    data: bytes
    count: int


class Floor:
    """The methods of the floor."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._followers: set[asyncio.Queue[bytes]] = set()
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def stream(self, request: bytes, context: Any) -> None:  # noqa: ANN401  grpc's context
        """Write the same bytes again and again."""
        asked = msgspec.json.decode(request, type=Frames)
        for _ in range(asked.count):
            await context.write(asked.data)

    async def echo(self, request: bytes, context: Any) -> bytes:  # noqa: ANN401, ARG002  gRPC passes it
        """Answer with the request."""
        return request

    async def follow(self, request: bytes, context: Any) -> None:  # noqa: ANN401
        """Write whatever is published."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._followers.add(queue)
        try:
            await context.write(request)
            while True:
                await context.write(await queue.get())
        finally:
            self._followers.discard(queue)

    async def publish(self, request: bytes, context: Any) -> bytes:  # noqa: ANN401, ARG002
        """Hand a frame to all who follow."""
        for queue in self._followers:
            queue.put_nowait(request)
        return b""

    async def store(self, request: bytes, context: Any) -> bytes:  # noqa: ANN401
        """Make a frame durable, together with whatever else waits, then hand it to all who follow."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, done))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await done
        return await self.publish(request, context)

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            await asyncio.to_thread(self._sync, b"".join(data for data, _ in group))
            for _, done in group:
                done.set_result(None)
        self._writer = None

    def _sync(self, data: bytes) -> None:
        os.write(self._descriptor, data)
        os.fdatasync(self._descriptor)


async def serve(file: Path) -> None:
    """Serve until the process is ended."""
    floor = Floor(file)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    unary: Any = grpc.unary_unary_rpc_method_handler
    stream: Any = grpc.unary_stream_rpc_method_handler
    handlers = {
        "Stream": stream(floor.stream),
        "Echo": unary(floor.echo),
        "Follow": stream(floor.follow),
        "Publish": unary(floor.publish),
        "Store": unary(floor.store),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
