"""Views, lenses, pieces and the interest index, each against the plainest way of saying the same."""

from collections.abc import Iterable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tickets.hub.v1 import event_pb2, event_service_pb2

from hub.delivery.frames import Item, Page
from hub.delivery.interest import InterestIndex
from hub.delivery.views import Lens, Narrowing, Shape, View, piece
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
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure


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
def test_a_piece_is_the_event_without_what_is_withheld(event: event_pb2.Event, time: int, *, withhold: bool) -> None:
    """A piece reads as a frame with the event in it, as put together field by field, with both of its times."""
    kind = event.WhichOneof("payload")
    number = next(number for number, name in TYPES.items() if name == kind)
    withheld = frozenset({"user_id"} if withhold and kind == "member_verified" else ())
    made = piece(stored(number, 1, 1, event.SerializeToString(deterministic=True), time), Shape(number, withheld))
    if withheld:
        event.member_verified.ClearField("user_id")
    event.accept_time.FromMicroseconds(time)
    if not event.HasField("occur_time"):
        event.occur_time.FromMicroseconds(time)
    assert event_service_pb2.SubscribeResponse.FromString(made) == event_service_pb2.SubscribeResponse(events=[event])


@unhurried
@given(grants=st.lists(st.tuples(st.sampled_from(SCOPES), st.integers(1, 12)), unique_by=lambda grant: grant[0]))
def test_looking_step_by_step_shows_what_each_grant_covers(grants: list[tuple[int, int]]) -> None:
    """Going from lens to lens, each position is seen by the scopes whose grants stand before it, and no others."""
    view = View(record("ada", grants), {})
    everything = Narrowing()
    after = 0
    while after < 15:
        look = view.look(after, everything)
        assert look.until > after
        assert look.final.scopes == {scope for scope, _ in grants}
        through = int(min(look.until, 15))
        for position in range(after + 1, through + 1):
            assert look.lens.scopes == {scope for scope, since in grants if since < position}
        after = through


@st.composite
def lenses(draw: st.DrawFn) -> Lens:
    """Any lens, some of an integration that guilds must install."""
    holder = draw(st.sampled_from(["", *HOLDERS]))
    return Lens(draw(some_scopes), draw(narrowings), draw(agreements) if holder else None, holder)


def record(holder: str, grants: list[tuple[int, int]], access: GuildAccess = GuildAccess.ALL) -> IntegrationRecord:
    """An integration with grants: (scope, position)."""
    granted = tuple(GrantRecord(scope, "", 0, "", position) for scope, position in grants)
    return IntegrationRecord(holder, "", "", "1", "", "", 0, 0, State.ACTIVE, guild_access=access, grants=granted)


def seen_by(lens: Lens, entry: Entry) -> bool:
    """Whether a lens shows an event, said plainly."""
    agreed = lens.scopes
    if lens.installed is not None:
        since = lens.installed.get(entry.guild_id, {})
        agreed = frozenset(scope for scope in agreed if scope in since and since[scope] < entry.position)
    wanted = {10: {1}, 11: {2}, 12: {3}, 13: {4, 6}, 14: {5}}[entry.event_type]
    in_shard = lens.shard is None or (entry.guild_id >> 22) % lens.shard[1] == lens.shard[0]
    return bool(wanted & agreed) and in_shard and (not lens.guilds or entry.guild_id in lens.guilds)


@unhurried
@given(
    some=st.lists(st.tuples(lenses(), st.integers(1, 3), st.booleans()), max_size=8),
    published=st.lists(st.tuples(st.sampled_from(sorted(TYPES)), guilds), max_size=12),
)
def test_the_index_finds_exactly_the_lenses_that_show_an_event(
    some: list[tuple[Lens, int, bool]], published: list[tuple[int, int]]
) -> None:
    """Whatever lenses are followed: an event reaches each that shows it, once; a lens that nobody follows gets none."""
    agreed_in = {lens.holder: lens.installed or {} for lens, _, _ in some if lens.holder}
    some = [  # an integration's installations are the same on each of its lenses
        (
            Lens(lens.scopes, Narrowing(frozenset(), lens.guilds, lens.shard), agreed_in[lens.holder], lens.holder),
            n,
            left,
        )
        if lens.holder
        else (lens, n, left)
        for lens, n, left in some
    ]

    def installed_in(guild: int) -> Iterable[str]:
        return [holder for holder, agreed in agreed_in.items() if guild in agreed]

    index = InterestIndex(installed_in)
    joined = [(index.join(lens, 0), left) for lens, followers, left in some for _ in range(followers)]
    for interest, left in joined:
        if left:
            index.leave(interest)
    followed = [lens for lens, _, left in some if not left]
    for position, (event_type, guild) in enumerate(published, start=1):
        entry = stored(event_type, guild, position)
        found = [interest.lens for interest in index.publish(Item(entry))]
        assert len(found) == len(set(found))
        assert set(found) == {lens for lens in followed if seen_by(lens, entry)}
    for interest, left in joined:
        if not left:
            assert [item.position for item in interest.matches.items] == [
                position
                for position, (event_type, guild) in enumerate(published, start=1)
                if seen_by(interest.lens, stored(event_type, guild, position))
            ]
            index.leave(interest)
    assert not index._by
    assert not index._interests
    assert not index._shard_counts


@unhurried
@given(
    lens=lenses(), several=st.lists(st.tuples(events(), guilds), min_size=1, max_size=10), most=st.integers(1, 2_000)
)
def test_a_frame_takes_what_fits_and_at_least_one(
    lens: Lens, several: list[tuple[event_pb2.Event, int]], most: int
) -> None:
    """Joined events stay below the size given, unless the first alone is larger; the rest is for the next frame."""
    numbers = {name: number for number, name in TYPES.items()}
    items = [
        Item(stored(numbers[event.WhichOneof("payload") or ""], guild, position, event.SerializeToString()))
        for position, (event, guild) in enumerate(several, start=1)
    ]
    shown = [item for item in items if seen_by(lens, item.entry)]
    excerpt = Page(items, len(items)).show(lens)
    assert excerpt.items == shown
    if not shown:
        return
    body = excerpt.join(0, len(shown), most)
    got = event_service_pb2.SubscribeResponse.FromString(body.data).events
    assert [event.id for event in got] == [
        event_pb2.Event.FromString(one.entry.body).id for one in shown[: body.events]
    ]
    assert body.events == len(got)
    assert body.last is shown[body.events - 1]
    assert body.events == 1 or len(body.data) <= most
    if body.events < len(shown):
        shape = lens.shape(shown[body.events].entry)
        assert shape is not None
        assert len(body.data) + len(shown[body.events].piece(shape)) > most


def test_an_integration_for_installed_guilds_has_lenses_of_its_own() -> None:
    """Two integrations with the same scopes share a lens, unless guilds have to install one of them."""
    access = {"ada": GuildAccess.ALL, "bob": GuildAccess.ALL, "cyd": GuildAccess.INSTALLED}
    views = [View(record(holder, [(1, 1)], whose), {}) for holder, whose in access.items()]
    first, second, third = (view.look(1, Narrowing()).lens for view in views)
    assert first is second
    assert first is not third
