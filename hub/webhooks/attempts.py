"""The newest requests of an endpoint, for its developer."""

from collections import deque
from typing import NamedTuple

from hub.webhooks.bodies import Body
from hub.webhooks.schedule import Outcome

KEPT = 50


class Attempt(NamedTuple):
    """One request; times in microseconds, 0 = none is due."""

    time: int
    body: Body
    outcome: Outcome
    next_time: int


class Attempts:
    """The last requests, the newest first."""

    def __init__(self) -> None:
        self._newest: deque[Attempt] = deque(maxlen=KEPT)

    def add(self, time: int, body: Body, outcome: Outcome, next_time: int) -> None:
        """Record a request that has ended, without the bytes of its body and answer."""
        shown = body._replace(content=b"", data=b"")
        self._newest.appendleft(Attempt(time, shown, outcome._replace(answer=b""), next_time))

    def forget_events(self) -> None:
        """Drop the ids of events: some may be erased. The next attempt has an id again."""
        shown = (one._replace(body=one.body._replace(first_event_id="")) for one in self._newest)
        self._newest = deque(shown, maxlen=KEPT)

    def all(self) -> list[Attempt]:
        """All of them."""
        return list(self._newest)
