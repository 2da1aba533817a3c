"""Which cursor ``auto_commit`` commits, and when, without I/O: one call at a time, not too often, the newest wins."""

import random
from collections.abc import Callable
from math import inf

from tickets_hub.failure import HubCallError
from tickets_hub.key import is_key_ending
from tickets_hub.session import Backoff, Policy


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
        """Offer a cursor up to which everything was processed; the same one again, or none, changes nothing."""
        if cursor != self._offered:
            self._offered = self._waiting = cursor

    def due(self, now: float) -> float:
        """Seconds until there is something to send, 0 = now; infinite while nothing waits."""
        return max(0.0, self._not_before - now) if self._waiting else inf

    def take(self) -> str:
        """The cursor to send."""
        cursor, self._waiting = self._waiting, ""
        return cursor

    def settled(self, cursor: str, failure: HubCallError | None, now: float, *, newer_key: bool = False) -> None:
        """Record the end of a call; raises a permanent failure.

        ``newer_key``: the client has another key than the one that the call showed.

        An expired cursor is let go: it is the stream's to say what that means, by a Gap, behind which cursors are good
        again, or by its end.
        """
        if failure is None or failure.reason == "CURSOR_EXPIRED":
            self._backoff.succeeded()
            self._not_before = now + self._policy.commit_interval
        elif failure.mends_by_reopening() or (newer_key and is_key_ending(failure)):
            self._waiting = self._waiting or cursor
            self._not_before = now + self._backoff.failed(failure.retry_after)
        else:
            raise failure
