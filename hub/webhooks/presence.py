"""Which hubs run, and which of them runs an endpoint: by rendezvous hashing over the hubs with a recent heartbeat.

Hubs that share a log write heartbeats into it, for as long as there are endpoints. With the embedded store there is
one hub.
"""

from hashlib import sha256

from hub.clock import Clock
from hub.control.registry import Registry
from hub.endpoint_model import HubRecord
from hub.state import HUB
from hub.storage import Log

HEARTBEAT_TIMEOUT = 5.0
"""Seconds."""

HEARTBEAT_PERIOD = 1.0
FORGOTTEN_AFTER = 60.0
"""Seconds after which the key of a hub that ended without a word is removed."""


class Presence:
    """The hubs of a log."""

    def __init__(self, log: Log, registry: Registry, clock: Clock, hub_id: str, *, is_alone: bool) -> None:
        self.hub_id = hub_id
        self._log = log
        self._heartbeats = registry.endpoints.heartbeats
        self._clock = clock
        self._is_alone = is_alone
        self._published = 0.0

    def alive(self) -> set[str]:
        """This hub and those with a recent heartbeat."""
        now = self._clock.monotonic()
        return {self.hub_id, *(name for name, seen in self._heartbeats.items() if now - seen < HEARTBEAT_TIMEOUT)}

    def owner(self, name: str) -> str:
        """The hub that should run an endpoint."""
        if self._is_alone:
            return self.hub_id
        return max(self.alive(), key=lambda hub: sha256(f"{hub} {name}".encode()).digest())

    async def publish_heartbeat(self) -> None:
        """Write a heartbeat of this hub, and remove the keys of hubs that have ended.

        Raises:
            StorageFull, StorageUnavailable: it is not stored.
        """
        now = self._clock.monotonic()
        if self._is_alone or now - self._published < HEARTBEAT_PERIOD:
            return
        self._published = now
        gone = [name for name, seen in self._heartbeats.items() if now - seen > FORGOTTEN_AFTER and name != self.hub_id]
        time = self._clock.now()
        entries = [HUB.entry(HUB.key(name), time, None) for name in gone]
        await self._log.append([*entries, HUB.entry(HUB.key(self.hub_id), time, HubRecord(time))])

    async def leave(self) -> None:
        """Announce that this hub stops: others take its endpoints over at once.

        Raises:
            StorageFull, StorageUnavailable: it is not stored; others take over after some seconds.
        """
        if not self._is_alone and self._published:
            await self._log.append([HUB.entry(HUB.key(self.hub_id), self._clock.now(), None)])
