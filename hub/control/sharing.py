"""Which guilds share their events at all, as of the last entry applied."""

import math

from hub.control.versioned import Versioned
from hub.model import Entry
from hub.privacy_model import GuildSharing, SharingRecord
from hub.state import SHARING


class Sharing:
    """Each guild's decision for all integrations at once.

    Attributes:
        hidden_through: by guild, the position up to which none of its events is delivered; infinite while it is off.
        changed: the position of the newest entry.
    """

    def __init__(self) -> None:
        self.hidden_through: dict[int, float] = {}
        self.changed = 0
        self._newest: dict[int, Versioned[SharingRecord | None]] = {}

    def apply(self, entry: Entry) -> bool:
        """Apply an entry; returns whether it hides events that were not hidden before."""
        record = SHARING.decode(entry.body).record
        self.changed = entry.position
        self._newest[record.guild_id] = Versioned(record, entry.position)
        is_off = record.sharing is GuildSharing.OFF
        self.hidden_through[record.guild_id] = math.inf if is_off else entry.position
        return is_off

    def is_on(self, guild_id: int) -> bool:
        """Whether the guild shares its events with integrations that may see them; the default is yes."""
        return not math.isinf(self.hidden_through.get(guild_id, 0))

    def versioned(self, guild_id: int) -> Versioned[SharingRecord | None]:
        """A guild's newest decision (None: it made none), and the position of its entry."""
        return self._newest.get(guild_id, Versioned(None, 0))
