"""Events that their emitter numbers: each number is stored once, also long after the dedupe window.

An emitter's number is stored in the same append as its events: after a crash either both are there or neither.
"""

from collections.abc import Mapping

from hub.clock import Clock
from hub.control.registry import Registry
from hub.delivery.feed import Feed
from hub.errors import Conflict, EmitterSequenceGap, StorageUnavailable
from hub.model import Appended, EmitterRecord, Entry
from hub.state import EMITTER
from hub.storage import Log

ATTEMPTS = 10
"""Attempts of a batch if other calls of its emitter keep being faster."""

AT_ONCE = 800
"""The most events in one append, which also needs room for entries about emitters."""


class NumberedAppends:
    """Stores batches of numbered events."""

    def __init__(self, feed: Feed, log: Log, registry: Registry, clock: Clock) -> None:
        self._feed = feed
        self._log = log
        self._registry = registry
        self._clock = clock

    async def append(
        self, emitter_id: str, first: int, count: int, entries: Mapping[int, Entry]
    ) -> dict[int, Appended | None]:
        """Store those events of a batch that the hub does not have yet.

        Args:
            emitter_id: whose numbers they are.
            first: the number of the first event of the batch.
            count: how many events the batch has, refused ones too.
            entries: those to store, by their places in the batch.

        Returns:
            The outcome of each entry, by its place; None: the hub already has that number.

        Raises:
            EmitterSequenceGap: numbers before the batch are missing.
            StorageUnavailable: other calls of this emitter were faster each time.
            What `Feed.append` raises. Some of the batch may be stored then; sent again, it is not stored twice.
        """
        results: dict[int, Appended | None] = {}
        tombstone = lost = 0
        while lost < ATTEMPTS:
            last = self._registry.usage.emitters.last(emitter_id)
            if first > last + 1:
                raise EmitterSequenceGap(emitter_id, last + 1)
            start = last + 1 - first
            stop = min(start + AT_ONCE, count)
            if start >= count:
                return {index: results.get(index) for index in entries}
            expected = self._registry.usage.emitters.position(emitter_id) or tombstone
            try:
                results |= await self._append(emitter_id, first + stop - 1, expected, _between(entries, start, stop))
            except Conflict as conflict:
                lost += 1
                if conflict.key == EMITTER.key(emitter_id):
                    tombstone = conflict.position  # the log may still hold the tombstone of a forgotten emitter
                await self._registry.wait_applied((await self._log.bounds()).last)
        raise StorageUnavailable

    async def _append(
        self, emitter_id: str, through: int, expected: int, entries: Mapping[int, Entry]
    ) -> dict[int, Appended]:
        """Store entries together with the emitter's new number; both are applied when it returns."""
        now, key, emitters = self._clock.now(), EMITTER.key(emitter_id), self._registry.usage.emitters
        silent = {EMITTER.key(name): emitters.position(name) for name in emitters.to_forget(emitter_id)}
        forgotten = [EMITTER.entry(name, now, None) for name in silent]
        state = EMITTER.entry(key, now, EmitterRecord(through, now))
        expect = {key: expected, **silent}  # if one of them sends meanwhile, this conflicts and is decided again
        appended = await self._feed.append([*entries.values(), *forgotten, state], expect, independent=True)
        await self._registry.wait_applied(appended[-1].position)
        return dict(zip(entries, appended, strict=False))  # the emitters are behind the events


def _between(entries: Mapping[int, Entry], start: int, stop: int) -> dict[int, Entry]:
    return {index: entry for index, entry in entries.items() if start <= index < stop}
