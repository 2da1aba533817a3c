"""When an endpoint is retried, and when it is disabled: pure, from a record and an outcome to the next record.

The table of outcomes, the back-off, the sizes of batches. No clock, no network, no log.
"""

from email.utils import parsedate_to_datetime
from enum import Enum, IntEnum
from typing import NamedTuple

from msgspec.structs import replace

from hub.endpoint_model import AttemptsRecord, EndpointState

BACK_OFF = (1.0, 5.0, 30.0, 120.0, 300.0)
"""Seconds after the first, second, ... failure in a row; the last one for all that follow. Full jitter."""

MAX_RETRY_AFTER = 3_600.0
MAY_ASK = frozenset({429, 503})
"""Statuses whose ``Retry-After`` is obeyed."""

FAILING_AFTER = 5
"""Failures in a row after which an endpoint is FAILING."""

MIN_FAILURES = 20
"""Failures in a row without which no endpoint is given up."""

GIVEN_UP_AFTER = 72 * 3_600.0
"""Seconds of nothing but failure, or the retention where that is shorter."""

QUICK = 1.0
"""Seconds within which a quick endpoint takes a request."""

LONGEST_STEP = 600.0
"""Seconds beyond the wait between two failures that count at most: while no hub sends, nobody has failed."""


class Failure(IntEnum):
    """How a request failed, with the numbers of ``enum DeliveryFailure``."""

    DNS = 1
    ADDRESS_REFUSED = 2
    CONNECT = 3
    TLS = 4
    TIMEOUT = 5
    REDIRECT = 6
    CLIENT_ERROR = 7
    SERVER_ERROR = 8
    GONE = 9
    CHALLENGE = 10
    FORGERY_ACCEPTED = 11


class Outcome(NamedTuple):
    """How one request ended.

    Attributes:
        failure: None: the receiver has it.
        status: of HTTP; 0 = there was none.
        retry_after: seconds that the receiver asks for; 0 = none.
        seconds: how long it took.
        answer: the first bytes of the body of a 2xx.
    """

    failure: Failure | None
    status: int = 0
    retry_after: float = 0.0
    seconds: float = 0.0
    answer: bytes = b""


class Pace(Enum):
    """How the newest request to an endpoint went: it says beside which others the next one waits."""

    QUICK = "taken at once"
    SLOW = "taken later, or there was none yet"
    FAILING = "not taken"


class Verdict(Enum):
    """What follows from an outcome."""

    COMMIT = "commit"
    RETRY = "retry"
    GIVE_UP = "give up"


def failure_of(status: int) -> Failure | None:
    """How a status counts."""
    if 200 <= status < 300:
        return None
    if status == 410:
        return Failure.GONE
    if status < 400:
        return Failure.REDIRECT
    return Failure.CLIENT_ERROR if status < 500 else Failure.SERVER_ERROR


def after(  # noqa: PLR0913  what the decision depends on
    record: AttemptsRecord, outcome: Outcome, now: int, since_last: float, jitter: float, give_up_after: float
) -> tuple[AttemptsRecord, Verdict]:
    """The record after an outcome, and what follows from it.

    Args:
        record: of the attempts so far.
        outcome: of the newest one.
        now: microseconds.
        since_last: seconds since the attempt before, by the monotonic clock; 0 = it is the first since the start.
        jitter: from 0 to 1.
        give_up_after: seconds of nothing but failures after which an endpoint is disabled.
    """
    if outcome.failure is None:
        taken = AttemptsRecord(last_success_time=now, http_status=outcome.status, activation=record.activation)
        return taken, Verdict.COMMIT
    failures = record.failures + 1
    failing_for = record.failing_for + min(since_last, longest_step(record))
    wait = min(outcome.retry_after, MAX_RETRY_AFTER) or delay(failures) * jitter
    failed = replace(
        record,
        failures=failures,
        failing_since=record.failing_since or now,
        failing_for=failing_for,
        next_time=now + round(wait * 1e6),
        failure=int(outcome.failure),
        http_status=outcome.status,
    )
    is_over = failures >= MIN_FAILURES and since_last > 0 and failing_for >= min(give_up_after, GIVEN_UP_AFTER)
    gives_up = outcome.failure is Failure.GONE or is_over
    return failed, Verdict.GIVE_UP if gives_up else Verdict.RETRY


def delay(failures: int) -> float:
    """The longest wait after so many failures in a row: seconds."""
    return BACK_OFF[min(failures, len(BACK_OFF)) - 1]


def longest_wait(record: AttemptsRecord) -> float:
    """The longest wait that can have followed from a record's newest attempt: seconds."""
    if not record.failures:
        return 0.0
    return MAX_RETRY_AFTER if record.http_status in MAY_ASK else delay(record.failures)


def longest_step(record: AttemptsRecord) -> float:
    """The seconds between a record's newest failure and the next one that count at most; 0 after a success."""
    return longest_wait(record) + LONGEST_STEP if record.failures else 0.0


def state_of(record: AttemptsRecord) -> EndpointState:
    """The state of an active endpoint: ACTIVE or FAILING."""
    return EndpointState.FAILING if record.failures >= FAILING_AFTER else EndpointState.ACTIVE


def pace_of(record: AttemptsRecord, seconds: float) -> Pace:
    """The pace of an endpoint of which the newest request took so many seconds; infinite: there was none yet."""
    if record.failures:
        return Pace.FAILING
    return Pace.QUICK if seconds <= QUICK else Pace.SLOW


def batch_after(limit: int, sent: int, outcome: Outcome, most: int) -> int:
    """How many events the next body may hold: half of what failed, twice as many after a success."""
    if outcome.failure is None:
        return min(most, max(limit, sent) * 2)
    return max(1, min(limit, sent or limit) // 2)


def retry_after(text: str, now: float) -> float:
    """The seconds that a ``Retry-After`` asks for; 0 where it says nothing that is understood.

    Args:
        text: the header: seconds, or an HTTP date.
        now: seconds since 1970.
    """
    if not text:
        return 0.0
    if text.isascii() and text.strip().isdigit():
        return float(min(int(text.strip()[:9]), int(MAX_RETRY_AFTER)))
    try:
        return min(max(0.0, parsedate_to_datetime(text).timestamp() - now), MAX_RETRY_AFTER)
    except (ValueError, OverflowError):
        return 0.0
