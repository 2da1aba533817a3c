"""Each client follows a real hub that fails: every event comes, in order, at least once, or what docs/delivery.md says.

The hub is ``hub serve``, a process of its own; the client commits by itself, so that its next run goes on.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tickets.hub.v1.event_pb2 import Event

from conformance.subject import Subject, running
from tests.support import admin_calls as admin
from tests.support.calls import ask
from tests.support.events import closed, ids, verified
from tests.support.faults import HubProxy
from tests.support.hubs import FakeClock, StartHub, pass_time, scope_requests
from tests.support.nats_servers import free_port
from tests.support.processes import PATIENCE, Serving, serving

pytestmark = pytest.mark.timeout(300)  # the first test of a client builds it; a dead connection takes half a minute
POLICY = {"first_delay": 0.05, "max_delay": 0.5, "slack": 1, "commit_interval": 0.05}


class World:
    """A hub's address and data directory, which outlive its process, the keys of all, and the events of the bot."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = free_port()
        self.target = f"127.0.0.1:{self.port}"
        self.integration_id = self.key = self.key_id = ""
        self._keys: dict[str, str] = {}

    @property
    def bot_key(self) -> str:
        """The key of the bot, once the hub has served."""
        return self._keys["HUB_BOT_KEY"]

    @asynccontextmanager
    async def serves(self) -> AsyncIterator[Serving]:
        """The hub serves; the first time it gets an integration that may see closed tickets."""
        async with serving(cwd=self._directory, HUB_LISTEN=self.target, HUB_DRAIN_TIME="2") as hub:
            self._keys = self._keys or await hub.first_keys()
            if not self.key:
                made = await self.steer(hub, "RegisterIntegration", **admin.registration("TICKET_STATS"))
                self.integration_id, self.key = made.integration.integration_id, made.key.secret
                self.key_id = made.key.key_id
            yield hub

    async def steer(self, hub: Serving, method: str, **fields: Any) -> Any:  # noqa: ANN401  any request, its reply
        """Call a method of AdminService as an admin."""
        return await admin.ask(hub.caller(self._keys["HUB_ADMIN_KEY"]), method, **fields)

    async def set_scopes(self, hub: Serving, *scopes: str) -> None:
        """Give the integration exactly these scopes."""
        fields = {"integration_id": self.integration_id, "scopes": scope_requests(*scopes), "reason": "for the tests"}
        await self.steer(hub, "SetScopes", **fields)

    async def until_committed(self, hub: Serving) -> None:
        """Wait for the first commit: without one another stream would begin with what comes next."""
        async with asyncio.timeout(PATIENCE):
            while True:
                listed = await self.steer(hub, "ListSubscriptions", integration_id=self.integration_id)
                if any(one.HasField("commit_time") for one in listed.subscriptions):
                    return
                await asyncio.sleep(0.05)

    async def emit(self, hub: Serving, *events: Event) -> None:
        """Emit events as the bot; all are stored when it returns."""
        await ask(hub.caller(self.bot_key), "EventService/BatchEmitEvents", events=events)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A hub that has not been started."""
    return World(tmp_path)


@asynccontextmanager
async def following(client: list[str], target: str, key: str, **wanted: Any) -> AsyncIterator[Subject]:  # noqa: ANN401  of subscribe
    """A run of the client that has asked for its first event, and whose stream is open."""
    async with running(client) as subject:
        subject.tell({"do": "connect", "target": target, "key": key, "policy": POLICY})
        await follow(subject, **wanted)
        yield subject
        subject.tell({"do": "close"})
        await hear(subject, "close")


async def follow(subject: Subject, **wanted: Any) -> None:  # noqa: ANN401  of subscribe
    """Subscribe, ask for the first event, and wait until the stream is open."""
    subject.tell({"do": "subscribe", "auto_commit": True} | wanted)
    subject.tell({"do": "next"})
    await notice(subject, "ready")


async def hear(subject: Subject, kind: str) -> dict[str, Any]:
    """The next line of a kind."""
    async with asyncio.timeout(PATIENCE):
        return await subject.hear(kind)


async def notice(subject: Subject, name: str) -> None:
    """Wait for a notice of this name."""
    while (await hear(subject, "notice"))["notice"] != name:
        pass


async def events(subject: Subject, last: str) -> list[str]:
    """The ids of events up to the last one, by when they came first; then the client is asked for one more."""
    return once(await arrivals(subject, last))


async def arrivals(subject: Subject, last: str) -> list[str]:
    """The ids of events up to the last one, each as often as it came; then the client is asked for one more."""
    got: list[str] = []
    while last not in got:
        line = await hear(subject, "next")
        assert "event" in line, line
        got.append(line["event"])
        subject.tell({"do": "next"})
    return got


def once(names: Sequence[str]) -> list[str]:
    """Ids by when they came first: at least once is what is promised."""
    return list(dict.fromkeys(names))


def many(names: Sequence[str]) -> list[Event]:
    """Closed tickets of these ids."""
    return [closed(name) for name in names]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "drained"])
async def test_a_client_resumes_after_a_restart_of_the_hub(
    client: list[str], world: World, how: signal.Signals
) -> None:
    """The client has read half of what it was sent; it gets the rest and what comes later, and so does its next run."""
    first, second, third = ids("a", 20), ids("b", 20), ids("c", 2)
    async with world.serves() as hub:
        async with following(client, world.target, world.key) as subject:
            await world.emit(hub, *many(first))
            got = await events(subject, first[9])
            await hub.stop(how)
            async with world.serves() as again:
                await world.emit(again, *many(second))
                got += await events(subject, second[-1])
        assert once(got) == first + second
    async with world.serves() as hub:
        await world.emit(hub, *many(third))
        async with following(client, world.target, world.key) as subject:
            got = await events(subject, third[-1])
    assert got == (first + second + third)[-len(got) :]


async def test_the_next_run_gets_events_that_were_not_processed(client: list[str], world: World) -> None:
    """Only processed events are committed."""
    names = ids("a", 20)
    async with world.serves() as hub:
        async with following(client, world.target, world.key) as subject:
            await world.emit(hub, *many(names))
            got = await events(subject, names[9])
        async with following(client, world.target, world.key) as subject:
            got += await events(subject, names[-1])
    assert once(got) == names


async def test_a_client_leaves_a_frozen_hub(client: list[str], world: World) -> None:
    """The connection is up and nothing arrives: the client opens another stream, and loses nothing."""
    async with world.serves() as hub, following(client, world.target, world.key, heartbeat_interval=1) as subject:
        await world.emit(hub, closed("a"))
        got = await events(subject, "a")
        hub.process.send_signal(signal.SIGSTOP)
        await notice(subject, "reconnecting")
        hub.process.send_signal(signal.SIGCONT)
        await world.emit(hub, closed("b"))
        assert once(got + await events(subject, "b")) == ["a", "b"]


@pytest.mark.parametrize("auto_commit", [True, False])
async def test_a_client_survives_a_cut_connection(client: list[str], world: World, auto_commit: bool) -> None:  # noqa: FBT001  of pytest
    """For a while nothing answers; events emitted meanwhile arrive afterwards, also without commits."""
    async with (
        world.serves() as hub,
        HubProxy(world.port) as proxy,
        following(client, proxy.address, world.key, auto_commit=auto_commit) as subject,
    ):
        await world.emit(hub, closed("a"))
        got = await events(subject, "a")
        proxy.cut()
        await notice(subject, "reconnecting")
        await world.emit(hub, closed("b"))
        proxy.mend()
        assert once(got + await events(subject, "b")) == ["a", "b"]


@pytest.mark.parametrize("hub_hears", [False, True], ids=["both ways", "the hub hears"])
async def test_a_client_leaves_a_half_open_connection(client: list[str], world: World, hub_hears: bool) -> None:  # noqa: FBT001  of pytest
    """Both ends stay open, and bytes are lost in between: the reader and the bot leave it, and nothing is missing.

    Another stream on that connection would hang as well: the pings find out, after 25 s. The first event after the
    freeze is in a frame that never arrives, the second in a call that never arrives, or whose answer does not: each
    comes once.
    """
    async with (
        world.serves() as hub,
        HubProxy(world.port) as proxy,
        following(client, proxy.address, world.key, heartbeat_interval=1) as reader,
        running(client) as bot,
    ):
        bot.tell({"do": "connect", "target": proxy.address, "key": world.bot_key, "policy": POLICY})
        bot.tell({"do": "emit", "ids": ["a"]})
        assert (await hear(bot, "emit"))["stored"] == "a"
        assert await arrivals(reader, "a") == ["a"]
        proxy.freeze(hub_hears=hub_hears)
        await world.emit(hub, closed("b"))
        bot.tell({"do": "emit", "ids": ["c"]})
        await notice(reader, "reconnecting")
        assert (await hear(bot, "emit")).get("stored") == "c"
        assert await arrivals(reader, "c") == ["b", "c"]
        bot.tell({"do": "close"})
        await hear(bot, "close")


async def test_a_revoked_key_ends_the_stream_with_the_reason(client: list[str], world: World) -> None:
    """With the new key the client continues from what it has processed."""
    async with world.serves() as hub, following(client, world.target, world.key) as subject:
        await world.emit(hub, closed("a"))
        assert await events(subject, "a") == ["a"]
        await world.until_committed(hub)
        fields = {"integration_id": world.integration_id, "overlap": admin.span(0)}
        made = await world.steer(hub, "RotateKey", **fields)
        assert (await hear(subject, "next"))["error"]["reason"] == "KEY_REVOKED"
        await world.emit(hub, closed("b"))
        subject.tell({"do": "use_key", "key": made.key.secret})
        await hear(subject, "use_key")
        await follow(subject)
        got = await events(subject, "b")
        assert got == ["a", "b"][-len(got) :]


async def test_a_client_rotates_its_key(client: list[str], world: World) -> None:
    """The stream continues, also when the old key is revoked, and the next run has the new key."""
    async with world.serves() as hub:
        async with following(client, world.target, world.key) as subject:
            subject.tell({"do": "rotate_key"})
            key = (await hear(subject, "rotate_key"))["key"]
            await world.emit(hub, closed("a"))
            assert await events(subject, "a") == ["a"]
            await world.steer(hub, "RevokeKey", integration_id=world.integration_id, key_id=world.key_id)
            await notice(subject, "reconnecting")
            await world.emit(hub, closed("b"))
            assert await arrivals(subject, "b") == ["b"]
        await world.emit(hub, closed("c"))
        async with following(client, world.target, key) as subject:
            got = await events(subject, "c")
            assert got == ["a", "b", "c"][-len(got) :]


async def test_the_stream_follows_changes_of_scopes(client: list[str], world: World) -> None:
    """The stream continues: nothing of a scope while it is revoked, and its events again once it is granted."""
    async with world.serves() as hub, following(client, world.target, world.key) as subject:
        await world.set_scopes(hub, "MEMBER_VERIFIED")
        await notice(subject, "grants_changed")
        await world.emit(hub, closed("withheld"), verified("a"))
        got = await events(subject, "a")
        await world.set_scopes(hub, "MEMBER_VERIFIED", "TICKET_STATS")
        await notice(subject, "grants_changed")
        await world.emit(hub, closed("b"))
        assert got + await events(subject, "b") == ["a", "b"]


@pytest.mark.parametrize("start_over", [False, True])
async def test_trimmed_history_is_a_gap(client: list[str], start_hub: StartHub, start_over: bool) -> None:  # noqa: FBT001  of pytest
    """While the client was cut off its next events became too old: it hears so, or gets a gap and what is kept.

    This hub is a part of the test, for its clock to be moved.
    """
    clock = FakeClock()
    running_hub = await start_hub(clock, retention=60, dedupe_window=60)
    _, reader = await running_hub.register("TICKET_STATS")
    wanted = {"on_expired_cursor": "earliest"} if start_over else {}
    async with (
        HubProxy(running_hub.hub.port) as proxy,
        following(client, proxy.address, reader.key, **wanted) as subject,
    ):
        await running_hub.emit(closed("a"))
        assert await events(subject, "a") == ["a"]
        proxy.cut()
        await notice(subject, "reconnecting")
        await running_hub.emit(closed("trimmed"))
        await pass_time(running_hub, clock, 61)
        await running_hub.emit(closed("b"))
        proxy.mend()
        if start_over:
            await notice(subject, "gap")
            assert await events(subject, "b") == ["b"]
        else:
            assert (await hear(subject, "next"))["error"]["reason"] == "CURSOR_EXPIRED"
