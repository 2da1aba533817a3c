"""The parts of the hub that every stream works with."""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import is_not
from typing import TYPE_CHECKING, Protocol

from hub.clock import Clock
from hub.control.registry import Registry
from hub.delivery.confirmations import Confirmations
from hub.delivery.cursor import CursorSeal
from hub.delivery.feed import Feed
from hub.delivery.freshness import Freshness
from hub.delivery.view import View
from hub.privacy_model import NoticeRecord
from hub.subjects import Subject

if TYPE_CHECKING:
    from hub.delivery.stream import Stream


class NoticeBuilder(Protocol):
    """Builds the notices of a stream, as serialised fields of a frame; implemented where the contract is known."""

    def ready(self, stream: "Stream") -> bytes:
        """The stream is open."""
        ...

    def heartbeat(self, stream: "Stream", lag: float, *, caught_up: bool, store_silent: bool = False) -> bytes:
        """The stream is alive, with nothing to deliver; `lag` in seconds."""
        ...

    def grants_changed(self, added: Iterable[int], removed: Iterable[int], reason: str) -> bytes:
        """The stream has other scopes from here on."""
        ...

    def gap(self, from_time: int, to_time: int, cause: str) -> bytes:
        """Events accepted between two times (microseconds) are gone; `cause`: "RETENTION", "RESTORE" or "DAMAGE"."""
        ...

    def erased(self, subject: Subject, notice: NoticeRecord, request_time: int) -> bytes:
        """The subject of an erasure is to be forgotten."""
        ...

    def goodbye(self, reason: str, retry_delay: float) -> bytes:
        """The hub is about to end the stream; reconnect after `retry_delay` seconds."""
        ...


class Views:
    """The views of all integrations, built when needed and cached until a record or an installation changes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._views: dict[str, tuple[tuple[object, ...], View]] = {}

    def of(self, integration_id: str) -> View:
        """The current view of an integration.

        Raises:
            IntegrationNotFound: it does not exist.
        """
        registry = self._registry
        stored, installations = registry.integration(integration_id), registry.installations
        agreed, excluded = installations.agreed(integration_id), installations.excluded(integration_id)
        sources = (stored, agreed, excluded)
        cached = self._views.get(integration_id)
        if cached is None or any(map(is_not, cached[0], sources)):
            cached = self._views[integration_id] = (sources, View(stored.record, agreed, excluded))
        return cached[1]


@dataclass(frozen=True, slots=True)
class StreamDeps:
    """The parts of the hub that every stream works with."""

    registry: Registry
    feed: Feed
    seal: CursorSeal
    notices: NoticeBuilder
    clock: Clock
    freshness: Freshness
    views: Views
    confirmations: Confirmations
