"""Turns for streams that catch up: streams at the end of the log go first, history gets what is left.

This module decides how much of each turn of the event loop all catch-up gets. Must not know what a turn is used for.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

LIMIT = 0.002
"""Seconds of one turn of the event loop for all catch-up together: live delivery waits at most this long."""

_FIRST_COST = 0.0002
"""The assumed seconds of a piece of work, until one was measured."""
_WEIGHT = 0.2
"""How much the newest measurement counts."""


class Turns:
    """Grants turns in the order in which streams ask: as many in one turn of the event loop as fit into `LIMIT`.

    At least one, so that catch-up continues under any load. If no stream waits, one has its turn at once, while
    there is room in this turn of the event loop: to sleep and be woken costs as much as half a frame. How long a piece
    of work takes is measured: the pieces that are granted together run right after each other in the next turn of
    the event loop, `_begin` and `_finish` around them.

    Attributes:
        round: counts the turns of the event loop in which there was catch-up.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        """`now`: a clock in seconds."""
        self.round = 0
        self._now = now
        self._queue: deque[Turn] = deque()
        self._is_busy = False
        self._room = 0
        self._began = 0.0
        self._cost = _FIRST_COST

    def enter(self, turn: "Turn") -> bool:
        """Whether the stream has its turn at once: no stream waits and there is room; else it joins the queue."""
        if not self._is_busy:
            self._is_busy = True
            self._begin_round()
            asyncio.get_running_loop().call_soon(self._hand_out)
        if self._queue or not self._room or turn.round == self.round:
            self._queue.append(turn)
            return False
        self._room -= 1
        turn.round = self.round
        return True

    def _begin_round(self) -> None:
        self.round += 1
        self._room = max(1, int(LIMIT / self._cost))

    def _hand_out(self) -> None:
        self._is_busy = bool(self._queue)
        if not self._is_busy:
            return
        self._begin_round()
        loop = asyncio.get_running_loop()
        count = min(len(self._queue), self._room)
        self._room -= count
        loop.call_soon(self._begin)
        for _ in range(count):
            self._queue.popleft().come()
        loop.call_soon(self._finish, count)

    def _begin(self) -> None:
        self._began = self._now()

    def _finish(self, count: int) -> None:
        cost = (self._now() - self._began) / count
        self._cost += (max(cost, 1e-6) - self._cost) * _WEIGHT
        self._hand_out()


class Turn:
    """The place of one stream in the queue.

    Attributes:
        round: the last one in which it had a turn.
    """

    __slots__ = ("_is_mine", "_is_waiting", "_turns", "_wake", "round")

    def __init__(self, turns: Turns, wake: Callable[[], None]) -> None:
        """`wake`: called when it is the stream's turn."""
        self._turns = turns
        self._wake = wake
        self._is_mine = self._is_waiting = False
        self.round = 0

    def is_mine(self) -> bool:
        """Whether the stream may do one piece of work now. If not, it is woken when it is its turn."""
        if self._is_mine:
            self._is_mine = False
            return True
        if self._is_waiting:
            return False
        self._is_waiting = not self._turns.enter(self)
        return not self._is_waiting

    def come(self) -> None:
        """Grant the turn, and wake the stream."""
        self._is_waiting, self._is_mine, self.round = False, True, self._turns.round
        self._wake()
