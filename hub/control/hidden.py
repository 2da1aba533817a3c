"""Which events are hidden from everybody, whatever is granted: those of guilds that do not share, and erased ones.

The feed checks every event. What one integration gets is decided in `hub/delivery/view.py`.
"""

from collections.abc import Sequence

from hub.clock import Clock
from hub.control.erasures import Erasures
from hub.control.hub_secret import HubSecret
from hub.control.sharing import Sharing
from hub.model import Entry, Kind


class HiddenEvents:
    """The events that are hidden from everybody, as of the last entry applied.

    Attributes:
        version: grows whenever more events are hidden; caches of an earlier version must be dropped.
        sharing: the guilds that share nothing.
        erasures: the subjects that are being erased.
    """

    def __init__(self, secret: HubSecret, clock: Clock) -> None:
        self.version = 0
        self.sharing = Sharing()
        self.erasures = Erasures(secret, clock)

    def apply_sharing(self, entry: Entry) -> tuple[str, ...]:
        """Apply a guild's decision about sharing."""
        self.version += self.sharing.apply(entry)
        return ()

    def apply_erasure(self, entry: Entry) -> tuple[str, ...]:
        """Apply an erasure, or its progress."""
        self.version += self.erasures.apply(entry)
        return ()

    def visible(self, entries: Sequence[Entry]) -> list[Entry]:
        """The events among some entries of the log, in its order, that are not hidden from everybody."""
        events = [entry for entry in entries if entry.kind is Kind.EVENT]
        if not events or not (self.sharing.hidden_through or self.erasures.hide_after(events[0].position)):
            return events
        return [event for event in events if not self.hides(event)]

    def hides(self, entry: Entry) -> bool:
        """Whether an event is hidden from everybody."""
        return entry.position <= self.sharing.hidden_through.get(entry.guild_id, 0) or self.erasures.hides(entry)
