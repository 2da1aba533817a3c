"""How often, and how many at a time: token buckets, and counters of the calls in flight.

Lives here: counting. Must not know who calls or what a call does; gRPC's own limit stands far above these, as the last
resort, because what it refuses it refuses without a reason.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from hub.api.failures import Behaviour, Context
from hub.clock import Clock
from hub.errors import TooManyCalls

REMEMBERED = 10_000
"""Names of which a limiter keeps count; beyond them the one that was longest not heard of begins anew."""

PART = 5
"""One address may have one in so many of the open calls."""


class Buckets:
    """A token bucket for each name: so many at once after a quiet time, and so many again within each period.

    Args:
        most: how many tokens a bucket holds.
        period: seconds in which an empty one fills.
    """

    def __init__(self, most: int, period: float, clock: Clock) -> None:
        self._most = most
        self._a_token = period / most
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take a token; returns 0, or else the seconds until there is one: nothing was taken then.

        Who waits as long as told finds one, however often they asked meanwhile.
        """
        now = self._clock.monotonic()
        left, at = self._left.pop(name, (float(self._most), now))
        left = min(self._most, left + (now - at) / self._a_token)
        if len(self._left) >= REMEMBERED:
            self._left.popitem(last=False)
        self._left[name] = (left - 1 if left >= 1 else left, now)
        return 0.0 if left >= 1 else (1 - left) * self._a_token + 0.001


class CallLimit:
    """Calls with a key: so many at a time. They end soon, so a counter will do, and costs next to nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside = 0

    def counting(self, behaviour: Behaviour) -> Behaviour:
        """A handler that is refused, with TooManyCalls, while too many are being served."""

        async def run(request: object, context: Context) -> object:
            if self._inside >= self._most:
                raise TooManyCalls("the hub serves as many calls as it may: try again in a moment", retry_after=1)
            self._inside += 1
            try:
                return await behaviour(request, context)
            finally:
                self._inside -= 1

        return run


class OpenLimit:
    """Streams that need no key and may last for ever: so many in all, and of one address a part of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._a_peer = max(1, most // PART)
        self._inside: Counter[str] = Counter()

    @contextmanager
    def place(self, peer: str) -> Iterator[None]:
        """Hold a place for as long as the call lasts.

        Args:
            peer: the address, without the port.

        Raises:
            TooManyCalls: there is none left.
        """
        if self._inside[peer] >= self._a_peer or self._inside.total() >= self._most:
            raise TooManyCalls(
                "as many streams without a key are open as may be: close one, or try again later", retry_after=10
            )
        self._inside[peer] += 1
        try:
            yield
        finally:
            self._inside[peer] -= 1
            if not self._inside[peer]:
                del self._inside[peer]
