"""When keys last opened the hub, and scopes last delivered something: noted in memory, kept in the log now and then.

What is kept may be older than the truth by PRECISION after a crash; it is never newer.
"""

from collections.abc import Collection

import msgspec

from hub.clock import Clock
from hub.model import DeliveryRecord, Entry, Kind, UseRecord

PRECISION = 60_000_000
"""Microseconds."""

_key_use = msgspec.json.Decoder(UseRecord)
_delivery = msgspec.json.Decoder(DeliveryRecord)


class Usage:
    """What is used, as of now.

    Attributes:
        keys: by key id, when it last opened the hub.
        streams: by integration, when it last had a stream.
        scopes: by integration and scope, when it last delivered something to a stream.
    """

    def __init__(self, clock: Clock) -> None:
        self.keys: dict[str, int] = {}
        self.streams: dict[str, int] = {}
        self.scopes: dict[str, dict[int, int]] = {}
        self._clock = clock
        self._saved: dict[str, int] = {}
        self._unsaved: set[str] = set()

    def note_key(self, key_id: str) -> None:
        """A key opened the hub."""
        self.keys[key_id] = self._note(f"use/key/{key_id}")

    def note_stream(self, integration_id: str, delivered: Collection[int]) -> None:
        """An integration has a stream, and these scopes delivered something to it."""
        key = f"use/integration/{integration_id}"
        now = self.streams[integration_id] = self._note(key)
        scopes = self.scopes.setdefault(integration_id, {})
        if not scopes.keys() >= set(delivered):
            self._saved.pop(key, None)  # a first use is news, not precision: keep it with the next save
        scopes.update((scope, now) for scope in delivered)

    def apply(self, entry: Entry) -> tuple[str, ...]:
        """Take in what was kept, by this replica or another."""
        _, kind, name = entry.key.split("/", 2)
        if kind == "key":
            self.keys[name] = max(self.keys.get(name, 0), _key_use.decode(entry.body).last_use_time)
            return ()
        record = _delivery.decode(entry.body)
        self.streams[name] = max(self.streams.get(name, 0), record.stream_time)
        scopes = self.scopes.setdefault(name, {})
        for scope, time in record.scopes.items():
            scopes[scope] = max(scopes.get(scope, 0), time)
        return ()

    def take_unsaved(self) -> list[Entry]:
        """What is to be kept now, as entries; what was kept less than PRECISION ago waits."""
        now = self._clock.now()
        keys = sorted(key for key in self._unsaved if now - self._saved.get(key, 0) >= PRECISION)
        self._unsaved.difference_update(keys)
        for key in keys:
            self._saved[key] = now
        return [Entry(Kind.STATE, now, msgspec.json.encode(self._record(key)), key=key) for key in keys]

    def _note(self, key: str) -> int:
        self._unsaved.add(key)
        return self._clock.now()

    def _record(self, key: str) -> UseRecord | DeliveryRecord:
        _, kind, name = key.split("/", 2)
        if kind == "key":
            return UseRecord(self.keys[name])
        return DeliveryRecord(self.streams[name], self.scopes.get(name, {}))
