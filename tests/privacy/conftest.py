"""A hub whose time the tests of privacy hold in their hands."""

import pytest

from tests.support.hubs import FakeClock, RunningHub, StartHub


@pytest.fixture
def clock() -> FakeClock:
    """The hub's clock."""
    return FakeClock()


@pytest.fixture
async def timed_hub(start_hub: StartHub, clock: FakeClock) -> RunningHub:
    """A hub by that clock, in which no write takes too long because a test let the time jump meanwhile."""
    return await start_hub(clock, write_deadline=1e9)
