"""The hub on which random lives of integrations run, with its streams beside the model's readers."""

import asyncio
import itertools
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from tickets.hub.v1 import event_pb2

from hub import config
from hub.app import Hub
from tests.support.events import event
from tests.support.hubs import PATIENCE, Caller, FakeClock, RunningHub
from tests.support.permission_model import FULL, WITHOUT, Integration, Reader
from tests.support.streams import RawStream

PAYLOADS: dict[str, dict[str, Any]] = {
    "ticket_created": {"creator_user_id": "7001"},
    "ticket_closed": {"message_count": 3},
    "member_verified": {"user_id": "7001"},
}
NARROWINGS: dict[str, tuple[str, ...]] = {"wide": (), "narrow": ("51",)}
"""The subscriptions, and the guilds that each asks for."""

LINGERS = {"wide": 0, "narrow": 5}
"""For how many seconds each lingers."""

T = TypeVar("T")


class World:
    """One hub for all runs: each run has owners and integrations of its own, and older ones' events to be kept from."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.numbers = itertools.count(1)
        self.hub = self.run(self._start(directory))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the hub's time go on until something is done."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 3 * PATIENCE))

    async def _start(self, directory: Path) -> RunningHub:
        # a jump of the clock in the middle of a write is no slow reader; all runs share their users' hour of changes
        flags = {"data_dir": directory, "listen": "127.0.0.1:0", "drain_time": 1, "write_deadline": 1e9}
        flags |= {"max_changes": 1_000_000}
        found = config.load(flags)
        hub = await Hub.start(found, self.clock)
        return RunningHub(hub, found, hub.first_keys or {})

    def close(self) -> None:
        """End it."""
        self.run(self.hub.close())
        self.loop.close()


class Connection:
    """A reader of the model, and the stream that stands for it while there is one."""

    def __init__(self, guilds: tuple[str, ...]) -> None:
        self.reader = Reader(guilds)
        self.stream: RawStream | None = None
        self.cursor = ""
        self._taken = 0

    def opened(self, stream: RawStream) -> None:
        """Another stream goes on for it."""
        self.stream, self._taken = stream, 0

    def take(self) -> None:
        """Hold against the model what has come since the last time."""
        assert self.stream is not None
        for shown in self.stream.events[self._taken :]:
            self.reader.take(shown.id, look_of(shown))
        self._taken = len(self.stream.events)
        self.cursor = self.stream.frames[-1].cursor if self.stream.frames else self.cursor


class Known:
    """An integration of this run: in the hub, and in the model."""

    def __init__(self, integration_id: str, model: Integration) -> None:
        self.integration_id = integration_id
        self.model = model
        self.caller: Caller | None = None
        self.connections = {name: Connection(guilds) for name, guilds in NARROWINGS.items()}


def look_of(shown: event_pb2.Event) -> str:
    """How an event looks: fails where it is anything but the event as it was emitted, or that without its user."""
    kind = shown.WhichOneof("payload")
    assert kind is not None
    whole = event(shown.id, shown.guild_id, **{kind: PAYLOADS[kind]})
    for name in ("accept_time", "occur_time"):
        shown.ClearField(name)
    if shown == whole:
        return FULL
    assert shown == event(shown.id, shown.guild_id, member_verified={}), f"neither whole nor without its user: {shown}"
    return WITHOUT
