"""Statistics of a stream: for its log line, the usage of scopes, and the status of its subscription."""


class Statistics:
    """Counts of one stream.

    Attributes:
        open_time: when it was opened, in microseconds.
        events: how many events were sent.
    """

    __slots__ = ("_used_scopes", "events", "open_time")

    def __init__(self, open_time: int) -> None:
        self.open_time = open_time
        self.events = 0
        self._used_scopes: frozenset[int] = frozenset()

    def add(self, events: int, scopes: frozenset[int]) -> None:
        """Count the events of a frame, and the scopes under which they are delivered."""
        self.events += events
        if not scopes <= self._used_scopes:
            self._used_scopes |= scopes

    def take_used(self) -> frozenset[int]:
        """The scopes under which events were delivered since the last call."""
        used, self._used_scopes = self._used_scopes, frozenset()
        return used
