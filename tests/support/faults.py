"""Proxies between hub and servers that can be cut or slowed down while connections stay open."""

import asyncio
import contextlib
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from itertools import combinations
from pathlib import Path
from typing import Self

from tests.support.nats_servers import Cluster, Server, free_port


class Proxy:
    """Passes connections on to ports of loopback, one port of its own for each.

    Attributes:
        passes: while it is not set, nothing passes in either direction; what was sent waits.
        delay: seconds that whatever passes takes.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.passes = asyncio.Event()
        self.passes.set()
        self.delay = 0.0
        self._ports = ports
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ways(self) -> dict[int, int]:
        """By the port that it passes connections on to, its own."""
        return {to: server.sockets[0].getsockname()[1] for to, server in zip(self._ports, self._servers, strict=True)}

    @property
    def url(self) -> str:
        """Where NATS is reached through it."""
        return "nats://" + ",".join(f"127.0.0.1:{port}" for port in self.ways.values())

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
        await self.hang_up()

    async def hang_up(self) -> None:
        """End the connections that there are."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        try:
            await self.passes.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            ways = [self._pass_on(reader, far_writer), self._pass_on(far_reader, writer)]
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            return  # nobody listens there: the caller's connection is closed
        finally:
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await asyncio.sleep(self.delay)
                await self.passes.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


class Network:
    """A cluster whose servers reach each other through proxies, one for each pair of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._routes = [free_port() for _ in range(3)]
        self._pairs = {pair: Proxy(pair) for pair in combinations(self._routes, 2)}
        self._stack = AsyncExitStack()
        self.cluster: Cluster

    async def __aenter__(self) -> Self:
        """Start all of it."""
        for proxy in self._pairs.values():
            await self._stack.enter_async_context(proxy)
        ways: dict[int, list[int]] = {port: [] for port in self._routes}
        for (one, other), proxy in self._pairs.items():
            ways[one].append(proxy.ways[other])
            ways[other].append(proxy.ways[one])
        self.cluster = Cluster(self._directory, ways)
        self._stack.callback(self.cluster.stop)
        await asyncio.to_thread(self.cluster.start)
        return self

    async def __aexit__(self, *error: object) -> None:
        """End all of it."""
        await self._stack.aclose()

    async def cut_off(self, server: Server, *, hang_up: bool) -> None:
        """Let nothing pass between a server and the others; `hang_up`: its connections to them end, too."""
        for proxy in self._around(server):
            proxy.passes.clear()
            if hang_up:
                await proxy.hang_up()

    def slow_down(self, server: Server, seconds: float) -> None:
        """Have whatever passes between a server and the others take so long."""
        for proxy in self._around(server):
            proxy.delay = seconds

    def heal(self) -> None:
        """Let all pass again, at once."""
        for proxy in self._pairs.values():
            proxy.delay = 0.0
            proxy.passes.set()

    def _around(self, server: Server) -> list[Proxy]:
        route = self._routes[self.cluster.servers.index(server)]
        return [proxy for pair, proxy in self._pairs.items() if route in pair]


class SilentLink:
    """A connection to a hub through a middleman who can let it go dead: both ends stand, and nothing passes."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._to = port
        self._passing = asyncio.Event()
        self._passing.set()
        self._ends: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    def go_dead(self) -> None:
        """From now on nothing passes, neither way, and no connection is closed."""
        self._passing.clear()

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let go of both ends."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self._ends:
            end.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._ends += [writer, back]
        self._tasks += [asyncio.create_task(self._pass(*pair)) for pair in ((reader, back), (there, writer))]

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while some := await source.read(65_536):
            await self._passing.wait()
            target.write(some)


class HubProxy:
    """Passes bytes on, until it is cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cut = False
        self._writers = set[asyncio.StreamWriter]()
        self._callers = set[asyncio.StreamWriter]()
        self._frozen = set[asyncio.StreamWriter]()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()

    def cut(self) -> None:
        """Drop every connection and take no other."""
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self, *, hub_hears: bool = False) -> None:
        """Let every connection stand, and pass nothing more on, not even its end; new connections work.

        Args:
            hub_hears: what callers send still arrives, and what the hub sends does not.
        """
        self._frozen |= self._writers & self._callers if hub_hears else self._writers

    def mend(self) -> None:
        """Take connections again."""
        self._cut = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        pair = {writer, back}
        self._writers |= pair
        self._callers.add(writer)
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            self._writers -= pair
            self._callers.discard(writer)
            for each in pair:
                each.close()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Pass on what comes, for as long as both ends stand."""
        with contextlib.suppress(OSError):
            while some := await source.read(65_536):
                if target not in self._frozen:
                    target.write(some)
                    await target.drain()
        if target not in self._frozen:
            target.transport.abort()
