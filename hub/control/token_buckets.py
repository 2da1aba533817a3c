"""Token buckets: a rate limit for each name."""

from collections import OrderedDict

from hub.clock import Clock

MAX_NAMES = 10_000
"""Names that are kept; beyond that the least recently used name starts again with a full bucket."""


class TokenBuckets:
    """A token bucket for each name.

    Args:
        capacity: how many tokens a bucket holds.
        period: seconds in which an empty bucket fills.
    """

    def __init__(self, capacity: int, period: float, clock: Clock) -> None:
        self._capacity = capacity
        self._seconds_per_token = period / capacity
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, tokens: int = 1) -> float:
        """Take tokens; returns 0, or the seconds until there are enough, and then nothing was taken.

        A caller that waits the returned time finds them, however often it retried meanwhile.
        """
        now = self._clock.monotonic()
        left, at = self._buckets.pop(name, (float(self._capacity), now))
        left = min(self._capacity, left + (now - at) / self._seconds_per_token)
        if len(self._buckets) >= MAX_NAMES:
            self._buckets.popitem(last=False)
        self._buckets[name] = (left - tokens if left >= tokens else left, now)
        return 0.0 if left >= tokens else (tokens - left) * self._seconds_per_token + 0.001
