"""A way to servers that can be cut: connections stay open, and nothing passes."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Self


class Proxy:
    """Passes connections on to ports of loopback, one port of its own for each.

    Attributes:
        passes: while it is not set, nothing passes in either direction; what was sent waits.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.passes = asyncio.Event()
        self.passes.set()
        self._ports = ports
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where NATS is reached through it."""
        ports = [server.sockets[0].getsockname()[1] for server in self._servers]
        return "nats://" + ",".join(f"127.0.0.1:{port}" for port in ports)

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        for port in self._ports:

            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = port) -> None:
                task = asyncio.create_task(self._join(reader, writer, port))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

            self._servers.append(await asyncio.start_server(accept, "127.0.0.1", 0))
        return self

    async def __aexit__(self, *error: object) -> None:
        """End every connection."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        with suppress(OSError):
            await self.passes.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            ways = [self._pass_on(reader, far_writer), self._pass_on(far_reader, writer)]
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await self.passes.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
