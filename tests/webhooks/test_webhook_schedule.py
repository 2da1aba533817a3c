"""The schedule of an endpoint after each outcome."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.endpoint_model import AttemptsRecord, EndpointState
from hub.webhooks.schedule import (
    BACK_OFF,
    Failure,
    Outcome,
    Verdict,
    after,
    batch_after,
    failure_of,
    retry_after,
    state_of,
)

NOW = 1_800_000_000_000_000
FAILED = Outcome(Failure.SERVER_ERROR, 500)
DAYS = 72 * 3_600.0


def failed(times: int, since_last: float = 1.0) -> AttemptsRecord:
    """The record after so many failures in a row."""
    record = AttemptsRecord()
    for _ in range(times):
        record, _ = after(record, FAILED, NOW, since_last, 1.0, DAYS)
    return record


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        *((200, None), (204, None), (299, None), (100, Failure.REDIRECT), (301, Failure.REDIRECT)),
        *((304, Failure.REDIRECT), (308, Failure.REDIRECT), (400, Failure.CLIENT_ERROR), (404, Failure.CLIENT_ERROR)),
        *((410, Failure.GONE), (413, Failure.CLIENT_ERROR), (429, Failure.CLIENT_ERROR)),
        *((500, Failure.SERVER_ERROR), (503, Failure.SERVER_ERROR), (599, Failure.SERVER_ERROR)),
    ],
)
def test_only_2xx_is_a_success(status: int, failure: Failure | None) -> None:
    """2xx has it; everything else is a failure of its own kind."""
    assert failure_of(status) is failure


def test_the_back_off_grows_to_five_minutes() -> None:
    """1 s, 5 s, 30 s, 2 min, then every 5 min; with full jitter down to nothing."""
    record = AttemptsRecord()
    waits = []
    for _ in range(7):
        record, verdict = after(record, FAILED, NOW, 1.0, 1.0, DAYS)
        assert verdict is Verdict.RETRY
        waits.append((record.next_time - NOW) / 1e6)
    assert waits == [*BACK_OFF, 300, 300]
    assert after(AttemptsRecord(), FAILED, NOW, 1.0, 0.0, DAYS)[0].next_time == NOW


def test_retry_after_is_obeyed_up_to_an_hour() -> None:
    """It takes the place of the back-off."""
    for asked, waited in ((7.0, 7.0), (86_400.0, 3_600.0)):
        record, _ = after(AttemptsRecord(), Outcome(Failure.SERVER_ERROR, 503, asked), NOW, 1.0, 1.0, DAYS)
        assert (record.next_time - NOW) / 1e6 == waited


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("120", 120), (" 5 ", 5), ("999999999999", 3_600), ("", 0), ("soon", 0), ("-3", 0), ("1.5", 0)),
        ("Fri, 15 Jan 2027 08:00:10 GMT", 10),
        ("Fri, 15 Jan 2016 08:00:10 GMT", 0),
        ("Fri, 15 Jan 2099 08:00:10 GMT", 3_600),
    ],
)
def test_retry_after_is_parsed(text: str, seconds: float) -> None:
    """Seconds or a date; what is neither counts as nothing."""
    assert retry_after(text, NOW / 1e6) == seconds


def test_five_failures_in_a_row_are_failing_until_a_success() -> None:
    """The state follows the failures in a row."""
    assert state_of(failed(4)) is EndpointState.ACTIVE
    record = failed(5)
    assert state_of(record) is EndpointState.FAILING
    record, verdict = after(record, Outcome(None, 204), NOW + 9, 1.0, 1.0, DAYS)
    assert verdict is Verdict.COMMIT
    assert state_of(record) is EndpointState.ACTIVE
    assert record == AttemptsRecord(last_success_time=NOW + 9, http_status=204)


def test_status_410_gives_up_at_once() -> None:
    """The receiver says that it is gone."""
    assert after(AttemptsRecord(), Outcome(Failure.GONE, 410), NOW, 1.0, 1.0, DAYS)[1] is Verdict.GIVE_UP


def test_an_endpoint_is_given_up_after_time_and_attempts() -> None:
    """It takes both: 20 failures, and the time, in which a pause of the hub counts ten minutes beyond the wait."""
    record = failed(19, since_last=DAYS)
    assert record.failing_for == sum(BACK_OFF) + 13 * BACK_OFF[-1] + 18 * 600
    assert after(record, FAILED, NOW, 600, 1.0, record.failing_for)[1] is Verdict.GIVE_UP
    assert after(record, FAILED, NOW, 600, 1.0, DAYS)[1] is Verdict.RETRY
    assert after(record, FAILED, NOW, 0, 1.0, 1.0)[1] is Verdict.RETRY  # the first since the start
    assert after(failed(10, since_last=DAYS), FAILED, NOW, 600, 1.0, 1.0)[1] is Verdict.RETRY


def test_waits_that_a_receiver_asks_for_count_as_failing_time() -> None:
    """It asks for an hour again and again: after 72 hours the endpoint is disabled like any other."""
    record, verdict, hours = AttemptsRecord(), Verdict.RETRY, -1
    while verdict is Verdict.RETRY:
        asks = Outcome(Failure.SERVER_ERROR, 503, 3_600.0)
        record, verdict = after(record, asks, NOW, 3_600.0 if record.failures else 0.0, 1.0, DAYS)
        hours += 1
    assert (hours, record.failing_for) == (72, DAYS)


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 100))
def test_a_batch_reaches_one_event_and_grows_again(successes: list[bool], most: int) -> None:
    """Whatever happens the limit stays between 1 and the endpoint's own; seven failures in a row reach 1."""
    limit = most
    for success in successes:
        limit = batch_after(limit, limit, Outcome(None, 200) if success else FAILED, most)
        assert 1 <= limit <= most
    for _ in range(7):
        limit = batch_after(limit, limit, FAILED, most)
    assert limit == 1
    for _ in range(7):
        limit = batch_after(limit, limit, Outcome(None, 200), most)
    assert limit == most
