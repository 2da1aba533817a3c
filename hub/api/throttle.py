"""Refusing calls cheaply, before their request is read."""

from typing import Any

import grpc

from hub.api.peers import Addresses
from hub.api.refusals import RefusalLog
from hub.api.status import Context, Handler, end, guarded
from hub.clock import Clock
from hub.control.token_buckets import TokenBuckets
from hub.errors import AuthThrottled, HubError, KeyMissing, KeyUnknown

EXPLAINED = 10
"""Refusals a minute that explain themselves to a throttled address; the others carry only a status."""


class Throttle:
    """Counts failed authentications by address; beyond the limit for a minute the address gets AUTH_THROTTLED.

    Only guesses count: a missing or unknown key. An expired key is still answered KEY_EXPIRED.
    """

    def __init__(self, a_minute: int, clock: Clock) -> None:
        self._guesses = TokenBuckets(a_minute, 60, clock)
        self._explained = TokenBuckets(EXPLAINED, 60, clock)

    def wait(self, address: str) -> float:
        """Count a failure; returns 0, or the seconds that a throttled address must wait."""
        return self._guesses.take(address)

    def explains(self, address: str) -> bool:
        """Whether a refusal of a throttled address explains what to do; in a flood of calls it does not."""
        return not self._explained.take(address)


def guessed_too_often(wait: float) -> AuthThrottled:
    """The error for an address that must wait, in seconds."""
    return AuthThrottled("too many failed authentications from your address: wait, and check the key", retry_after=wait)


class Refusals:
    """Builds handlers that refuse a call before its request is read."""

    def __init__(self, addresses: Addresses, log: RefusalLog, throttle: Throttle) -> None:
        self._addresses = addresses
        self._log = log
        self._throttle = throttle
        self._guesses: dict[tuple[str, str], Handler] = {}

    def handler(self, error: HubError, method: str) -> Handler:
        """A handler that ends its call at once with a failure, whatever the call sends."""
        if not isinstance(error, KeyMissing | KeyUnknown):
            return self._handler(error, method)
        known = self._guesses.get((error.message, method))  # bounded: three texts for each method of the contract
        if known is None:
            known = self._guesses[error.message, method] = self._handler(error, method, is_guess=True)
        return known

    def _handler(self, error: HubError, method: str, *, is_guess: bool = False) -> Handler:
        async def refuse(requests: Any, context: Context) -> None:  # noqa: ANN401  nothing of them is read
            del requests
            if is_guess:
                await self._count(method, context)
            raise error.with_traceback(None)  # it is raised again and again: its traceback must not grow

        behaviour: Any = guarded(refuse, method, self._log)
        handler: Handler = grpc.stream_unary_rpc_method_handler(behaviour)
        return handler

    async def _count(self, method: str, context: Context) -> None:
        """Count a wrong key, and end the call if there were too many."""
        address = self._addresses.of(context).address
        wait = self._throttle.wait(address)
        if not wait:
            return
        throttled = guessed_too_often(wait)
        if self._throttle.explains(address):
            raise throttled
        self._log.note(throttled, method, context)
        await end(context, grpc.StatusCode.RESOURCE_EXHAUSTED, throttled.message)
