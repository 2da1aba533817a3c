"""Logging refused calls, within bounds: anybody can cause refusals, and must not fill the disk."""

import logging
from collections import OrderedDict
from dataclasses import dataclass

import structlog

from hub.api.peers import Addresses, Call
from hub.clock import Clock
from hub.errors import Draining, HubError, StorageFull, StorageUnavailable
from hub.logs import CALLER

PERIOD = 60.0
"""Seconds within which one caller gets one line for each reason."""

MAX_UNKNOWN = 500
MAX_CALLERS = 10_000
"""The most pairs of caller and reason that are counted at a time; callers with a valid key are counted apart."""

MAX_DETAIL = 300

log = structlog.get_logger()


@dataclass(slots=True)
class _Window:
    """A minute of one caller and one reason."""

    began: float
    left_out: int = 0


class Windows:
    """Counts refusals of (caller, reason): the first within each minute is to be logged, the others are counted."""

    def __init__(self, most: int, clock: Clock) -> None:
        self._most = most
        self._clock = clock
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()
        self._left_out_of_others = 0

    def note(self, caller: str, reason: str) -> dict[str, int] | None:
        """How many unlogged refusals a new line stands for; None if this refusal gets no line.

        If too many callers have a line in this minute, a further caller gets none, and the next line counts it.
        """
        now = self._clock.monotonic()
        window = self._windows.get((caller, reason))
        if window is not None and now < window.began + PERIOD:
            window.left_out += 1
            return None
        if window is None and not self._has_room(now):
            self._left_out_of_others += 1
            return None
        self._windows.pop((caller, reason), None)
        self._windows[caller, reason] = _Window(now)
        counts = {"left_out": window.left_out if window else 0, "left_out_of_others": self._left_out_of_others}
        self._left_out_of_others = 0
        return {name: count for name, count in counts.items() if count}

    def _has_room(self, now: float) -> bool:
        """Forget the oldest window where there are too many, if its minute is over."""
        if len(self._windows) < self._most:
            return True
        oldest = next(iter(self._windows.values()))
        if now < oldest.began + PERIOD:
            return False
        self._windows.popitem(last=False)
        self._left_out_of_others += oldest.left_out
        return True


class RefusalLog:
    """Logs refused calls, within bounds."""

    def __init__(self, addresses: Addresses, clock: Clock) -> None:
        self._addresses = addresses
        self._unknown = Windows(MAX_UNKNOWN, clock)
        self._callers = Windows(MAX_CALLERS, clock)

    def note(self, error: HubError, method: str, call: Call) -> None:
        """Log a refused call of a method ("EventService/EmitEvent"), or count it."""
        origin = self._addresses.of(call)
        known = CALLER.get()
        if known is not None:
            counts = self._callers.note(known.key_id, error.reason())
        else:
            counts = self._unknown.note(origin.address, error.reason())
        if counts is not None:
            detail = error.message[:MAX_DETAIL]
            log.log(
                level(error), "refused", reason=error.reason(), detail=detail, method=method, peer=origin.peer, **counts
            )


def level(error: HubError) -> int:
    """The log level of a refusal: a stop is expected to refuse calls, a store that refuses writes needs an operator."""
    if isinstance(error, Draining):
        return logging.DEBUG
    return logging.WARNING if isinstance(error, StorageFull | StorageUnavailable) else logging.INFO
