"""The proof that this replica misses no entry: repeated each second, and soon after a failure.

Changes of the leader, missing servers and silence are log lines.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from hub.storage.jetstream.connection import Message, NoReply
from hub.storage.jetstream.metadata import MetadataStream
from hub.storage.jetstream.state import ReplicaState
from hub.storage.jetstream.stream import REPLY_TIMEOUT, ApiError, NatsStream

HEARTBEAT_INTERVAL = 1.0
"""Seconds between two proofs."""
_AGAIN = 0.1
_LOST_AFTER = 3_000_000_000
"""Nanoseconds after which a server that the leader does not hear from counts as missing."""
_MISSED = 3
"""Checks in a row, a second apart, after which a missing server is logged."""
_ELECTED = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED."

log = structlog.get_logger(__name__)

CatchUp = Callable[[int], Awaitable[None]]


class Quorum:
    """Proves at intervals that the cluster has a quorum and that this replica has all its entries.

    Attributes:
        is_behind: whether the cluster ends before a position that was announced: then nothing may be appended.
    """

    def __init__(
        self, streams: tuple[NatsStream, NatsStream], metadata: MetadataStream, state: ReplicaState, catch_up: CatchUp
    ) -> None:
        """`streams`: the log's and the metadata's; `catch_up`: returns once all up to a position is known here."""
        self.is_behind = False
        self._streams = streams
        self._metadata = metadata
        self._state = state
        self._catch_up = catch_up
        self._proved = 0.0
        self._is_silent = False
        self._servers = Servers()
        self._hurry = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def silence(self) -> float:
        """See `Log.silence`."""
        return self._loop.time() - self._proved

    async def check_quorum(self) -> None:
        """Publish a heartbeat, and check that nothing appended before it is missing here.

        Raises:
            NoReply, ApiError, TimeoutError: the proof failed.
        """
        began = self._loop.time()
        mark = await self._metadata.publish_heartbeat(self._state.last)
        async with asyncio.timeout(REPLY_TIMEOUT):
            await self._metadata.wait_applied(mark)
            info = await self._streams[0].info()
            cluster, last = info.get("cluster"), int(info["state"]["last_seq"])
            if cluster and not cluster.get("leader"):
                raise NoReply("no server leads the log")
            self.is_behind = last < self._metadata.announced_position
            if self.is_behind:
                raise NoReply(
                    f"a server that ends at {last}, before {self._metadata.announced_position}, no longer leads"
                )
            await self._catch_up(last)
        self._state.forget(self._metadata.extent.forgotten)
        self._proved = max(self._proved, began)
        self._servers.note(cluster or {})

    async def run(self) -> None:
        """Check at intervals until cancelled."""
        for stream in self._streams:
            with suppress(NoReply):  # every request ends by itself without it, too
                await stream.connection.listen(_ELECTED + stream.name, self._on_elected)
        while True:
            await self._pause(_AGAIN if self._is_silent else HEARTBEAT_INTERVAL)
            try:
                await self.check_quorum()
            except (NoReply, ApiError, TimeoutError) as error:
                self._note_silence(error)
            else:
                self._note_answer()

    async def _pause(self, seconds: float) -> None:
        """Wait, unless a new leader was elected."""
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return
        self._hurry.clear()

    def _on_elected(self, message: Message) -> None:
        """Repeat the requests that wait for the former leader at once."""
        content: dict[str, Any] = msgspec.json.decode(message.data)
        stream, leader = content.get("stream", ""), content.get("leader", "")
        log.info("a NATS server was elected to lead", stream=stream, leader=leader)
        self._hurry.set()
        self._streams[0].connection.start_over()

    def _note_silence(self, error: Exception) -> None:
        if not self._is_silent:
            connection = self._streams[0].connection
            text = str(error) or "no answer in time"
            log.warning("NATS does not answer", leader=self._servers.leader, connected_to=connection.server, error=text)
        self._is_silent = True

    def _note_answer(self) -> None:
        if self._is_silent:
            log.info("NATS answers again", leader=self._servers.leader, connected_to=self._streams[0].connection.server)
        self._is_silent = False


class Servers:
    """The servers that keep the log, as its leader describes them; a change is a line in the log.

    Attributes:
        leader: the name of the server that leads.
    """

    def __init__(self) -> None:
        self.leader = ""
        self._missed: Counter[str] = Counter()
        self._missing: list[str] = []

    def note(self, cluster: dict[str, Any]) -> None:
        """Apply the "cluster" part of a stream's information; a single server has none."""
        leader = cluster.get("leader", "")
        if leader != self.leader and self.leader:
            log.info("another NATS server leads the log", leader=leader, before=self.leader)
        self.leader = leader
        self._note_missing([peer["name"] for peer in cluster.get("replicas") or () if _is_missing(peer)])

    def _note_missing(self, names: list[str]) -> None:
        """One check is not enough: a leader that was just elected has not heard from the others yet."""
        self._missed = Counter({name: self._missed[name] + 1 for name in names})
        missing = sorted(name for name, times in self._missed.items() if times >= _MISSED)
        if missing and missing != self._missing:
            log.warning("NATS servers are missing", missing=missing, leader=self.leader)
        if self._missing and not missing:
            log.info("all NATS servers are there", leader=self.leader)
        self._missing = missing


def _is_missing(peer: dict[str, Any]) -> bool:
    """`active`: nanoseconds since the leader heard from it; 0 where it never did."""
    return not peer.get("current") and not 0 < peer.get("active", 0) < _LOST_AFTER
