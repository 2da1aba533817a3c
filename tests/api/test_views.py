"""Views, projections, encodings and the fan-out index, each against a naive implementation."""

from collections.abc import Iterable

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tickets.hub.v1 import event_pb2, event_service_pb2

from hub.delivery.chunks import CachedEvent
from hub.delivery.encoding import encode
from hub.delivery.fanout import FanoutIndex
from hub.delivery.page_cache import CachedPage
from hub.delivery.view import FieldMask, Narrowing, Projection, View
from hub.model import Entry, GrantRecord, GuildAccess, IntegrationRecord, Kind, State

GUILDS = [step << 22 for step in range(1, 5)]
TYPES = {10: "ticket_created", 11: "transcript_created", 12: "drop_claimed", 13: "member_verified", 14: "ticket_closed"}
SCOPES = range(1, 7)
HOLDERS = ["ada", "bob"]

event_ids = st.text("aZ09._:-", min_size=1, max_size=64)
snowflakes = st.integers(1, 2**63 - 1).map(str)
times = st.integers(1, 4 * 10**15)  # microseconds: up to the year 2096
guilds = st.sampled_from(GUILDS)
some_scopes = st.frozensets(st.sampled_from(SCOPES))
shards = st.integers(1, 4).flatmap(lambda count: st.tuples(st.integers(0, count - 1), st.just(count)))
narrowings = st.builds(Narrowing, st.just(frozenset()), st.frozensets(guilds, max_size=2), st.none() | shards)
agreements = st.dictionaries(guilds, st.dictionaries(st.sampled_from(SCOPES), st.integers(0, 5)), max_size=3)
unhurried = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)  # a busy machine is no failure


@st.composite
def events(draw: st.DrawFn) -> event_pb2.Event:
    """An event as it is stored: each field there or not."""
    event = event_pb2.Event(id=draw(event_ids), guild_id=draw(snowflakes))
    if draw(st.booleans()):
        event.occur_time.seconds = draw(st.integers(0, 253_402_300_799))
        event.occur_time.nanos = draw(st.integers(0, 999_999_999))
    kind = draw(st.sampled_from(sorted(TYPES.values())))
    payload = getattr(event, kind)
    payload.SetInParent()
    if kind == "drop_claimed":
        payload.xp_amount, payload.unb_amount = draw(st.integers(0, 2**63 - 1)), draw(st.integers(0, 2**63 - 1))
    elif kind == "ticket_closed":
        payload.message_count = draw(st.integers(0, 2**31 - 1))
    elif kind == "member_verified":
        if draw(st.booleans()):
            payload.user_id = draw(snowflakes)
    else:
        payload.creator_user_id = draw(snowflakes)
    return event


def stored(event_type: int, guild: int, position: int, body: bytes = b"", time: int = 1) -> Entry:
    """An event in the log."""
    return Entry(Kind.EVENT, time, body, event_type=event_type, guild_id=guild, position=position)


@unhurried
@given(event=events(), time=times, withhold=st.booleans())
def test_an_encoded_event_leaves_out_withheld_fields(event: event_pb2.Event, time: int, *, withhold: bool) -> None:
    """The bytes parse as a frame with the expected event, with both of its times."""
    kind = event.WhichOneof("payload")
    number = next(number for number, name in TYPES.items() if name == kind)
    withheld = frozenset({"user_id"} if withhold and kind == "member_verified" else ())
    made = encode(stored(number, 1, 1, event.SerializeToString(deterministic=True), time), FieldMask(number, withheld))
    if withheld:
        event.member_verified.ClearField("user_id")
    event.accept_time.FromMicroseconds(time)
    if not event.HasField("occur_time"):
        event.occur_time.FromMicroseconds(time)
    assert event_service_pb2.SubscribeResponse.FromString(made) == event_service_pb2.SubscribeResponse(events=[event])


@unhurried
@given(grants=st.lists(st.tuples(st.sampled_from(SCOPES), st.integers(1, 12)), unique_by=lambda grant: grant[0]))
def test_each_position_is_seen_by_the_grants_before_it(grants: list[tuple[int, int]]) -> None:
    """Each position is visible under the scopes granted before it, and under no others."""
    view = View(record("ada", grants), {})
    everything = Narrowing()
    after = 0
    while after < 15:
        span = view.at(after, everything)
        assert span.until > after
        assert span.final.scopes == {scope for scope, _ in grants}
        through = int(min(span.until, 15))
        for position in range(after + 1, through + 1):
            assert span.projection.scopes == {scope for scope, since in grants if since < position}
        after = through


@st.composite
def projections(draw: st.DrawFn) -> Projection:
    """Any projection, some of an integration that guilds must install."""
    holder = draw(st.sampled_from(["", *HOLDERS]))
    return Projection(draw(some_scopes), draw(narrowings), draw(agreements) if holder else None, holder)


def record(holder: str, grants: list[tuple[int, int]], access: GuildAccess = GuildAccess.ALL) -> IntegrationRecord:
    """An integration with grants: (scope, position)."""
    granted = tuple(GrantRecord(scope, "", 0, "", position) for scope, position in grants)
    return IntegrationRecord(holder, "", "", "1", "", "", 0, 0, State.ACTIVE, guild_access=access, grants=granted)


def seen_by(projection: Projection, entry: Entry) -> bool:
    """Whether a projection shows an event, said plainly."""
    agreed = projection.scopes
    if projection.installed is not None:
        since = projection.installed.get(entry.guild_id, {})
        agreed = frozenset(scope for scope in agreed if scope in since and since[scope] < entry.position)
    wanted = {10: {1}, 11: {2}, 12: {3}, 13: {4, 6}, 14: {5}}[entry.event_type]
    in_shard = projection.shard is None or (entry.guild_id >> 22) % projection.shard[1] == projection.shard[0]
    return bool(wanted & agreed) and in_shard and (not projection.guilds or entry.guild_id in projection.guilds)


@unhurried
@given(
    some=st.lists(st.tuples(projections(), st.integers(1, 3), st.booleans()), max_size=8),
    published=st.lists(st.tuples(st.sampled_from(sorted(TYPES)), guilds), max_size=12),
)
def test_the_fanout_index_finds_exactly_the_matching_projections(
    some: list[tuple[Projection, int, bool]], published: list[tuple[int, int]]
) -> None:
    """An event reaches each projection that shows it, once; a projection without streams gets none."""
    agreed_in = {
        projection.integration_id: projection.installed or {} for projection, _, _ in some if projection.integration_id
    }
    some = [  # an integration's installations are the same on each of its projections
        (
            Projection(
                projection.scopes,
                Narrowing(frozenset(), projection.guilds, projection.shard),
                agreed_in[projection.integration_id],
                projection.integration_id,
            ),
            n,
            left,
        )
        if projection.integration_id
        else (projection, n, left)
        for projection, n, left in some
    ]

    def installed_in(guild: int) -> Iterable[str]:
        return [holder for holder, agreed in agreed_in.items() if guild in agreed]

    index = FanoutIndex(installed_in)
    joined = [(index.join(projection, 0), left) for projection, followers, left in some for _ in range(followers)]
    for group, left in joined:
        if left:
            index.leave(group)
    followed = [projection for projection, _, left in some if not left]
    for position, (event_type, guild) in enumerate(published, start=1):
        entry = stored(event_type, guild, position)
        found = {group.projection for group in index.publish([CachedEvent(entry)])}
        assert found == {projection for projection in followed if seen_by(projection, entry)}
    for group, left in joined:
        if not left:
            assert [item.position for item in group.buffer.events] == [
                position
                for position, (event_type, guild) in enumerate(published, start=1)
                if seen_by(group.projection, stored(event_type, guild, position))
            ]
            index.leave(group)
    assert not index._by_key
    assert not index._groups
    assert not index._shard_counts


@unhurried
@given(
    projection=projections(),
    several=st.lists(st.tuples(events(), guilds), min_size=1, max_size=10),
    most=st.integers(1, 2_000),
)
def test_a_chunk_takes_as_many_events_as_fit_and_at_least_one(
    projection: Projection, several: list[tuple[event_pb2.Event, int]], most: int
) -> None:
    """Joined events stay below the given size, unless the first alone is larger."""
    numbers = {name: number for number, name in TYPES.items()}
    items = [
        CachedEvent(stored(numbers[event.WhichOneof("payload") or ""], guild, position, event.SerializeToString()))
        for position, (event, guild) in enumerate(several, start=1)
    ]
    shown = [item for item in items if seen_by(projection, item.entry)]
    matches = CachedPage(items, len(items)).project(projection)
    assert matches.events == shown
    assume(shown)
    chunk = matches.join(0, len(shown), most)
    got = event_service_pb2.SubscribeResponse.FromString(chunk.data).events
    assert [event.id for event in got] == [
        event_pb2.Event.FromString(one.entry.body).id for one in shown[: chunk.events]
    ]
    assert chunk.events == len(got)
    assert chunk.last is shown[chunk.events - 1]
    assert chunk.events == 1 or len(chunk.data) <= most
    if chunk.events < len(shown):
        mask = projection.mask(shown[chunk.events].entry)
        assert mask is not None
        assert len(chunk.data) + len(shown[chunk.events].encoded(mask)) > most


def test_integrations_that_need_installations_do_not_share_projections() -> None:
    """Two integrations with the same scopes share a projection, unless guilds have to install one of them."""
    access = {"ada": GuildAccess.ALL, "bob": GuildAccess.ALL, "cyd": GuildAccess.INSTALLED}
    views = [View(record(holder, [(1, 1)], whose), {}) for holder, whose in access.items()]
    first, second, third = (view.at(1, Narrowing()).projection for view in views)
    assert first is second
    assert first is not third
