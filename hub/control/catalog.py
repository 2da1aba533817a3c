"""Indexes over the integrations: by age, by id, by owner, and their texts for searches."""

from bisect import bisect_right, insort

from hub.control.search import SearchTexts
from hub.model import IntegrationRecord


class Catalog:
    """Indexes over the integrations, as of the last entry applied.

    Attributes:
        change_position: the newest entry that may have changed the public directory; set by the registry.
    """

    def __init__(self) -> None:
        self.change_position = 0
        self.search_texts = SearchTexts()
        self._by_age: list[tuple[int, str]] = []
        self._by_id: list[str] = []
        self._owned: dict[str, set[str]] = {}

    def update(self, before: IntegrationRecord | None, after: IntegrationRecord) -> None:
        """Apply the newest record of an integration; `before`: the previous one."""
        if before is None:
            insort(self._by_age, (after.create_time, after.integration_id))
            insort(self._by_id, after.integration_id)
        elif before.owner_user_id != after.owner_user_id:
            self._owned[before.owner_user_id].discard(after.integration_id)
        self._owned.setdefault(after.owner_user_id, set()).add(after.integration_id)

    def by_age_after(self, place: tuple[int, str] | None, limit: int) -> list[str]:
        """Up to `limit` ids, the oldest first, after a place (creation time and id; None: from the oldest)."""
        start = bisect_right(self._by_age, place) if place else 0
        return [integration_id for _, integration_id in self._by_age[start : start + limit]]

    def ids_after(self, integration_id: str | None, limit: int) -> list[str]:
        """Up to `limit` ids, in order, after one of them (None: from the first)."""
        start = bisect_right(self._by_id, integration_id) if integration_id else 0
        return self._by_id[start : start + limit]

    def owned_by(self, user_id: str) -> list[str]:
        """The ids of the integrations that a Discord user owns, in order."""
        return sorted(self._owned.get(user_id, ()))
