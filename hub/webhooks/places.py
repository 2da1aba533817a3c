"""How far the endpoints are that this hub runs: kept in memory, stored once a second, all of them in one append.

A place is stored on the condition that no other hub has stored it, so a hub that was considered dead notices it.
"""

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from hub.clock import Clock
from hub.control.registry import Registry
from hub.endpoint_model import AttemptsRecord, EndpointRecord, PlaceRecord
from hub.errors import Conflict, HubError
from hub.model import Cursor, Entry
from hub.slices import STORED_AT_ONCE, slices
from hub.state import PLACE
from hub.storage import Log

NOTED_EVERY = 60.0
"""Seconds."""


class Places:
    """The places of endpoints.

    Attributes:
        hub_id: of this hub; names it in the places of the endpoints that it runs.
    """

    def __init__(self, log: Log, registry: Registry, clock: Clock, hub_id: str) -> None:
        self.hub_id = hub_id
        self._log = log
        self._registry = registry
        self._clock = clock
        self._held: dict[str, PlaceRecord] = {}
        self._unsaved: set[str] = set()
        self._noted: dict[str, float] = {}
        self._saving = asyncio.Lock()

    def of(self, record: EndpointRecord, name: str) -> PlaceRecord:
        """The newest place of an endpoint that is known here: its own, or the one where its generation starts."""
        held = self._held.get(name)
        if held is not None and held.generation == record.generation:
            return held
        return self._registry.endpoints.place(record)

    async def claim(self, record: EndpointRecord, name: str) -> PlaceRecord | None:
        """Claim an endpoint for this hub; returns its place, or None if another hub was faster."""
        async with self._saving:
            self._held.pop(name, None)
            self._unsaved.discard(name)
            place = self.of(record, name)
            if place.attempts.activation != record.activations:  # whatever failed before, it was verified since
                place = replace(place, attempts=AttemptsRecord(activation=record.activations))
            if place.holder != self.hub_id:
                place = replace(place, holder=self.hub_id)
                stored = self._registry.endpoints.places.get(name)
                expect = {PLACE.key(name): stored.position if stored is not None else 0}
                try:
                    [appended] = await self._log.append([self._entry(name, place)], expect)
                except Conflict:
                    return None
                await self._registry.wait_applied(appended.position)
            self._held[name] = place
            return place

    def holds(self, name: str) -> bool:
        """Whether this hub runs an endpoint, as far as it knows."""
        stored = self._registry.endpoints.places.get(name)
        return name in self._held and stored is not None and stored.record.holder == self.hub_id

    def advance(self, name: str, place: PlaceRecord, cursor: Cursor) -> None:
        """Record that a receiver has everything up to a cursor; `place` holds the other new values."""
        self.move(name, replace(place, commit_time=self._clock.now()), cursor)

    def move(self, name: str, place: PlaceRecord, cursor: Cursor) -> None:
        """Record that there is nothing for a receiver up to a cursor; `place` holds the other values."""
        if name in self._held:
            epoch, position, time = cursor
            self._held[name] = replace(place, epoch=epoch, position=position, time=time)
            self._unsaved.add(name)

    def note(self, name: str, attempts: AttemptsRecord) -> None:
        """Record how the newest attempt failed; stored once a minute at most."""
        if (held := self._held.get(name)) is not None:
            self._held[name] = replace(held, attempts=attempts)
            now = self._clock.monotonic()
            if now - self._noted.get(name, -NOTED_EVERY) >= NOTED_EVERY:
                self._noted[name] = now
                self._unsaved.add(name)

    def forget(self, name: str) -> None:
        """Forget an endpoint that another hub runs now."""
        self._held.pop(name, None)
        self._noted.pop(name, None)
        self._unsaved.discard(name)

    async def release(self, name: str) -> None:
        """Store a place for the last time, and let another hub run the endpoint.

        Raises:
            StorageFull, StorageUnavailable: it is not stored; what came since the last save is delivered again.
        """
        held = self._held.get(name)
        if held is not None:
            self._held[name] = replace(held, holder="")
            self._unsaved.add(name)
            try:
                await self.save(lambda _: None)
            finally:
                self.forget(name)

    async def release_all(self) -> None:
        """Store every place for the last time.

        Raises:
            StorageFull, StorageUnavailable: they are not stored.
        """
        for name in list(self._held):
            await self.release(name)

    async def save(self, on_loss: Callable[[str], None]) -> None:
        """Store what has changed; `on_loss` is called with the name of each endpoint that another hub has taken over.

        Raises:
            StorageFull, StorageUnavailable: it is not stored; the next call tries again.
        """
        async with self._saving:
            names = sorted(self._unsaved)
            for some in slices(names, STORED_AT_ONCE):
                await self._save(some, on_loss)

    async def _save(self, names: Sequence[str], on_loss: Callable[[str], None]) -> None:
        places = self._registry.endpoints.places
        self._unsaved.difference_update(names)
        for lost in [name for name in names if not self.holds(name)]:
            self.forget(lost)
            on_loss(lost)
        writing = {name: self._held[name] for name in names if name in self._held}
        try:
            while writing:
                entries = [self._entry(name, place) for name, place in writing.items()]
                expect = {PLACE.key(name): places[name].position if name in places else 0 for name in writing}
                try:
                    appended = await self._log.append(entries, expect)
                except Conflict as conflict:
                    lost = PLACE.rest(conflict.key)
                    del writing[lost]
                    self.forget(lost)
                    on_loss(lost)
                else:
                    await self._registry.wait_applied(appended[-1].position)
                    return
        except HubError:
            self._unsaved.update(writing)
            raise

    def _entry(self, name: str, place: PlaceRecord) -> Entry:
        return PLACE.entry(PLACE.key(name), self._clock.now(), place)
