"""The hub as a process of its own: started by its command line, heard by its output, ended by its pid."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from tests.support.forks import ForkedProcess, fork
from tests.support.hubs import Caller

PATIENCE = 60.0
"""Seconds that a test waits for a process before it fails."""

COMMAND = (sys.executable, "-m", "hub")


class Ended(NamedTuple):
    """What came of a process."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line with which it refused; fails where it said anything else, or went well."""
        [line] = self.err.splitlines()
        assert (self.code, self.out, line[:5]) == (2, "", "hub: ")
        return line[5:]

    @property
    def keys(self) -> dict[str, str]:
        """The keys that it printed, each alone on its line; fails where it printed anything else."""
        return dict(line.split("=") for line in self.out.splitlines())


class Serving:
    """A hub that serves: its port, what it printed and logged until then, and its callers."""

    def __init__(self, process: Process | ForkedProcess) -> None:
        self.process = process
        self.port = 0
        self.log: list[dict[str, Any]] = []
        self.channel: grpc.aio.Channel

    async def heard(self, event: str) -> dict[str, Any]:
        """The next line of the log about this; lines before it are kept in `log`."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while line := await self.process.stderr.readline():
                self.log.append(json.loads(line))
                if self.log[-1]["event"] == event:
                    return self.log[-1]
        raise AssertionError(f"the hub ended before it logged {event!r}: {self.log}")

    async def printed(self) -> str:
        """The next line on standard output, without its end."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def first_keys(self) -> dict[str, str]:
        """The two keys that a first start prints, by the names of their variables."""
        return dict([(await self.printed()).split("=") for _ in range(2)])

    def caller(self, key: str) -> Caller:
        """Somebody with a key."""
        return Caller(self.channel, key)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> Ended:
        """Send a signal, and wait for the end; what was printed and logged since is returned."""
        self.process.send_signal(number)
        return await ended_of(self.process)


async def run_hub(*words: str, cwd: Path, **variables: str) -> Ended:
    """Run a command of the hub to its end, in a directory, with these HUB_ variables and no others."""
    return await run([*COMMAND, *words], cwd, variables)


async def run(command: Sequence[str], cwd: Path, variables: Mapping[str, str] | None = None) -> Ended:
    """Run any command to its end; of the HUB_ variables it sees only these."""
    return await ended_of(await _begin(command, cwd, variables or {}))


@asynccontextmanager
async def starting(
    *words: str, cwd: Path, before: Sequence[str] = (), **variables: str
) -> AsyncIterator[Process | ForkedProcess]:
    """A command of the hub that may not come to its end by itself; `before`: the words of what starts it."""
    process = await _begin([*before, *COMMAND, *words], cwd, variables)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def serving(*words: str, cwd: Path, before: Sequence[str] = (), **variables: str) -> AsyncIterator[Serving]:
    """A hub that serves on a free port of loopback, its data in `cwd`/data unless said otherwise."""
    variables.setdefault("HUB_LISTEN", "127.0.0.1:0")
    async with starting("serve", *words, cwd=cwd, before=before, **variables) as process:
        hub = Serving(process)
        hub.port = (await hub.heard("serving"))["port"]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.port}") as hub.channel:
            yield hub


async def _begin(command: Sequence[str], cwd: Path, variables: Mapping[str, str]) -> Process | ForkedProcess:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
    env = inherited | {"HUB_HTTP_LISTEN": "off"} | dict(variables)
    at_start = any(name.startswith(("LD_", "PYTHON")) for name in variables)  # read before a process runs any code
    if tuple(command[: len(COMMAND)]) == COMMAND and not at_start:
        return await fork(command[len(COMMAND) :], cwd, env)
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=env,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )


async def ended_of(process: Process | ForkedProcess) -> Ended:
    """What came of a process, once it has ended; fails where it does not."""
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        raise AssertionError(f"still running after {PATIENCE} s: {out!r} {err!r}") from None
    assert process.returncode is not None
    return Ended(process.returncode, (out or b"").decode(), err.decode())
