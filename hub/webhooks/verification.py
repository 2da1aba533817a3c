"""Verifies a receiver: it must answer a challenge, and refuse a request with a wrong signature.

Without the first, a developer could point the hub's requests at a foreign server; without the second, a receiver that
checks no signature would accept forged requests.
"""

import asyncio
import secrets
from typing import NamedTuple

import msgspec

from hub.clock import Clock, Expiries
from hub.control.endpoints import name_of
from hub.control.token_buckets import TokenBuckets
from hub.endpoint_model import EndpointRecord
from hub.webhooks.bodies import challenge
from hub.webhooks.envelope import Envelope
from hub.webhooks.schedule import Failure, Outcome
from hub.webhooks.sender import Sender
from hub.webhooks.signing import forged

VERIFY_TIMEOUT = 15.0
"""Seconds for both requests."""

VERIFY_PERIOD = 60.0
"""Seconds between two verifications of an endpoint."""

VALID_FOR = 7 * 24 * 3600.0
VERIFY_AGAIN = 3600.0
"""Seconds for which a verification is valid, and after which one that was inconclusive, or failed once, is repeated."""

REFUSALS = frozenset({400, 401, 403, 422})
"""Statuses that refuse a forged request; what is neither this nor 2xx tells nothing."""


class Verification(NamedTuple):
    """The result of a verification.

    Attributes:
        outcome: of the request that decided; without a failure the receiver is verified.
        step: which one that was: "challenge" or "forgery".
        is_conclusive: False: the second request failed in a way that proves nothing.
    """

    outcome: Outcome
    step: str
    is_conclusive: bool = True

    @property
    def is_verified(self) -> bool:
        """Whether the receiver has passed both steps."""
        return self.outcome.failure is None and self.is_conclusive


class Verifications:
    """When endpoints may be, and have to be verified."""

    def __init__(self, clock: Clock) -> None:
        self._buckets = TokenBuckets(1, VERIFY_PERIOD, clock)
        self._valid_until = Expiries(clock)

    def take(self, name: str) -> float:
        """Begin one; returns 0, or the seconds to wait if the endpoint was verified within the last minute."""
        return self._buckets.take(name)

    def valid_for(self, record: EndpointRecord) -> float:
        """Seconds for which an endpoint's verification is still valid; none for one of a clock that was ahead."""
        left = self._valid_until.seconds_left(name_of(record), record.verify_time + round(VALID_FOR * 1e6))
        return left if left <= VALID_FOR + VERIFY_AGAIN else 0.0

    def forget(self, name: str) -> None:
        """Forget an endpoint that was deleted."""
        self._valid_until.forget(name)


class _Answer(msgspec.Struct):
    challenge: str


async def verify(sender: Sender, envelope: Envelope, record: EndpointRecord, clock: Clock) -> Verification:
    """Challenge the receiver at an endpoint's URL, then send it a forgery."""
    try:
        async with asyncio.timeout(VERIFY_TIMEOUT):
            text = secrets.token_urlsafe(24)
            request = envelope.request(record, challenge(text, clock.now()))._replace(wants_answer=True)
            outcome = await sender.post(request)
            if outcome.failure is None and not _holds(outcome.answer, text):
                outcome = outcome._replace(failure=Failure.CHALLENGE)
            if outcome.failure is not None:
                return Verification(outcome, "challenge")
            again = envelope.request(record, challenge(secrets.token_urlsafe(24), clock.now()))
            return _judged(await sender.post(again._replace(headers=lambda: forged(again.headers()))))
    except TimeoutError:
        return Verification(Outcome(Failure.TIMEOUT), "forgery", is_conclusive=False)


def _judged(outcome: Outcome) -> Verification:
    if outcome.failure is None:
        return Verification(outcome._replace(failure=Failure.FORGERY_ACCEPTED), "forgery")
    if outcome.status in REFUSALS:
        return Verification(outcome._replace(failure=None), "forgery")
    return Verification(outcome, "forgery", is_conclusive=False)


def _holds(answer: bytes, text: str) -> bool:
    """Whether an answer is a JSON object with the challenge in it."""
    try:
        return msgspec.json.decode(answer, type=_Answer).challenge == text
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
