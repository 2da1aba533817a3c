"""The known emitters, as of the last entry applied, with the last number of each."""

from hub.control.versioned import Versioned
from hub.model import EmitterRecord, Entry
from hub.state import EMITTER

MAX_EMITTERS = 100
"""A new emitter takes the place of the one that was idle for longest: refusing it would lose a bot's events."""

_UNKNOWN = Versioned(EmitterRecord(0, 0), 0)


class Emitters:
    """Emitters by their ids, in the order of their last batches."""

    def __init__(self) -> None:
        self._records: dict[str, Versioned[EmitterRecord]] = {}

    def apply(self, entry: Entry) -> tuple[str, ...]:
        """Apply an emitter's entry; a tombstone forgets the emitter. It concerns no integration."""
        emitter_id = EMITTER.rest(entry.key)
        self._records.pop(emitter_id, None)
        if entry.body:
            self._records[emitter_id] = Versioned(EMITTER.decode(entry.body), entry.position)
        return ()

    def last(self, emitter_id: str) -> int:
        """The last number of an emitter; 0 if the emitter is unknown."""
        return self._records.get(emitter_id, _UNKNOWN).record.last_sequence

    def position(self, emitter_id: str) -> int:
        """The position of the newest entry about an emitter; 0 if the emitter is unknown."""
        return self._records.get(emitter_id, _UNKNOWN).position

    def to_forget(self, emitter_id: str) -> list[str]:
        """The emitters to forget when this one is added: those whose last batch is the longest ago, by the log."""
        others = [name for name in self._records if name != emitter_id]
        return others[: max(0, len(others) + 1 - MAX_EMITTERS)]
