"""How many erasures an integration has confirmed: counts without names.

They are taken once an hour, so that a page does not reveal when a user asked for an erasure.
"""

from typing import NamedTuple

from hub.clock import Clock
from hub.control.registry import Registry

HOUR = 3_600 * 1_000_000
"""In microseconds."""


class Forgetting(NamedTuple):
    """The erasures of people whose events an integration received.

    Attributes:
        confirmed: how many it has confirmed.
        waiting: how many it has not confirmed and still may.
        late: how many it has not confirmed in time.
    """

    confirmed: int
    waiting: int
    late: int


class ForgettingCounts:
    """Counts for an integration at the first request, and keeps the counts until the hour ends."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._hour = -1
        self._counts: dict[str, Forgetting] = {}

    def of(self, integration_id: str) -> Forgetting:
        """The counts of an integration, as of this hour."""
        hour = self._clock.now() // HOUR
        if hour != self._hour:
            self._hour, self._counts = hour, {}
        if integration_id not in self._counts:
            self._counts[integration_id] = self._counted(integration_id)
        return self._counts[integration_id]

    def _counted(self, integration_id: str) -> Forgetting:
        erasures = self._registry.hidden.erasures
        late = len(erasures.late(integration_id, self._clock.now()))
        unconfirmed = len(erasures.notices.unconfirmed(integration_id))
        return Forgetting(erasures.notices.confirmed[integration_id], unconfirmed - late, late)
