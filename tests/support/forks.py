"""Commands of the hub as forks of a process that has imported it: real processes, each without seconds of imports."""

import asyncio
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory


class Pipes:
    """The three pipes of a process: the test's ends, and those that the process gets."""

    def __init__(self) -> None:
        into, (out, self._out), (err, self._err) = os.pipe(), os.pipe(), os.pipe()
        self.theirs = [into[0], self._out, self._err]
        self.ours = into[1], out, err


class ForkedProcess:
    """A process with what tests need of asyncio's `Process`; it is another process' child.

    Attributes:
        pid: its number.
        stdin, stdout, stderr: pipes to it.
        returncode: as of `subprocess`; None while it runs.
    """

    def __init__(
        self, pid: int, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader
    ) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._watching: asyncio.Task[None]

    def watch(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the exit code from the server once it comes."""
        self._watching = asyncio.create_task(self._watch(answers, writer))

    async def _watch(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.returncode = int(await answers.readline())
        finally:
            writer.close()

    async def wait(self) -> int:
        """Wait for its end: its exit code."""
        await asyncio.shield(self._watching)
        assert self.returncode is not None
        return self.returncode

    async def communicate(self, data: bytes = b"") -> tuple[bytes, bytes]:
        """Write `data` and end its input, read all that it writes, and wait for its end."""
        self.stdin.write(data)
        self.stdin.close()
        out, err = await asyncio.gather(self.stdout.read(), self.stderr.read())
        await self.wait()
        return out, err

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


async def fork(words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> ForkedProcess:
    """Start `hub` with these words; its input and output are pipes."""
    pipes = Pipes()
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    caller.connect(_server())
    socket.send_fds(caller, [json.dumps([list(words), str(cwd), dict(env)]).encode() + b"\n"], pipes.theirs)
    for descriptor in pipes.theirs:
        os.close(descriptor)
    answers, writer = await asyncio.open_connection(sock=caller)
    stdin, stdout, stderr = pipes.ours
    pid = int(await answers.readline())
    process = ForkedProcess(pid, await _writer(stdin), await _reader(stdout), await _reader(stderr))
    process.watch(answers, writer)
    return process


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader, pipe = asyncio.StreamReader(), os.fdopen(descriptor, "rb", 0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


async def _writer(descriptor: int) -> asyncio.StreamWriter:
    loop, pipe = asyncio.get_running_loop(), os.fdopen(descriptor, "wb", 0)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    return asyncio.StreamWriter(transport, protocol, None, loop)


@cache
def _server() -> str:
    """The socket of the process that forks; it runs for as long as this one does."""
    directory = TemporaryDirectory(prefix="forks-")
    path = str(Path(directory.name) / "socket")
    server = subprocess.Popen(  # noqa: S603  words of our own
        [sys.executable, "-m", "tests.support.fork_server", path],
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if not name.startswith("HUB_")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"

    def end() -> None:
        server.communicate()
        directory.cleanup()

    atexit.register(end)
    return path
