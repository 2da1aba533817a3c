"""kill -9, at any moment and at each step around the commit: no acknowledged event is lost, no id counts twice."""

import asyncio
import itertools
import json
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from tickets.hub.v1 import admin_service_pb2, event_service_pb2

from hub.model import Entry, Kind
from hub.storage.sqlite.log import SqliteLog
from tests.support.events import ticket
from tests.support.hubs import REGISTRATION, Caller, scope_requests
from tests.support.stores import read_all, settings_for
from tests.torture.conftest import rounds

PATIENCE = 60
CHECK = 20
"""Rounds after which the store is looked at."""

STEPS = [("run", "before"), ("run", "after"), ("execute_fetchall", "before"), ("execute_fetchall", "after")]
STEPS += [(statement, "before") for statement in ("INSERT INTO entries", "INSERT OR REPLACE INTO seen", "COMMIT")]


class Bot:
    """Emits, singly and in lists, repeats what was not acknowledged, and remembers what was."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self.in_doubt: set[str] = set()
        self._numbers = itertools.count()

    async def emit_until_it_dies(self, bot: Caller, rng: random.Random) -> None:
        """Ends when the hub does."""
        while True:
            names = {f"e{next(self._numbers):07d}" for _ in range(rng.choice([1, 1, 1, 7, 60]))}
            names |= set(rng.sample(sorted(self.in_doubt), min(3, len(self.in_doubt))))
            self.in_doubt |= names
            request = event_service_pb2.BatchEmitEventsRequest(events=[ticket(name) for name in sorted(names)])
            try:
                await bot.call("EventService/BatchEmitEvents", request)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017  all else would be a fault
                return
            self.acknowledged |= names
            self.in_doubt -= names


class Reader:
    """Follows over all deaths, each time from its last cursor."""

    def __init__(self) -> None:
        self.cursor = ""
        self.seen: list[str] = []

    async def follow(self, reader: Caller) -> None:
        """Ends when the hub does."""
        start: dict[str, Any] = {"cursor": self.cursor} if self.cursor else {"earliest": {}}
        stream = reader.open(**start)
        try:
            while (frame := await stream.call.read()) is not grpc.aio.EOF:
                assert isinstance(frame, event_service_pb2.SubscribeResponse)
                self.seen += [event.id for event in frame.events]
                self.cursor = frame.cursor
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017  all else would be a fault


class HubStarter:
    """Starts one hub after the other on the same data."""

    def __init__(self, process: Process) -> None:
        self.keys: dict[str, str] = {}
        self._process = process

    @asynccontextmanager
    async def hub(self, step: dict[str, Any] | None) -> AsyncIterator[tuple[int, grpc.aio.Channel]]:
        """A hub's pid, and a connection to it; the hub has ended when this does."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(step).encode() + b"\n")
        started = json.loads(await self._line())
        self.keys |= started["keys"]
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{started['port']}") as channel:
                yield started["pid"], channel
        finally:
            self._process.stdin.write(b"end\n")
            assert await self._line() == "ended"

    async def _line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self._process.stdout.readline()).decode().strip()


@asynccontextmanager
async def hub_starter(directory: Path) -> AsyncIterator[HubStarter]:
    """A process that starts hubs on a directory."""
    script = Path(__file__).parents[1] / "support" / "killed_hubs.py"
    process = await asyncio.create_subprocess_exec(sys.executable, script, directory, stdin=PIPE, stdout=PIPE)
    try:
        yield HubStarter(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def kill_after(pid: int, bot: Bot, more: int) -> None:
    """Kill the hub once this many more events were acknowledged; calls in flight are cut off anywhere."""
    goal = len(bot.acknowledged) + more
    while len(bot.acknowledged) < goal:  # noqa: ASYNC110  the next acknowledgement wakes nobody
        await asyncio.sleep(0.001)
    os.kill(pid, signal.SIGKILL)


async def register(admin: Caller) -> str:
    """An integration's key."""
    fields: dict[str, Any] = REGISTRATION | {"scopes": scope_requests("TICKET_CREATED")}
    request = admin_service_pb2.RegisterIntegrationRequest(**fields)
    return str((await admin.call("AdminService/RegisterIntegration", request)).key.secret)


async def live_and_die(starter: HubStarter, key: str, bot: Bot, reader: Reader, rng: random.Random) -> None:
    """One round: load, until the hub is dead, by its own hand at a step of its store or by ours at any moment."""
    call, when = rng.choice(STEPS)
    step = {"call": call, "when": when, "nth": rng.randrange(1, 60)} if rng.random() < 0.6 else None
    async with starter.hub(step) as (pid, channel), asyncio.timeout(PATIENCE):
        following = asyncio.create_task(reader.follow(Caller(channel, key)))
        emitting = [bot.emit_until_it_dies(Caller(channel, starter.keys["BOT"]), rng) for _ in range(4)]
        if step is None:
            await asyncio.gather(*emitting, kill_after(pid, bot, rng.randrange(400)))
        else:
            await asyncio.gather(*emitting)
        await following


async def test_kill_9_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    """Every acknowledged event is in the log once and reached the reader once, in order, over all deaths."""
    seed = random.randrange(2**32)  # noqa: S311  it chooses moments
    rng = random.Random(seed)  # noqa: S311  the same
    bot, reader = Bot(), Reader()
    try:
        async with hub_starter(tmp_path / "data") as starter:
            async with starter.hub(None) as (_, channel):
                key = await register(Caller(channel, starter.keys["ADMIN"]))
            for number in range(1, rounds(12, 3_000) + 1):
                await live_and_die(starter, key, bot, reader, rng)
                if number % CHECK == 0:
                    await checked(tmp_path / "data", bot)
            events = await checked(tmp_path / "data", bot)
            async with starter.hub(None) as (pid, channel), asyncio.timeout(PATIENCE):
                following = asyncio.create_task(reader.follow(Caller(channel, key)))
                while len(reader.seen) < len(events):  # noqa: ASYNC110  the next frame wakes nobody
                    await asyncio.sleep(0.01)
                os.kill(pid, signal.SIGKILL)
                await following
        assert reader.seen == [entry.id for entry in events]
    except BaseException as error:
        error.add_note(f"the seed was {seed}")
        raise


async def checked(directory: Path, bot: Bot) -> list[Entry]:
    """All events of a store that nobody holds: what was acknowledged is there, and nothing twice."""
    log = await SqliteLog.open(settings_for(directory))
    try:
        events = await read_all(log, kinds=frozenset([Kind.EVENT]))
    finally:
        await log.close()
    positions = Counter(entry.id for entry in events)
    assert bot.acknowledged <= positions.keys()
    assert set(positions.values()) == {1}
    return events
