"""The fast path of validation agrees with protovalidate, and covers what bots send."""

from collections.abc import Sequence
from typing import Any

import protovalidate
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tickets.hub.v1 import admin_service_pb2, directory_service_pb2, event_pb2, event_service_pb2

from hub.api import rules, validation
from hub.errors import InvalidRequest

VALID = [
    {"ticket_created": {"creator_user_id": "80351110224678912"}},
    {"transcript_created": {"creator_user_id": "1"}},
    {"drop_claimed": {"xp_amount": 5, "unb_amount": 0}},
    {"member_verified": {}},
    {"member_verified": {"user_id": "9223372036854775807"}},
    {"ticket_closed": {"message_count": 2**31 - 1}},
]
EDGES = [
    "",
    "0",
    "01",
    "1",
    "1\n",
    "\n1",
    "\uff11",
    "1 ",
    "-1",
    "1" * 19,
    "9" * 19,
    "1" * 20,
    "é",
    "a" * 64,
    "a" * 65,
    "a b",
]
EDGES += [str(2**63 + step) for step in (-2, -1, 0, 1)]

texts = st.sampled_from(EDGES) | st.from_regex(r"[1-9][0-9]{0,19}", fullmatch=True) | st.text(max_size=70)
longs, shorts = st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)
payloads = st.one_of(
    st.fixed_dictionaries({"ticket_created": st.fixed_dictionaries({}, optional={"creator_user_id": texts})}),
    st.fixed_dictionaries({"transcript_created": st.fixed_dictionaries({}, optional={"creator_user_id": texts})}),
    st.fixed_dictionaries(
        {"drop_claimed": st.fixed_dictionaries({}, optional={"xp_amount": longs, "unb_amount": longs})}
    ),
    st.fixed_dictionaries({"member_verified": st.fixed_dictionaries({}, optional={"user_id": texts})}),
    st.fixed_dictionaries({"ticket_closed": st.fixed_dictionaries({}, optional={"message_count": shorts})}),
    st.just({}),
)


@st.composite
def events(draw: st.DrawFn) -> event_pb2.Event:
    """Events of which about every other one is wrong somewhere."""
    fields: dict[str, Any] = dict(draw(st.one_of(st.sampled_from(VALID), payloads)))
    fields |= draw(st.fixed_dictionaries({}, optional={"id": texts}))
    return event_pb2.Event(guild_id=draw(st.just("700000000000000000") | texts), **fields)


requests = st.one_of(
    st.builds(event_service_pb2.EmitEventRequest, event=st.none() | events()),
    st.builds(event_service_pb2.BatchEmitEventsRequest, events=st.lists(events(), max_size=3)),
    st.builds(admin_service_pb2.GetIntegrationRequest, integration_id=texts),
    st.builds(directory_service_pb2.GetDirectoryEntryRequest, integration_id=texts),
)


class Listening:
    """The library, and what it was asked about."""

    def __init__(self) -> None:
        self.asked: list[Message] = []

    def collect_violations(self, request: Message) -> Sequence[protovalidate.Violation]:
        """As the library does."""
        self.asked.append(request)
        return protovalidate.collect_violations(request)


@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(request=requests)
def test_the_fast_path_and_the_library_agree(request: Message) -> None:
    """Where every rule of a message is supported, it passes exactly the messages without a violation."""
    assert rules.is_plainly_valid(request) == (not protovalidate.collect_violations(request))


@pytest.mark.parametrize("payload", VALID)
def test_valid_events_take_the_fast_path(payload: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A valid event never reaches protovalidate; an invalid one does, and protovalidate says why."""
    library = Listening()
    monkeypatch.setattr(validation, "_validator", library)
    event = event_pb2.Event(id="a-1", guild_id="700000000000000000", **payload)
    validation.check(event_service_pb2.EmitEventRequest(event=event))
    validation.check(event_service_pb2.BatchEmitEventsRequest(events=[event] * 2))
    assert not library.asked
    event.guild_id = "07"
    with pytest.raises(InvalidRequest, match=r"event\.guild_id: must be a Discord id"):
        validation.check(event_service_pb2.EmitEventRequest(event=event))
    assert len(library.asked) == 1


def test_a_message_with_an_unsupported_rule_goes_to_protovalidate() -> None:
    """The fast path never passes it."""
    request = event_service_pb2.SubscribeRequest()
    assert not protovalidate.collect_violations(request)
    assert not rules.is_plainly_valid(request)


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "!rule || this.isUri()",
            r"!rule || this.matches('^\\S$')",
            "!rule || this.matches('a')",
            "this.matches('^a$')",
        ),
        *("!rule || this.matches('^a$') && size(this) < 9", "!rule || this.matches('^a*$')", "rule"),
    ],
)
def test_other_rules_and_ambiguous_patterns_are_left_to_protovalidate(expression: str) -> None:
    """Ambiguous: anything that RE2 and Python could read in two ways."""
    with pytest.raises(rules._UnsupportedError):
        rules._pattern(expression)
