"""Random lives of integrations: no stream ever gets what the model says it may not, and each gets all that it must."""

import os
import random
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import grpc
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.support.calls import ask
from tests.support.events import event, numbers
from tests.support.governance import block, install, own_key, refusal_of, set_scopes, unblock, uninstall
from tests.support.hubs import REGISTRATION, RunningHub, scope_requests
from tests.support.model_hub import LINGERS, NARROWINGS, PAYLOADS, Connection, Known, World
from tests.support.permission_model import ALL, FOREVER, INSTALLED, NOT, Happened, Integration
from tests.support.streams import RawStream, settle

LONG = bool(os.environ.get("TORTURE"))
GUILDS = ("51", "52")
EVERYTHING = ("TICKET_CREATED", "TICKET_STATS", "MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY")
SCOPES = st.sets(st.sampled_from(EVERYTHING), min_size=1)
WHICH_LAST = 3
WHICH = st.integers(0, WHICH_LAST)
T = TypeVar("T")


class Lives(RuleBasedStateMachine):
    """Commands in any order, wanted and unwanted; after each the model knows what every stream may bring."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Happened] = []
        self.all: list[Known] = []
        self.blocked: set[str] = set()
        self.unshared: dict[str, float] = {}
        self.moment = 0
        self.owners = ("1", "2")

    @property
    def hub(self) -> RunningHub:
        """The hub."""
        return self.world.hub

    @initialize()
    def begin(self) -> None:
        """Owners that no other run has, and two integrations that everything is shown to, one of them by consent."""
        number = next(self.world.numbers)
        self.owners = (f"{number}1", f"{number}2")
        for guild in GUILDS:
            self.share(guild, on=True)  # another run may have ended without
        for which, access in enumerate((ALL, INSTALLED)):
            self.register(set(EVERYTHING), which, access)
            self.connect(which, "wide")
        self.install(1, "51", set())

    def do(self, work: Coroutine[Any, Any, T], refusal: str = "") -> T | None:
        """Do something, or see it refused with this reason."""
        self.moment += 1
        try:
            done = self.world.run(work)
        except grpc.aio.AioRpcError as error:
            assert refusal_of(error).reason == refusal  # noqa: PT017  which of many commands it was, hypothesis tells
            return None
        assert not refusal, f"it was done, and should have been refused with {refusal}"
        return done

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The model changes: what streams have not brought yet may look as before and as afterwards; life goes on."""
        yield
        self._look_again()
        self.emit()

    def _look_again(self) -> None:
        for one in self.all:
            for connection in one.connections.values():
                connection.reader.changed(one.model, self.events)

    def closed(self, one: Known) -> str:
        """Why it may have no stream; "" if it may."""
        if one.model.state != "ACTIVE":
            return f"INTEGRATION_{one.model.state}"
        return "DEVELOPER_BLOCKED" if one.model.owner in self.blocked else ""

    def ended(self, one: Known, reason: str) -> None:
        """Its streams have ended, for this reason, after what they had brought."""
        for connection in one.connections.values():
            if connection.stream is not None:
                self.world.run(self._until_end(connection, reason))

    async def _until_end(self, connection: Connection, reason: str) -> None:
        try:
            while True:
                assert connection.stream is not None
                await connection.stream.frame()
        except grpc.aio.AioRpcError as error:
            assert refusal_of(error).reason == reason  # noqa: PT017  the loop ends in no other way
        connection.take()
        connection.stream = None

    @rule(scopes=SCOPES, owner=st.sampled_from([0, 1]), access=st.sampled_from([ALL, INSTALLED]))
    def register(self, scopes: set[str], owner: int, access: int) -> None:
        """An admin's short way: ACTIVE at once."""
        self._begin("AdminService/RegisterIntegration", "ACTIVE", scopes, self.owners[owner], access)

    @rule(scopes=SCOPES, owner=st.sampled_from([0, 1]), access=st.sampled_from([ALL, INSTALLED]))
    def apply(self, scopes: set[str], owner: int, access: int) -> None:
        """An application."""
        self._begin("DirectoryService/SubmitApplication", "PENDING", scopes, self.owners[owner], access)

    def _begin(self, method: str, state: str, scopes: set[str], owner: str, access: int) -> None:
        if len(self.all) > WHICH_LAST:
            return
        form = {
            **REGISTRATION,
            "owner_user_id": owner,
            "guild_access": access,
            "scopes": scope_requests(*sorted(scopes)),
        }
        if state == "PENDING":
            form["rules_accepted"] = True
        who = self.hub.admin if state == "ACTIVE" else self.hub.bot
        reply = self.do(ask(who, method, **form), "DEVELOPER_BLOCKED" if owner in self.blocked else "")
        if reply is None:
            return
        one = Known(reply.integration.integration_id, Integration(owner, state, access, unshared=self.unshared))
        if state == "ACTIVE":
            one.model.grant(scopes, self.moment)
            one.caller = self.hub.caller(reply.key.secret)
        else:
            one.model.requested = set(scopes)
        with self.changing():
            self.all.append(one)

    @rule(which=WHICH, yes=st.booleans(), scopes=SCOPES, everything=st.booleans())
    def decide(self, which: int, yes: bool, scopes: set[str], everything: bool) -> None:  # noqa: FBT001  of a strategy
        """An admin approves or rejects what is asked for, or some of it."""
        one = self.all[which % len(self.all)]
        model = one.model
        waits = model.state in ("PENDING", "ACTIVE") and bool(model.requested)
        chosen = set(model.requested) if everything else (scopes & model.requested or scopes)
        refusal = "" if chosen <= model.requested else "INVALID_REQUEST"
        method = f"AdminService/{'Approve' if yes else 'Reject'}Integration"
        request = {"integration_id": one.integration_id, "reason": "decided", "scopes": numbers(*sorted(chosen))}
        if self.do(ask(self.hub.admin, method, **request), refusal if waits else "STATE_FORBIDS") is None:
            return
        with self.changing():
            if yes:
                model.grant({*model.granted, *chosen}, self.moment)
                model.state = "ACTIVE"
            if not yes and model.state == "PENDING":
                model.state = "REJECTED"
            model.requested = set() if yes or model.state == "REJECTED" else model.requested - chosen

    @rule(which=WHICH, scopes=SCOPES)
    def request(self, which: int, scopes: set[str]) -> None:
        """The owner asks for more, through the bot."""
        one = self.all[which % len(self.all)]
        refusal = "INVALID_REQUEST" if scopes & one.model.granted.keys() else ""
        if one.model.state not in ("ACTIVE", "SUSPENDED"):
            refusal = "STATE_FORBIDS"
        if one.model.owner in self.blocked:
            refusal = "DEVELOPER_BLOCKED"
        own = {"integration_id": one.integration_id, "acting_user_id": one.model.owner}
        asks = ask(self.hub.bot, "DeveloperService/RequestScopes", **own, scopes=scope_requests(*sorted(scopes)))
        if self.do(asks, refusal) is not None:
            one.model.requested = set(scopes)

    @rule(which=WHICH, scopes=st.one_of(SCOPES, st.just(set[str]())))
    def set_scopes(self, which: int, scopes: set[str]) -> None:
        """An admin grants and takes away."""
        one = self.all[which % len(self.all)]
        refusal = "" if one.model.state in ("ACTIVE", "SUSPENDED") else "STATE_FORBIDS"
        self.do(set_scopes(self.hub, one.integration_id, *sorted(scopes)), refusal)
        if not refusal:
            with self.changing():
                one.model.grant(scopes, self.moment)
                one.model.requested -= scopes

    @rule(which=WHICH, access=st.sampled_from([ALL, INSTALLED]))
    def open_to(self, which: int, access: int) -> None:
        """An admin opens it to all guilds, or to those that install it."""
        one = self.all[which % len(self.all)]
        new = {"integration_id": one.integration_id, "guild_access": access}
        refusal = "STATE_FORBIDS" if one.model.state == "DELETED" else ""
        self.do(ask(self.hub.admin, "AdminService/UpdateIntegration", integration=new), refusal)
        if not refusal:
            with self.changing():
                one.model.open_to(access, self.moment)

    @rule(which=WHICH, name=st.sampled_from(["Suspend", "Suspend", "Resume", "Resume", "Resume", "Delete"]))
    def steer(self, which: int, name: str) -> None:
        """An admin closes it for now, opens it again, or ends it."""
        one = self.all[which % len(self.all)]
        model, was_open = one.model, not self.closed(one)
        allowed = {"Suspend": {"ACTIVE"}, "Resume": {"SUSPENDED"}}.get(
            name, {"PENDING", "ACTIVE", "SUSPENDED", "REJECTED"}
        )
        refusal = "" if model.state in allowed else "STATE_FORBIDS"
        asks = {"integration_id": one.integration_id, "reason": "steered"}
        self.do(ask(self.hub.admin, f"AdminService/{name}Integration", **asks), refusal)
        if refusal:
            return
        with self.changing():
            model.state = {"Suspend": "SUSPENDED", "Resume": "ACTIVE", "Delete": "DELETED"}[name]
            if name == "Delete":
                model.granted, model.requested = {}, set()
        if was_open and name != "Resume":
            self.ended(one, f"INTEGRATION_{model.state}")

    @rule(owner=st.sampled_from([0, 1]), blocks=st.booleans())
    def blocklist(self, owner: int, blocks: bool) -> None:  # noqa: FBT001  of a strategy
        """A developer comes onto the blocklist, or off it; twice makes no difference."""
        user = self.owners[owner]
        mine = [one for one in self.all if one.model.owner == user and not self.closed(one)]
        self.do(block(self.hub, user) if blocks else unblock(self.hub, user))
        if blocks:
            self.blocked.add(user)
            for one in mine:
                self.ended(one, "DEVELOPER_BLOCKED")
        else:
            self.blocked.discard(user)

    @rule(which=WHICH, guild=st.sampled_from(GUILDS), scopes=st.one_of(st.just(set[str]()), SCOPES))
    def install(self, which: int, guild: str, scopes: set[str]) -> None:
        """A guild installs it, or agrees again."""
        one = self.all[which % len(self.all)]
        refusal = self.closed(one) or ("" if scopes <= one.model.granted.keys() else "SCOPE_NOT_GRANTED")
        self.do(install(self.hub, one.integration_id, guild, *sorted(scopes)), refusal)
        if not refusal:
            with self.changing():
                one.model.agree(guild, scopes, self.moment)

    @rule(which=WHICH, guild=st.sampled_from(GUILDS))
    def uninstall(self, which: int, guild: str) -> None:
        """A guild takes its consent back."""
        one = self.all[which % len(self.all)]
        self.do(uninstall(self.hub, one.integration_id, guild))
        with self.changing():
            one.model.exclude(guild)

    @rule(guild=st.sampled_from(GUILDS), on=st.sampled_from([True, True, False]))
    def share(self, guild: str, on: bool) -> None:  # noqa: FBT001  of a strategy
        """A guild shares with nobody, or again."""
        asks = {"guild_id": guild, "acting_user_id": self.owners[0], "sharing": 2 if on else 1}
        self.do(ask(self.hub.bot, "DirectoryService/SetGuildSharing", **asks))
        with self.changing():
            if not on:
                self.unshared[guild] = FOREVER
            elif self.unshared.get(guild) == FOREVER:
                self.unshared[guild] = self.moment

    @rule()
    def emit(self) -> None:
        """In every guild everything happens once."""
        sent = [
            event(f"e{next(self.world.numbers)}", guild, **{kind: PAYLOADS[kind]})
            for kind in PAYLOADS
            for guild in GUILDS
        ]
        self.do(ask(self.hub.bot, "EventService/BatchEmitEvents", events=sent))
        self.events += [Happened(one.id, str(one.WhichOneof("payload")), one.guild_id, self.moment) for one in sent]
        self._look_again()

    @rule(which=WHICH, name=st.sampled_from(sorted(NARROWINGS)))
    def connect(self, which: int, name: str) -> None:
        """A stream opens, goes on after the last frame that was read, or takes over from one that is open."""
        one = self.all[which % len(self.all)]
        if one.caller is None and not self._take_key(one):
            return
        connection, refusal = one.connections[name], self.closed(one)
        if refusal == "INTEGRATION_DELETED":
            connection.stream = None
        request: dict[str, Any] = {"subscription_id": name, "guild_ids": connection.reader.guilds}
        request["cursor" if connection.cursor else "latest"] = connection.cursor or {}
        request["linger"] = {"seconds": LINGERS[name]}
        stream = self.do(self._open(one, request), refusal)
        if stream is None:
            return
        if connection.stream is not None:
            self.world.run(self._until_end(connection, "SUBSCRIPTION_TAKEN_OVER"))
            stream.close()
            self.connect(which, name)
            return
        if not connection.cursor:
            connection.reader.seen = {sent.event_id: NOT for sent in self.events}
        connection.opened(stream)
        connection.take()
        connection.reader.resumed(one.model, self.events)

    async def _open(self, one: Known, request: dict[str, Any]) -> RawStream:
        assert one.caller is not None
        stream = RawStream(one.caller, one.integration_id, **request)
        await stream.ready()
        return stream

    def _take_key(self, one: Known) -> bool:
        """The owner takes the first key, where that is possible."""
        if one.model.state not in ("ACTIVE", "SUSPENDED") or one.model.owner in self.blocked:
            return False
        one.caller = self.do(own_key(self.hub, one.integration_id, one.model.owner))
        return True

    @rule()
    def all_has_come(self) -> None:
        """Every open stream has brought what it must, and nothing that it may not."""
        connections = [each for one in self.all for each in one.connections.values() if each.stream is not None]
        streams = [each.stream for each in connections if each.stream is not None]
        if streams:
            self.world.run(settle(self.hub, self.world.clock, streams))
        for connection in connections:
            connection.take()
            connection.reader.complete()

    @rule(which=WHICH)
    def replay(self, which: int) -> None:
        """A stream from the beginning brings exactly what may be seen now, and nothing of other runs."""
        one = self.all[which % len(self.all)]
        if one.caller is None or self.closed(one):
            return
        connection = Connection(())
        connection.reader.resumed(one.model, self.events)
        connection.opened(self.world.run(self._open(one, {"subscription_id": "replay"})))
        assert connection.stream is not None
        self.world.run(settle(self.hub, self.world.clock, [connection.stream]))
        connection.take()
        connection.reader.complete()
        connection.stream.close()

    def teardown(self) -> None:
        """Look once more, and let go of every stream."""
        self.all_has_come()
        for which, one in enumerate(self.all):
            self.replay(which)
            for connection in one.connections.values():
                if connection.stream is not None:
                    connection.stream.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """The hub of all runs."""
    world = World(tmp_path / "data")
    yield world
    world.close()


@pytest.mark.timeout(3_600 if LONG else 120)
def test_every_stream_gets_exactly_what_the_model_says(world: World) -> None:
    """Hundreds of random lives, side by side on one hub: each stream, live, resumed and replayed, is as the model.

    The lives differ from run to run; MODEL_SEED repeats those of a run that failed.
    """
    Lives.world = world
    number = int(os.environ.get("MODEL_SEED", random.SystemRandom().randrange(10**9)))
    print(f"MODEL_SEED={number}")  # noqa: T201  pytest shows it when the test fails
    run_state_machine_as_test(
        seed(number)(Lives),
        settings=settings(
            max_examples=400 if LONG else 20,
            stateful_step_count=60 if LONG else 30,
            deadline=None,
            database=None,
            phases=[Phase.generate, *([Phase.shrink] if LONG else [])],  # a run with every test has no time to shrink
            suppress_health_check=list(HealthCheck),
        ),
    )
