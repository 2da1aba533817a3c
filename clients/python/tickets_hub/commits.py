"""Which cursor to commit, and when: one call at a time, not too often, the newest wins.

Lives here: the logic of ``auto_commit``, without I/O, as in ``session.py``. Must not know channels, threads,
tasks, or a clock of its own.
"""

import random
from collections.abc import Callable
from math import inf

from hub.client.failure import HubCallError
from hub.client.session import Backoff, Policy


class Commits:
    """The commits of one subscription.

    The driver's loop: wait for ``due`` seconds or until something is offered; ``take`` a cursor, send it, ``settled``.
    A commit that fails for a while is no reason to stop: it is repeated, or overtaken by a newer one.
    """

    def __init__(self, policy: Policy, chance: Callable[[], float] = random.random) -> None:
        self._policy = policy
        self._backoff = Backoff(policy, chance)
        self._offered = ""
        self._waiting = ""
        self._not_before = -inf

    def offer(self, cursor: str) -> None:
        """Everything up to this cursor was dealt with; the same one again, or none, changes nothing."""
        if cursor != self._offered:
            self._offered = self._waiting = cursor

    def due(self, now: float) -> float:
        """Seconds until there is something to send, 0 = now; infinite while nothing waits."""
        return max(0.0, self._not_before - now) if self._waiting else inf

    def take(self) -> str:
        """The cursor to send."""
        cursor, self._waiting = self._waiting, ""
        return cursor

    def settled(self, cursor: str, failure: HubCallError | None, now: float) -> None:
        """The call for a cursor has ended; raises the failure that no repetition mends.

        An expired cursor is let go: it is the stream's to say what that means, by a Gap, behind which cursors are good
        again, or by its end.
        """
        if failure is None or failure.reason == "CURSOR_EXPIRED":
            self._backoff.succeeded()
            self._not_before = now + self._policy.commit_interval
        elif failure.mends_by_reopening():
            self._waiting = self._waiting or cursor
            self._not_before = now + self._backoff.failed(failure.retry_after)
        else:
            raise failure
