"""A snapshot of the directory: collected on the event loop in slices, sorted in a thread."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from typing import NamedTuple

from hub.clock import Clock
from hub.control.registry import Registry
from hub.http.directory.pace import paced
from hub.model import IntegrationRecord
from hub.slices import one_by_one, slices
from hub.text import fold

AT_ONCE = 50
"""Integrations that are looked at, or sorted, before others have a turn: some tenths of a millisecond."""

MIN_AGE = 1.0
"""Seconds for which a snapshot is used even if something changes: many installations may follow each other."""


class Listed(NamedTuple):
    """An integration that everybody may see.

    Attributes:
        position: of the newest entry of its record; never shown.
        guild_count: how many guilds have installed it.
        text: name and description, folded for searches.
    """

    record: IntegrationRecord
    position: int
    guild_count: int
    text: str

    @property
    def place(self) -> tuple[int, str, str]:
        """The sort key: the most installed first, then by name."""
        return -self.guild_count, self.text, self.record.integration_id


class Snapshot(NamedTuple):
    """The listed integrations, in order, and by their ids."""

    position: int
    listed: Sequence[Listed]
    by_id: dict[str, Listed]

    def found(self, words: Sequence[str], scope: int) -> list[Listed]:
        """The integrations with all of some folded words in their texts and (scope > 0) with a scope. For a thread."""
        return [one for one in paced(self.listed) if _has_scope(one, scope) and all(word in one.text for word in words)]


class Snapshots:
    """Makes a snapshot on request, if something has changed."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._newest = Snapshot(-1, (), {})
        self._made = 0.0
        self._making = asyncio.Lock()

    async def newest(self) -> Snapshot:
        """The current snapshot; at most `MIN_AGE` old."""
        async with self._making:
            is_young = self._newest.position >= 0 and self._clock.monotonic() < self._made + MIN_AGE
            if not is_young and self._newest.position != self._registry.catalog.change_position:
                self._made = self._clock.monotonic()
                self._newest = await self._make()
            return self._newest

    async def _make(self) -> Snapshot:
        registry = self._registry
        position = registry.catalog.change_position
        records = list(registry.integrations.values())
        listed = [
            Listed(
                one.record,
                one.position,
                registry.installations.count(one.record.integration_id),
                registry.catalog.search_texts.of(one.record),
            )
            async for one in one_by_one(records, AT_ONCE)
            if registry.is_listed(one.record)
        ]
        return await asyncio.to_thread(_snapshot, position, listed)


def _snapshot(position: int, listed: Sequence[Listed]) -> Snapshot:
    """For a thread."""
    return Snapshot(position, ordered(listed), {one.record.integration_id: one for one in paced(listed)})


def ordered(listed: Sequence[Listed]) -> list[Listed]:
    """In the order of their places. For a thread: short runs are sorted, then merged with pauses in between."""
    runs = [sorted(run, key=_place) for run in paced(_runs(listed))]
    return list(paced(merge(*runs, key=_place)))


def words_of(query: str) -> list[str]:
    """The words of a query, as the texts are folded."""
    return fold(query).split()


def _place(one: Listed) -> tuple[int, str, str]:
    return one.place


def _runs(listed: Sequence[Listed]) -> Iterator[Iterable[Listed]]:
    return slices(listed, AT_ONCE)


def _has_scope(one: Listed, scope: int) -> bool:
    return not scope or any(grant.scope == scope for grant in one.record.grants)
