"""How many streams may be open: for each integration, for all tails, and on this replica."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from hub.config import Settings
from hub.delivery.options import TAILS
from hub.errors import TooManyStreams


class StreamSlots:
    """Counts streams against the limits, from before they open until they are gone.

    Attributes:
        count: the streams that are open or being opened.
    """

    def __init__(self, settings: Settings) -> None:
        self.count = 0
        self._settings = settings
        self._names: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._dropping: Counter[str] = Counter()
        self._emptied = asyncio.Event()

    def names(self, integration_id: str) -> set[str]:
        """The subscriptions of an integration that have a stream or are about to have one."""
        return set(self._names[integration_id])

    @property
    def dropping(self) -> int:
        """How many dropped streams still hold their slot, because their call has not ended yet."""
        return self._dropping.total()

    def note_drop(self, holder: str, gone: asyncio.Future[None]) -> None:
        """Count a stream that is being dropped until `gone` is done."""
        self._dropping[holder] += 1
        gone.add_done_callback(lambda _: self._dropped(holder))

    def _dropped(self, holder: str) -> None:
        self._dropping[holder] -= 1
        if not self._dropping[holder]:
            del self._dropping[holder]

    async def wait_until_empty(self) -> None:
        """Wait until no stream is open."""
        self._emptied.clear()
        if self.count:
            await self._emptied.wait()

    @contextmanager
    def of_tail(self, stream_id: str) -> Iterator[None]:
        """Hold a slot for a tail; tails do not use the slots of integrations.

        Raises:
            TooManyStreams: on entering, if no slot is left.
        """
        limit = self._settings.max_tails
        if len(self._names[TAILS]) + self._dropping.get(TAILS, 0) >= limit:
            raise TooManyStreams(
                f"{limit} tails are open already: close one first", metadata={"limit": str(limit)}, retry_after=10
            )
        with self._counted(TAILS, stream_id):
            yield

    @contextmanager
    def of_stream(self, integration_id: str, subscription_id: str, stuck: int) -> Iterator[None]:
        """Hold a slot for a stream; one that takes over another shares its slot.

        Args:
            integration_id: the integration.
            subscription_id: its subscription.
            stuck: how many of its ended streams are still in a write.

        Raises:
            TooManyStreams: on entering, if no slot is left.
        """
        names, limit = self._names[integration_id], self._settings.max_streams_per_integration
        if subscription_id not in names and len(names) >= limit:
            raise TooManyStreams(
                f"{limit} streams of this integration are open already: close one first",
                metadata={"limit": str(limit), "subscriptions": ",".join(sorted(names))},
            )
        if stuck + self._dropping.get(integration_id, 0) >= limit:
            raise TooManyStreams(
                "earlier streams of this integration are still being ended: read them to their end, or close their "
                "connection",
                retry_after=2,
            )
        if self.count + self.dropping >= self._settings.max_streams:
            raise TooManyStreams("the hub is at its limit of open streams: try again later", retry_after=10)
        with self._counted(integration_id, subscription_id):
            yield

    @contextmanager
    def _counted(self, holder: str, name: str) -> Iterator[None]:
        names = self._names[holder]
        names[name] += 1
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
            names[name] -= 1
            if not names[name]:
                del names[name]
            if not self.count:
                self._emptied.set()
