"""Who was sent an event: only the spans around it are looked at, and a search rests in between."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub import permissions as table
from hub.api import convert
from hub.delivery.view import Narrowing, Projection
from hub.model import Entry
from hub.privacy import disclosures
from hub.privacy.disclosures import Recipients, Way
from hub.privacy_model import Channel, DisclosureRecord
from hub.subjects import Subject, SubjectKind
from tests.support.calls import ask
from tests.support.events import ticket
from tests.support.hubs import RunningHub, emit_all
from tests.support.privacy import USER, by, done, erase_user

SUBJECT = Subject(SubjectKind.GUILD, 51)
WAYS: list[Way] = [("one", Channel.STREAM), ("one", Channel.WEBHOOK), ("two", Channel.STREAM)]
Drawn = tuple[Way, int, int, frozenset[int]]
drawn_spans = st.lists(
    st.tuples(
        st.sampled_from(WAYS),
        st.integers(0, 30),
        st.integers(0, 12),
        st.frozensets(st.sampled_from(sorted(table.SCOPES)), max_size=4),
    ),
    max_size=25,
)


def at(position: int) -> Entry:
    """An event about the guild at a position."""
    return convert.event_entry(ticket(f"t{position}", "51"), 1_000 + position, position=position)


def found(drawn: list[Drawn], positions: list[int]) -> dict[str, tuple[DisclosureRecord, ...]]:
    """What a search finds."""
    spans = [
        disclosures._Span(number, way, after, after + length, Projection(scopes, Narrowing(), None, ""), {})
        for number, (way, after, length, scopes) in enumerate(drawn)
    ]
    recipients = Recipients(spans)
    for position in positions:
        recipients.add(at(position), SUBJECT)
    return recipients.disclosures()


@given(drawn=drawn_spans, positions=st.lists(st.integers(1, 45), unique=True, max_size=12).map(sorted))
def test_a_search_finds_what_a_look_at_every_span_finds(drawn: list[Drawn], positions: list[int]) -> None:
    """Event by event and span by span: a way counts an event once, if one of its spans has the event and shows it."""
    expected: dict[Way, list[int]] = {}
    for position in positions:
        for way in WAYS:
            around = [one for one in drawn if one[0] == way and one[1] < position <= one[1] + one[2]]
            if any(found([(way, position - 1, 1, scopes)], [position]) for _, _, _, scopes in around):
                expected.setdefault(way, []).append(at(position).time)
    seen = {
        (integration_id, record.by): (record.events, record.first_time, record.last_time)
        for integration_id, records in found(drawn, positions).items()
        for record in records
    }
    assert seen == {way: (len(times), times[0], times[-1]) for way, times in expected.items()}


@pytest.mark.parametrize("search", ["ListDisclosures", "EraseUser"])
async def test_other_tasks_run_between_the_events_of_a_search(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch, search: str
) -> None:
    """Once they take long: with thousands of subscriptions each takes a millisecond."""
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    many = 60
    await emit_all(hub, [by(USER, f"e{number}") for number in range(many)])
    await stream.events(many)
    added = most = 0
    add = Recipients.add

    def next_turn() -> None:
        nonlocal added
        added = 0

    def counted(recipients: Recipients, entry: Entry, subject: Subject) -> None:
        nonlocal added, most
        if not added:
            asyncio.get_running_loop().call_soon(next_turn)
        added += 1
        most = max(most, added)
        add(recipients, entry, subject)

    monkeypatch.setattr("hub.slices.STEP", 0.0)
    monkeypatch.setattr(Recipients, "add", counted)
    if search == "EraseUser":
        [notice] = (await done(hub.admin, (await erase_user(hub)).erasure_id)).notices
        told = notice.integration_id
    else:
        [one] = (await ask(hub.bot, "PrivacyService/ListDisclosures", user_id=USER, acting_user_id=USER)).disclosures
        told = one.integration_id
    assert told == integration.integration_id
    assert most == 1
