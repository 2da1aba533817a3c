"""The intervals that say what a subscription was sent: few of them, and no position left out."""

import random

import pytest

from hub.control import sent
from hub.control.sent import SentSpan, extended, intervals_of
from hub.privacy_model import SentView

MOST = 6


def view(number: int) -> SentView:
    """A view that differs from the others."""
    return SentView(scopes=(number,))


def covered(spans: list[SentSpan]) -> set[tuple[int, SentView]]:
    """The positions of spans, each with its view."""
    return {(position, seen) for after, through, seen in spans for position in range(after + 1, through + 1)}


@pytest.mark.parametrize("seed", range(200))
def test_no_position_is_left_out(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many spans come, in whatever order: all of each view are in, in few intervals, in order."""
    monkeypatch.setattr(sent, "MAX_INTERVALS", MOST)
    chance = random.Random(seed)  # noqa: S311  spans, not secrets
    spans: list[SentSpan] = []
    record = None
    for _ in range(30):
        after = chance.randrange(100)
        spans.append((after, after + chance.randrange(1, 5), view(chance.randrange(3))))
        record = extended(record, spans[-1:], 1)
        found = intervals_of(record)
        assert len(found) <= MOST
        assert covered(found) >= covered(spans)
        assert found == sorted(found, key=lambda one: one[:2])


def test_the_closest_intervals_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not sent counts as sent in the smallest gaps only, and never between two views."""
    monkeypatch.setattr(sent, "MAX_INTERVALS", 3)
    one, other = view(1), view(2)
    spans = [(0, 10, one), (12, 20, one), (15, 16, other), (30, 40, one), (41, 50, one), (17, 18, other)]
    assert intervals_of(extended(None, spans, 1)) == [(0, 20, one), (15, 18, other), (30, 50, one)]


def test_the_oldest_intervals_are_dropped_when_none_can_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more views than intervals the newest stay."""
    monkeypatch.setattr(sent, "MAX_INTERVALS", 2)
    spans = [(number, number + 1, view(number)) for number in (30, 10, 20)]
    assert intervals_of(extended(None, spans, 1)) == [(20, 21, view(20)), (30, 31, view(30))]


def test_trimmed_positions_are_dropped() -> None:
    """Retention has removed those events."""
    spans = [(0, 10, view(1)), (10, 20, view(2))]
    assert intervals_of(extended(None, spans, 11)) == [(10, 20, view(2))]
