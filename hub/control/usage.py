"""When keys were last used, and scopes last delivered something: noted in memory, saved to the log now and then.

After a crash the saved times may be too old by PRECISION; they are never too new.
"""

from collections.abc import Collection

from hub.clock import Clock
from hub.control.emitters import Emitters
from hub.model import DeliveryRecord, Entry, UseRecord
from hub.state import DELIVERY, KEY_USE

PRECISION = 60_000_000
"""Microseconds."""


class Usage:
    """The times of last use.

    Attributes:
        keys: by key id, when it was last used.
        streams: by integration, when it last had a stream.
        scopes: by integration and scope, when it last delivered something to a stream.
        digests: by key id, its digest under a newer secret of the hub than the one of its record.
    """

    def __init__(self, clock: Clock) -> None:
        self.emitters = Emitters()
        self.keys: dict[str, int] = {}
        self.streams: dict[str, int] = {}
        self.scopes: dict[str, dict[int, int]] = {}
        self.digests: dict[str, str] = {}
        self._clock = clock
        self._saved: dict[str, int] = {}
        self._unsaved: set[str] = set()

    def note_key(self, key_id: str) -> None:
        """Note that a key was used."""
        self.keys[key_id] = self._note(KEY_USE.key(key_id))

    def note_digest(self, key_id: str, digest: str) -> None:
        """Note that a key was used under an earlier secret: the next save stores its digest under the current one."""
        self.digests[key_id] = digest
        self._saved.pop(KEY_USE.key(key_id), None)

    def note_stream(self, integration_id: str, delivered: Collection[int]) -> None:
        """Note that an integration has a stream, to which these scopes delivered something."""
        key = DELIVERY.key(integration_id)
        now = self.streams[integration_id] = self._note(key)
        scopes = self.scopes.setdefault(integration_id, {})
        if not scopes.keys() >= set(delivered):
            self._saved.pop(key, None)  # a first use is always saved
        scopes.update((scope, now) for scope in delivered)

    def apply(self, entry: Entry) -> tuple[str, ...]:
        """Apply what this or another replica saved."""
        if KEY_USE.has(entry.key):
            name, use = KEY_USE.rest(entry.key), KEY_USE.decode(entry.body)
            self.keys[name] = max(self.keys.get(name, 0), use.last_use_time)
            if use.digest:
                self.digests[name] = use.digest
            return ()
        name, record = DELIVERY.rest(entry.key), DELIVERY.decode(entry.body)
        self.streams[name] = max(self.streams.get(name, 0), record.stream_time)
        scopes = self.scopes.setdefault(name, {})
        for scope, time in record.scopes.items():
            scopes[scope] = max(scopes.get(scope, 0), time)
        return ()

    def due(self) -> list[str]:
        """The keys of state to save now; what was saved less than PRECISION ago waits."""
        now = self._clock.now()
        return sorted(key for key in self._unsaved if now - self._saved.get(key, 0) >= PRECISION)

    def take(self, keys: Collection[str]) -> list[Entry]:
        """The entries that save some of them."""
        now = self._clock.now()
        self._unsaved.difference_update(keys)
        for key in keys:
            self._saved[key] = now
        return [self._entry(key, now) for key in keys]

    def _note(self, key: str) -> int:
        self._unsaved.add(key)
        return self._clock.now()

    def _entry(self, key: str, now: int) -> Entry:
        if KEY_USE.has(key):
            name = KEY_USE.rest(key)
            return KEY_USE.entry(key, now, UseRecord(self.keys[name], self.digests.get(name, "")))
        name = DELIVERY.rest(key)
        return DELIVERY.entry(key, now, DeliveryRecord(self.streams[name], self.scopes.get(name, {})))
