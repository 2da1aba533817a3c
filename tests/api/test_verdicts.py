"""The validation verdicts of some ten thousand requests: the corpus in ``tests/data/verdicts.json``."""

import pytest
from tickets.hub.v1 import event_pb2, event_service_pb2

from hub.api.validation import check_apart
from tests.support.verdicts import REQUESTS, verdict, verdicts, written

CORPUS = written()


def test_every_request_type_is_in_the_corpus() -> None:
    """`python -m tests.support.verdicts` adds the request of a new method."""
    assert CORPUS.keys() == REQUESTS.keys()


@pytest.mark.parametrize("name", CORPUS)
def test_validation_verdicts_have_not_changed(name: str) -> None:
    """The same requests are refused, for the same fields, with the same texts."""
    now = verdicts(REQUESTS[name])
    for path, before in CORPUS[name].items():
        assert {said: sorted(values) for said, values in now[path].items()} == {
            said: sorted(values) for said, values in before.items()
        }, path


@pytest.mark.parametrize("name", CORPUS)
def test_every_base_sample_is_valid(name: str) -> None:
    """Each tried request differs from it in one field, so each verdict is about that field."""
    assert CORPUS[name][""] == {"{}": ["sample"]}


def test_events_of_a_batch_get_the_same_verdicts_as_single_events() -> None:
    """The texts are those of a single event, under the index of the event."""
    event = event_pb2.Event(guild_id="1", member_verified=event_pb2.MemberVerified(user_id="1"))
    batch = event_service_pb2.BatchEmitEventsRequest(events=[event] * 3)
    batch.events[1].guild_id = "01"
    batch.events[2].ClearField("payload")
    alone = [verdict(event_service_pb2.EmitEventRequest(event=event)) for event in batch.events]
    found = check_apart(batch, "events")
    assert list(found) == [1, 2]
    for index, refusal in found.items():
        said = {one.field.removeprefix(f"events[{index}]"): one.description for one in refusal.violations}
        assert said == {field.removeprefix("event"): text for field, text in alone[index].items()}
