"""kill -9 of bot and hub at any moment, and a hub that is away for longer than it remembers ids.

Nothing that emit() returned is lost, nothing is stored twice, and the order is that of emit().
"""

import asyncio
import json
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tickets.hub.v1 import admin_service_pb2, event_service_pb2

from tests.support.hubs import REGISTRATION, Caller, scope_requests
from tests.torture.conftest import Progress, rounds
from tests.torture.test_kill import HubStarter, hub_starter

PATIENCE = 60
WINDOW = 1
"""Seconds for which the hub remembers an id."""


class Kill(NamedTuple):
    """How a round ends.

    Attributes:
        victims: who is killed, one after the other; the others live on, and those that were killed are replaced.
        step: where the first one kills itself; None: it is killed at any moment.
        most: how often it takes that step at most, until it kills itself.
        is_long: there is no hub afterwards for longer than it remembers ids.
    """

    victims: tuple[str, ...]
    step: dict[str, str] | None = None
    most: int = 0
    is_long: bool = False


KILLS = (
    *(Kill(victims) for victims in (("hub",), ("bot",), ("hub", "bot"), ("bot", "hub"))),
    # What the hub stored and the bot does not know of: these events come again, with numbers that the hub has.
    Kill(("bot", "hub"), {"statement": "DELETE FROM events"}, 4, is_long=True),
    Kill(("hub",), {"call": "run", "when": "after"}, 5, is_long=True),
    Kill(("hub",), {"call": "COMMIT", "when": "before"}, 5),
    Kill(("bot",), {"statement": "INSERT INTO events"}, 12),
    Kill(("bot",), {"statement": "COMMIT"}, 12),
    Kill(("bot",), {"statement": "REPLACE INTO emitters"}, 1),
)
"""Each kind comes once before one comes again."""


def schedule(rng: random.Random, number: int) -> Iterator[Kill]:
    """So many kills: all kinds in a random order, then all in another."""
    left = list[Kill]()
    for _ in range(number):
        left = left or rng.sample(KILLS, len(KILLS))
        yield left.pop()


class Bots:
    """Where the bots come from, one after the other; all of them have the same outbox."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @asynccontextmanager
    async def bot(self, order: dict[str, Any]) -> AsyncIterator["RunningBot"]:
        """A bot; it has ended when this does."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        bot = RunningBot(int(await self._line()))
        hearing = asyncio.create_task(self._hear(bot))
        try:
            yield bot
        finally:
            self._process.stdin.write(b"end\n")
            await hearing

    async def _hear(self, bot: "RunningBot") -> None:
        while (line := await self._line()) != "ended":
            if line == "sent":
                bot.sent.set()
            else:
                name, waiting = line.split()
                bot.taken.append(name)
                bot.waiting = int(waiting)

    async def _line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = (await self._process.stdout.readline()).decode().strip()
        assert line, "the process that starts bots has ended"
        return line


class RunningBot:
    """One bot: its pid, the ids that emit() returned, how many events waited then, whether all of them were sent."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.taken = list[str]()
        self.waiting = 0
        self.sent = asyncio.Event()

    async def until_stored(self, more: int) -> None:
        """Wait until the hub has taken so many more events."""
        while not self.taken:  # noqa: ASYNC110  a line of the bot wakes nobody
            await asyncio.sleep(0.001)
        before = len(self.taken) - self.waiting
        while len(self.taken) - self.waiting < before + more:  # noqa: ASYNC110  the same
            await asyncio.sleep(0.001)


async def death(pid: int) -> None:
    """Wait until a process is dead; nobody has reaped it yet, so that its pid is its own."""
    with suppress(FileNotFoundError):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":  # noqa: ASYNC110  the same
            await asyncio.sleep(0.001)


@asynccontextmanager
async def bots(file: Path) -> AsyncIterator[Bots]:
    """A process that starts bots."""
    script = Path(__file__).parents[1] / "support" / "killed_bots.py"
    process = await asyncio.create_subprocess_exec(sys.executable, script, file, stdin=PIPE, stdout=PIPE)
    try:
        yield Bots(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


class Torture:
    """A hub and a bot that emits without end; each lives until it is killed, and is replaced then."""

    def __init__(self, hubs: HubStarter, bots: Bots, address: str, rng: random.Random) -> None:
        self._hubs = hubs
        self._bots = bots
        self._address = address
        self._rng = rng
        self._lives: dict[str, AsyncExitStack] = {}
        self._pids: dict[str, int] = {}
        self._bot: RunningBot
        self.taken = list[list[str]]()  # what emit() returned, by bots

    async def round(self, kill: Kill) -> None:
        """Both live and work; one or both of them die."""
        first, step = kill.victims[0], None
        if kill.step is not None:
            await self.end(first)  # its place is for one that will kill itself
            step = kill.step | {"nth": self._rng.randrange(1, kill.most + 1)}
        for who in self._rng.sample(["hub", "bot"], 2):
            if who not in self._lives:
                await self._start(who, step if who == first else None)
        async with asyncio.timeout(PATIENCE):
            await (self._work() if step is None else death(self._pids[first]))
        for who in kill.victims:
            with suppress(ProcessLookupError):
                os.kill(self._pids[who], signal.SIGKILL)
            await asyncio.sleep(self._rng.random() * 0.02)
            await self.end(who)
        if kill.is_long:
            await self.end("hub")
            await asyncio.sleep(WINDOW * 1.2)

    async def end(self, who: str) -> None:
        """Kill it, unless it is dead."""
        if who in self._lives:
            await self._lives.pop(who).aclose()

    async def _start(self, who: str, step: dict[str, Any] | None) -> None:
        life = AsyncExitStack()
        if who == "hub":
            self._pids[who], _ = await life.enter_async_context(self._hubs.hub(step))
        else:
            pause = self._rng.choice([0, 0.001, 0.01])
            order = self._order(f"b{len(self.taken):05d}", 1_000_000, pause=pause, step=step)
            self._bot = await life.enter_async_context(self._bots.bot(order))
            self._pids[who] = self._bot.pid
            self.taken.append(self._bot.taken)
        self._lives[who] = life

    def _order(self, prefix: str, events: int, **more: Any) -> dict[str, Any]:  # noqa: ANN401  whatever JSON has
        """What a bot does."""
        hub = {"address": self._address, "key": self._hubs.keys["BOT"]}
        return hub | {"prefix": prefix, "events": events, "pause": 0, "step": None} | more

    async def _work(self) -> None:
        """In one round of five the kill may come before the two of them have met."""
        if self._rng.random() < 0.8:
            await self._bot.until_stored(self._rng.randrange(1, 60))
        await asyncio.sleep(self._rng.random() * 0.05)

    async def empty(self, key: str) -> list[str]:
        """A last hub and a last bot, which nobody kills: everything arrives. Returns what a reader gets."""
        await self.end("bot")
        await self.end("hub")
        order = self._order("last", 1)
        async with self._hubs.hub(None) as (_, channel), self._bots.bot(order) as bot:
            async with asyncio.timeout(PATIENCE):
                await bot.sent.wait()
            stream, found = Caller(channel, key).open(earliest={}, max_batch_size=1_000), list[str]()
            while not found or found[-1] != "last-000000":
                frame = await stream.call.read()
                assert isinstance(frame, event_service_pb2.SubscribeResponse)
                found += [event.id for event in frame.events]
            stream.call.cancel()
        return found[:-1]


async def register(hubs: HubStarter) -> str:
    """An integration's key; the hub of this is the first, and makes the keys."""
    async with hubs.hub(None) as (_, channel):
        fields: dict[str, Any] = REGISTRATION | {"scopes": scope_requests("TICKET_STATS")}
        request = admin_service_pb2.RegisterIntegrationRequest(**fields)
        admin = Caller(channel, hubs.keys["ADMIN"])
        return str((await admin.call("AdminService/RegisterIntegration", request)).key.secret)


async def test_an_outbox_loses_nothing_and_sends_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: Progress
) -> None:
    """What emit() returned is stored once and in its order; what a kill cut off may be there, at its place, too."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for name, value in {"HUB_LISTEN": address, "HUB_HTTP_LISTEN": "off", "HUB_DEDUPE_WINDOW": str(WINDOW)}.items():
        monkeypatch.setenv(name, value)
    seed = random.randrange(2**32)  # noqa: S311  it chooses moments
    rng = random.Random(seed)  # noqa: S311  the same
    try:
        async with hub_starter(tmp_path) as hubs, bots(tmp_path / "bot-outbox.db") as starter:
            key = await register(hubs)
            torture = Torture(hubs, starter, address, rng)
            for number, kill in enumerate(schedule(rng, rounds(len(KILLS), 3_000)), 1):
                await torture.round(kill)
                progress(number, f"{len(torture.taken)} bots, {sum(map(len, torture.taken))} events")
            found = await torture.empty(key)
        check(found, torture.taken)
    except BaseException as error:
        error.add_note(f"the seed was {seed}")
        raise


def check(found: list[str], taken: list[list[str]]) -> None:
    """What a reader got, against what emit() returned to each bot."""
    assert len(found) == len(set(found)), "stored twice"
    assert found == sorted(found), "out of order"
    by_bot: dict[str, list[str]] = {}
    for name in found:
        by_bot.setdefault(name.partition("-")[0], []).append(name)
    for number, names in enumerate(taken):
        mine = by_bot.get(f"b{number:05d}", [])
        assert mine[: len(names)] == names, "lost"
        assert len(mine) <= len(names) + 1, "more than was cut off"
