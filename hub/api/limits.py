"""Limits of calls in flight. gRPC's own limit is far above them, because it refuses calls without a reason."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from hub import metrics
from hub.errors import TooManyCalls

MAX_PEER_SHARE = 5
"""One address may hold at most 1/5 of the anonymous streams."""


class CallLimit:
    """Limits the calls with a key: a context manager that holds a place while a call is served.

    They end soon, so a counter is enough. Every call passes here, so there is no generator (`contextmanager`): with
    cold caches one takes 8 us.

    Attributes:
        used: the places that are taken.
    """

    def __init__(self, most: int) -> None:
        self.used = 0
        self._most = most

    def __enter__(self) -> None:
        """Take a place.

        Raises:
            TooManyCalls: none is left.
        """
        if self.used >= self._most:
            raise TooManyCalls("the hub is at its limit of calls in flight: try again in a moment", retry_after=1)
        self.used += 1

    def __exit__(self, *failure: object) -> None:
        """Leave it."""
        self.used -= 1


class HalfOpenLimit:
    """Limits the calls whose request has not arrived, for each address and each key."""

    def __init__(self) -> None:
        self._inside: Counter[tuple[str, int]] = Counter()

    @property
    def fullest(self) -> float:
        """How much of its limit the name uses that uses most: 0 to 1."""
        return max((count / most for (_, most), count in self._inside.items()), default=0.0)

    def place(self, *names: tuple[str, int]) -> "HalfOpenPlace":
        """A context manager that holds a place under each name, up to its limit, which is the same at each call."""
        return HalfOpenPlace(self._inside, names)


class HalfOpenPlace:
    """The place of one call whose request has not arrived."""

    __slots__ = ("_inside", "_names")

    def __init__(self, inside: Counter[tuple[str, int]], names: tuple[tuple[str, int], ...]) -> None:
        self._inside = inside
        self._names = names

    def __enter__(self) -> None:
        """Take it.

        Raises:
            TooManyCalls: a name is at its limit.
        """
        inside, names = self._inside, self._names
        for name in names:
            if inside[name] >= name[1]:
                raise TooManyCalls(
                    "too many of your calls still wait for their request: send each request with its call",
                    retry_after=1,
                )
        for name in names:
            inside[name] += 1

    def __exit__(self, *failure: object) -> None:
        """Leave it; names without a place are forgotten."""
        inside = self._inside
        for name in self._names:
            inside[name] -= 1
            if not inside[name]:
                del inside[name]


class AnonymousStreamLimit:
    """Limits the streams without a key, in all and for each address."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._a_peer = max(1, most // MAX_PEER_SHARE)
        self._inside: Counter[str] = Counter()

    @contextmanager
    def place(self, peer: str) -> Iterator[None]:
        """Hold a place while the call lasts.

        Args:
            peer: the address, without the port.

        Raises:
            TooManyCalls: no place is left.
        """
        if self._inside[peer] >= self._a_peer or self._inside.total() >= self._most:
            raise TooManyCalls("too many streams without a key are open: close one, or try again later", retry_after=10)
        self._inside[peer] += 1
        metrics.LIMIT_USED.add(1, "max_open_calls")
        try:
            yield
        finally:
            self._inside[peer] -= 1
            metrics.LIMIT_USED.add(-1, "max_open_calls")
            if not self._inside[peer]:
                del self._inside[peer]
