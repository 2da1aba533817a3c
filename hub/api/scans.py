"""Walks long lists in slices, so that other calls run in between; each key has a budget for it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

from hub.api.access import caller
from hub.clock import Clock
from hub.config import Settings
from hub.control.token_buckets import TokenBuckets
from hub.errors import TooManySearches

SLICE = 200
"""Records of one slice: some tenths of a millisecond."""

PERIOD = 10.0
"""Seconds within which an empty budget fills."""

Item = TypeVar("Item")
Place = TypeVar("Place")


class Scans:
    """Walks lists for callers."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._most = settings.max_scanned
        self._budgets = TokenBuckets(self._most, PERIOD, clock)

    async def walk(
        self,
        following: Callable[[Place | None, int], Sequence[Item]],
        place: Callable[[Item], Place],
        after: Place | None,
        test: Callable[[Item], bool] = lambda _: True,
    ) -> AsyncGenerator[Item, None]:
        """The items of a list that pass a test, in order, after a place; the list may change meanwhile.

        Args:
            following: returns a slice of the items after a place (None = from the beginning).
            place: returns the place of an item.
            after: where to begin.
            test: whether an item is wanted.

        Raises:
            TooManySearches: the caller's key has used up its budget.
        """
        while True:
            items = following(after, SLICE)
            self.charge(max(1, len(items)))
            for item in items:
                if test(item):
                    yield item
            if len(items) < SLICE:
                return
            after = place(items[-1])
            await asyncio.sleep(0)

    def charge(self, records: int) -> None:
        """Charge records to the budget of the caller's key.

        Raises:
            TooManySearches: the caller's key has used up its budget.
        """
        wait = self._budgets.take(caller().key_id, min(records, self._most))
        if wait:
            raise TooManySearches(
                f"searches and reports with this key have read {self._most} records in {PERIOD:.0f} s: try again later",
                metadata={"limit": str(self._most)},
                retry_after=wait,
            )
