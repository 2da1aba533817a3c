"""One measurement: load programs beside a server, and the server's processor time from ready to done."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from bench import machine
from bench.jobs import Job, Outcome
from bench.servers import ROOT, Server, piped

BUSY = 0.9
"""A load program that uses more of a core than this is what limits the figure."""

LIMIT = 64 * 1024 * 1024
PATIENCE = 180.0


class Measured(NamedTuple):
    """What one measurement tells.

    Attributes:
        outcome: of all load programs together.
        cpu: seconds of processor time that the server used.
        load_bound: the load program was the limit, not the server.
    """

    outcome: Outcome
    cpu: float
    load_bound: bool

    @property
    def cpu_per_event(self) -> float:
        """Microseconds of the server's processor time for each event."""
        return self.cpu / max(1, self.outcome.events) * 1e6

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.outcome.events / max(1e-9, self.outcome.seconds)


class Load:
    """A load program that runs as a child process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, job: Job) -> "Load":
        """Start it; it is ready when this returns."""
        words = [sys.executable, "-m", "bench.load"]
        load = cls(
            await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=None, limit=LIMIT)
        )
        load._say(msgspec.json.encode(job))
        if await load._hear() != b"ready":
            raise RuntimeError(f"the load program ended before it was ready: {type(job).__name__}")
        return load

    def go(self) -> None:
        """Let it begin."""
        self._say(b"go")

    async def outcome(self) -> Outcome:
        """What it saw, once it is done."""
        told = await self._hear()
        await self._process.wait()
        return msgspec.json.decode(told, type=Outcome)

    async def stop(self) -> None:
        """End it, whatever it does."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def _say(self, line: bytes) -> None:
        piped(self._process.stdin).write(line + b"\n")

    async def _hear(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return (await piped(self._process.stdout).readline()).rstrip(b"\n")


async def measure(server: Server, *jobs: Job) -> Measured:
    """Run load programs side by side against a server.

    Raises:
        RuntimeError: something failed that must not.
    """
    return await measure_all([server], *jobs)


async def measure_all(servers: Sequence[Server], *jobs: Job) -> Measured:
    """The same against several servers; their processor time is taken together."""
    loads = [await Load.start(job) for job in jobs]
    try:
        before = sum(machine.cpu(server.pid) for server in servers)
        for load in loads:
            load.go()
        outcomes = await asyncio.gather(*(load.outcome() for load in loads))
        cpu = sum(machine.cpu(server.pid) for server in servers) - before
    finally:
        for load in loads:
            await load.stop()
    if failures := [failure for outcome in outcomes for failure in outcome.failures]:
        raise RuntimeError(f"{type(jobs[0]).__name__}: {failures}")
    return Measured(together(outcomes), cpu, any(one.cpu > BUSY * one.seconds for one in outcomes))


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """What several load programs saw side by side."""
    return Outcome(
        events=sum(one.events for one in outcomes),
        messages=sum(one.messages for one in outcomes),
        bytes=sum(one.bytes for one in outcomes),
        seconds=max(one.seconds for one in outcomes),
        cpu=sum(one.cpu for one in outcomes),
        latencies=sorted(value for one in outcomes for value in one.latencies),
    )
