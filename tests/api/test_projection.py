"""Random views and requests: a stream delivers exactly its view, once and in order."""

import itertools
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tickets.hub.v1 import admin_service_pb2, event_pb2

from hub.delivery import chunks, page_cache
from hub.delivery.encoding import varint
from tests.support.events import EVERY_SCOPE, event, numbers
from tests.support.hubs import Caller, FakeClock, RunningHub, StartHub, emit_all, scope_requests
from tests.support.streams import RawStream, settle

GUILDS = [10**18 + step * (2**22 + 1) for step in range(5)]
"""In different shards of Discord's."""

DELIVERED_BY = {
    "ticket_created": {"TICKET_CREATED"},
    "transcript_created": {"TRANSCRIPT_CREATED"},
    "drop_claimed": {"DROP_CLAIMED"},
    "ticket_closed": {"TICKET_STATS"},
    "member_verified": {"MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY"},
}
IDENTITY = "MEMBER_VERIFIED_IDENTITY"

serial = itertools.count(1)


class Plan(NamedTuple):
    """An event to come: its kind, where, whether a verification has a user, and whether it says when it happened."""

    kind: str
    guild: int
    who: bool
    when: bool


class Asked(NamedTuple):
    """What a stream is granted and asks for; `shard`: (index, count)."""

    granted: list[str]
    scopes: list[str]
    guilds: list[int]
    shard: tuple[int, int] | None
    batch: int

    def request(self) -> dict[str, Any]:
        """The fields of SubscribeRequest."""
        fields: dict[str, Any] = {
            "scopes": numbers(*self.scopes),
            "guild_ids": [str(guild) for guild in self.guilds],
            "max_batch_size": self.batch,
        }
        return fields | ({"shard": {"index": self.shard[0], "count": self.shard[1]}} if self.shard else {})

    def shows(self, sent: event_pb2.Event) -> event_pb2.Event | None:
        """The event as this stream must get it; None: not at all."""
        acting, guild = set(self.scopes or self.granted), int(sent.guild_id)
        outside = (self.guilds and guild not in self.guilds) or (
            self.shard is not None and (guild >> 22) % self.shard[1] != self.shard[0]
        )
        if outside or not DELIVERED_BY[sent.WhichOneof("payload") or ""] & acting:
            return None
        shown = event_pb2.Event.FromString(sent.SerializeToString())
        if IDENTITY not in acting:
            shown.member_verified.ClearField("user_id") if shown.HasField("member_verified") else None
        return shown


plans = st.lists(
    st.builds(Plan, st.sampled_from(sorted(DELIVERED_BY)), st.sampled_from(GUILDS), st.booleans(), st.booleans()),
    max_size=40,
)
shards = st.integers(1, 4).flatmap(lambda count: st.tuples(st.integers(0, count - 1), st.just(count)))


@st.composite
def asked_for(draw: st.DrawFn) -> Asked:
    """Some grants, and a narrowing within them."""
    granted = draw(st.lists(st.sampled_from(EVERY_SCOPE), min_size=1, unique=True))
    return Asked(
        granted,
        draw(st.lists(st.sampled_from(granted), unique=True)),
        draw(st.lists(st.sampled_from(GUILDS), max_size=3, unique=True)),
        draw(st.none() | shards),
        draw(st.sampled_from([0, 1, 2, 7])),
    )


def made(plan: Plan) -> event_pb2.Event:
    """An event whose every value occurs nowhere else."""
    number = next(serial)
    user = str(7 * 10**18 + number)
    payload: dict[str, Any] = {
        "ticket_created": {"creator_user_id": user},
        "transcript_created": {"creator_user_id": user},
        "drop_claimed": {"xp_amount": 6 * 10**18 + number, "unb_amount": 5 * 10**18 + number},
        "ticket_closed": {"message_count": 2 * 10**9 + number},
        "member_verified": {"user_id": user} if plan.who else {},
    }
    sent = event(f"event.{number:019d}", str(plan.guild), **{plan.kind: payload[plan.kind]})
    if plan.when:
        sent.occur_time.FromSeconds(10**9 + number)
    return sent


def values(sent: event_pb2.Event) -> set[bytes]:
    """The bytes of everything in an event that tells something, as they would stand on the wire."""
    payload = getattr(sent, sent.WhichOneof("payload") or "")
    inside = [value for _, value in payload.ListFields()] + [sent.id, sent.guild_id]
    return {value.encode() if isinstance(value, str) else varint(value) for value in inside}


class Ground(NamedTuple):
    """A hub whose time the test moves."""

    hub: RunningHub
    clock: FakeClock


@pytest.fixture(params=["as it is", "in small pages"])
async def ground(request: pytest.FixtureRequest, start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """A hub with its own sizes, and one so small that every event soon leaves window and cache for the log."""
    if request.param == "in small pages":
        monkeypatch.setattr(page_cache, "PAGE", 8)
        monkeypatch.setattr(chunks.CachedEvent, "size", 5_000)
    clock = FakeClock()
    return Ground(await start_hub(clock, window_bytes=65_536, page_cache_bytes=65_536, max_streams=10), clock)


def told(sent: list[event_pb2.Event], times: list[Any]) -> list[event_pb2.Event]:
    """The events with what the hub adds to them: the accept time, and, by default, the time of happening."""
    for one, time in zip(sent, times, strict=True):
        one.accept_time.CopyFrom(time)
        if not one.HasField("occur_time"):
            one.occur_time.CopyFrom(time)
    return sent


def judge(stream: RawStream, wanted: list[event_pb2.Event], sent: list[event_pb2.Event]) -> None:
    """Hold what a stream brought against what it must bring, and its bytes against all that it must not hold."""
    assert stream.events == wanted
    allowed = {value for one in wanted for value in values(one)}
    withheld = {value for one in sent for value in values(one)} - allowed
    assert not [value for raw in stream.raw for value in withheld if value in raw]


async def open_and_settle(ground: Ground, who: Caller, holder: str, **request: Any) -> RawStream:  # noqa: ANN401  its fields
    """A stream, read until it is caught up, and closed."""
    stream = RawStream(who, holder, **request)
    await stream.ready()
    await settle(ground.hub, ground.clock, [stream])
    stream.close()
    return stream


@settings(
    max_examples=30,
    deadline=None,  # real I/O
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],  # one log for all: each has its own grants
)
@given(want=asked_for(), before=plans, after=plans, cut=st.integers(0, 200))
async def test_a_stream_delivers_exactly_its_view(
    ground: Ground, want: Asked, before: list[Plan], after: list[Plan], cut: int
) -> None:
    """Random grants, narrowing and events: live, from the beginning and from any cursor, the result is the same."""
    integration, who = await ground.hub.register(*want.granted)
    holder = integration.integration_id
    first, second = [made(plan) for plan in before], [made(plan) for plan in after]
    times = [result.accept_time for result in await emit_all(ground.hub, first)]
    live = RawStream(who, holder, latest={}, **want.request())
    await live.ready()
    times += [result.accept_time for result in await emit_all(ground.hub, second)]
    await settle(ground.hub, ground.clock, [live])
    live.close()

    sent = told(first + second, times)
    wanted = [shown for one in sent if (shown := want.shows(one)) is not None]
    judge(live, [one for one in wanted if one.id in {later.id for later in second}], sent)
    replay = await open_and_settle(ground, who, holder, **want.request())
    judge(replay, wanted, sent)
    cut %= len(replay.frames)
    resumed = await open_and_settle(ground, who, holder, cursor=replay.frames[cut].cursor, **want.request())
    seen = sum(len(frame.events) for frame in replay.frames[: cut + 1])
    judge(resumed, wanted[seen:], sent)


@settings(
    max_examples=20,
    deadline=None,  # real I/O
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],  # one log for all: each has its own grants
)
@given(steps=st.lists(st.tuples(st.lists(st.sampled_from(EVERY_SCOPE), unique=True), plans), min_size=1, max_size=4))
async def test_a_replay_shows_only_what_every_later_grant_still_covers(
    ground: Ground, steps: list[tuple[list[str], list[Plan]]]
) -> None:
    """Scopes change again and again between events: each replayed event has what all later sets still had."""
    integration, who = await ground.hub.register("TICKET_CREATED")
    holder = integration.integration_id
    sent: list[tuple[event_pb2.Event, int]] = []
    for number, (scopes, step) in enumerate(steps):
        request = admin_service_pb2.SetScopesRequest(integration_id=holder, scopes=scope_requests(*scopes))
        await ground.hub.admin.call("AdminService/SetScopes", request)
        events = [made(plan) for plan in step]
        times = [result.accept_time for result in await emit_all(ground.hub, events)]
        sent += [(one, number) for one in told(events, times)]
    wanted = []
    for one, number in sent:
        lasting = set.intersection(*(set(scopes) for scopes, _ in steps[number:]))
        shown = Asked(sorted(lasting), [], [], None, 0).shows(one)
        wanted += [shown] if shown is not None else []
    replay = await open_and_settle(ground, who, holder)
    judge(replay, wanted, [one for one, _ in sent])
