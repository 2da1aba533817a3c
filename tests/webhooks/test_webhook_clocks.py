"""The wall clock is stepped by hours or a year while endpoints deliver, retry, rotate and are verified."""

import random
from typing import Any

import pytest
from aiohttp import web

from hub.endpoint_model import EndpointRecord
from hub.webhooks import schedule
from hub.webhooks.verification import VALID_FOR
from tests.support.calls import ask
from tests.support.events import ids
from tests.support.hubs import FakeClock, RunningHub, StartHub, emit, until
from tests.support.receivers import ALLOWED, connect, endpoint_when, receiving

HOUR = 3_600 * 1_000_000
YEAR = 365 * 24 * HOUR
STEPS = [3 * HOUR, -3 * HOUR, YEAR, -YEAR]


@pytest.fixture
def clock() -> FakeClock:
    """The clocks of the hub, and of the world around it."""
    return FakeClock()


@pytest.fixture
async def hub(start_hub: StartHub, clock: FakeClock) -> RunningHub:
    """A hub with this clock that may send to loopback."""
    return await start_hub(clock, **ALLOWED)


@pytest.fixture
def full_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each back-off last as long as it can."""
    monkeypatch.setattr(random, "random", lambda: 1.0)


def record_of(hub: RunningHub) -> EndpointRecord:
    """The one endpoint of the hub."""
    [record] = hub.hub.registry.endpoints.all()
    return record


@pytest.mark.parametrize("step", STEPS)
async def test_a_clock_step_loses_no_delivery(hub: RunningHub, clock: FakeClock, step: int) -> None:
    """Each event arrives once and in order, in a request of the present: a receiver refuses what is 5 minutes off."""
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        receiver.clock = clock
        await connect(reader, receiver)
        names: list[str] = []
        for number, offset in enumerate((0, step, 0, step, 0)):
            clock.wall_offset = offset
            names += ids(f"{number}-", 30)
            await emit(hub, names[-30:])
            await receiver.until(lambda last=names[-1]: last in receiver.ids)  # type: ignore[misc]
        assert receiver.ids == names
        assert receiver.forgeries == 1
        endpoint = await endpoint_when(reader, lambda one: one.commit_time.seconds)
        assert (endpoint.state, endpoint.failed_attempts) == (2, 0)


@pytest.mark.usefixtures("full_waits")
@pytest.mark.parametrize("step", STEPS)
async def test_a_clock_step_lengthens_no_retry(hub: RunningHub, clock: FakeClock, step: int) -> None:
    """Each retry is due when its back-off is over, and its request has the current time."""
    refused = 0

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        nonlocal refused
        if body["type"] == "events" and refused < 7:
            refused += 1
            return web.Response(status=500)
        return None

    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        receiver.clock = clock
        await connect(reader, receiver)
        names = ids("e", 3)
        await emit(hub, names)
        for count in range(1, 8):
            await endpoint_when(reader, lambda one, count=count: one.failed_attempts == count)  # type: ignore[misc]
            clock.wall_offset = step if count % 2 else 0
            clock.monotonic_offset += schedule.delay(count)
        await receiver.until(lambda: receiver.ids == names)
        assert refused == 7


@pytest.mark.usefixtures("full_waits")
@pytest.mark.parametrize("step", STEPS)
async def test_a_retry_over_a_restart_waits_no_longer_than_its_back_off(
    start_hub: StartHub, clock: FakeClock, step: int
) -> None:
    """Stored as a time of the wall clock, it is taken over as a wait that the back-off can have asked for."""
    hub = await start_hub(clock, **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    is_up = False

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        return None if is_up or body["type"] == "ready" else web.Response(status=500)

    async with receiving(behave) as receiver:
        receiver.clock = clock
        await connect(reader, receiver)
        await emit(hub, ["one"])
        for count in range(1, 6):
            await endpoint_when(reader, lambda one, count=count: one.failed_attempts == count)  # type: ignore[misc]
            clock.monotonic_offset += schedule.delay(count) if count < 5 else 0.0
        is_up = True
        await hub.close()
        clock.wall_offset += step
        again = await start_hub(clock, **ALLOWED)
        await until(lambda: is_waiting(again))
        clock.monotonic_offset += schedule.BACK_OFF[-1]
        await receiver.until(lambda: receiver.ids == ["one"])


def is_waiting(hub: RunningHub) -> bool:
    """Whether a hub has begun to deliver to its endpoint."""
    [name] = hub.hub.registry.endpoints.places
    running = hub.hub.dispatchers.running(name)
    return running is not None and running.stream is not None


@pytest.mark.parametrize("step", STEPS)
async def test_a_wrong_clock_of_the_hub_loses_no_event(hub: RunningHub, clock: FakeClock, step: int) -> None:
    """Only the hub's clock is stepped: 401 for requests of another time; once it is right, everything follows."""
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await emit(hub, ["one"])
        await receiver.until(lambda: receiver.ids == ["one"])
        clock.wall_offset = step
        await emit(hub, ["two", "three"])
        endpoint = await endpoint_when(reader, lambda one: one.failed_attempts)
        assert (endpoint.last_failure, endpoint.http_status) == (7, 401)
        assert receiver.ids == ["one"]
        clock.wall_offset = 0
        clock.monotonic_offset += schedule.BACK_OFF[-1]
        await receiver.until(lambda: receiver.ids == ["one", "two", "three"])


@pytest.mark.parametrize("step", STEPS)
async def test_the_week_of_a_verification_is_elapsed_time(hub: RunningHub, clock: FakeClock, step: int) -> None:
    """A step brings no verification about, and puts none off: the next one is due after a week that passed."""
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        receiver.clock = clock
        await connect(reader, receiver)
        names: list[str] = []

        async def deliver() -> None:
            names.append(f"{len(names)}")
            await emit(hub, names[-1:])
            await receiver.until(lambda: receiver.ids == names)

        await deliver()
        for count in (1, 2):
            clock.wall_offset += step
            clock.monotonic_offset += VALID_FOR / 2
            await deliver()
            assert receiver.forgeries == count
            verified = record_of(hub).verify_time
            clock.monotonic_offset += VALID_FOR / 2
            await until(lambda verified=verified: record_of(hub).verify_time != verified)  # type: ignore[misc]
            await deliver()
            assert receiver.forgeries == count + 1


@pytest.mark.parametrize("step", [-3 * HOUR, -YEAR])
async def test_a_verification_from_the_future_is_repeated(start_hub: StartHub, clock: FakeClock, step: int) -> None:
    """After a restart the hub finds a verification time in the future, so its age is unknown."""
    hub = await start_hub(clock, **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        receiver.clock = clock
        await connect(reader, receiver)
        await receiver.until(lambda: receiver.types == ["ready"])
        await hub.close()
        clock.wall_offset = step
        again = await start_hub(clock, **ALLOWED)
        await until(lambda: record_of(again).verify_time <= clock.now())
        assert receiver.forgeries == 2


@pytest.mark.parametrize("step", STEPS)
async def test_a_clock_step_does_not_change_the_overlap_of_two_secrets(
    hub: RunningHub, clock: FakeClock, step: int
) -> None:
    """The former secret signs for the 24 hours that were promised, and no longer."""
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        receiver.clock = clock
        await connect(reader, receiver)
        await ask(reader, "WebhookService/RotateEndpointSecret")
        clock.wall_offset += step
        clock.monotonic_offset += 23 * 3_600
        await emit(hub, ["one"])
        await receiver.until(lambda: receiver.ids == ["one"])
        assert receiver.headers[-1]["webhook-signature"].count("v1,") == 2
        assert (await ask(reader, "WebhookService/GetEndpoint")).endpoint.HasField("previous_secret_expire_time")
        clock.monotonic_offset += 2 * 3_600
        await emit(hub, ["two"])
        endpoint = await endpoint_when(reader, lambda one: one.failed_attempts)
        assert endpoint.http_status == 401
        assert not endpoint.HasField("previous_secret_expire_time")
        assert receiver.ids == ["one"]
