"""The documented limits of sending (docs/webhooks.md) hold."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from hub import config
from hub.addresses import networks
from hub.clock import Clock
from hub.webhooks import assembly, dispatcher, schedule, sender, verification
from hub.webhooks.destinations import Policy
from hub.webhooks.schedule import Failure, Pace
from hub.webhooks.sender import Request, Sender
from tests.support.calls import ask
from tests.support.events import ids
from tests.support.hubs import FakeClock, StartHub, emit, until
from tests.support.name_server import serving_names
from tests.support.receivers import ALLOWED, connect, endpoint_when, receiving

LOCAL = Policy(allow=tuple(networks("127.0.0.0/8")))


@pytest.fixture
async def local() -> AsyncIterator[Sender]:
    """A sender that may send to loopback."""
    made = Sender(config.load({}), LOCAL, Clock())
    yield made
    await made.close()


def request(url: str, holder: str = "x") -> Request:
    """A request of an integration."""
    return Request(url, dict, b"{}", holder, Pace.QUICK, is_current=lambda: True)


def test_the_limits_are_those_of_the_documentation() -> None:
    """What docs/webhooks.md promises, where nothing else in the tests would notice another number."""
    settings = config.load({})
    assert (sender.CONNECT_TIMEOUT, sender.REQUEST_TIMEOUT, sender.MAX_ANSWER) == (5, 15, 4_096)
    assert (verification.VERIFY_TIMEOUT, verification.VERIFY_PERIOD) == (15, 60)
    assert verification.VALID_FOR == 7 * 24 * 3_600
    assert (settings.webhook_requests, sender.PER_ADDRESS, settings.max_endpoints) == (200, 10, 5)
    assert dispatcher.MAX_BODY == 256 * 1_024
    assert schedule.BACK_OFF == (1.0, 5.0, 30.0, 120.0, 300.0)
    assert (schedule.MAX_RETRY_AFTER, schedule.GIVEN_UP_AFTER) == (3_600, 72 * 3_600)
    assert settings.webhook_ports == "443"


async def test_a_connection_that_is_not_accepted_times_out(local: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that accepts nothing, and has no room for more: a time-out, long before that of the request."""
    monkeypatch.setattr(sender, "CONNECT_TIMEOUT", 0.2)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for one in (first, second):
            one.setblocking(False)  # noqa: FBT003  its only argument
            one.connect_ex(full.getsockname())
        async with asyncio.timeout(sender.REQUEST_TIMEOUT / 2):
            outcome = await local.post(request(f"http://127.0.0.1:{full.getsockname()[1]}/"))
    assert outcome.failure is Failure.TIMEOUT


async def test_an_integration_has_at_most_ten_requests_to_an_address(local: Sender) -> None:
    """Its further requests wait; those of another integration are sent."""
    may_answer = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await may_answer.wait()
        return web.Response(status=204)

    async with receiving() as receiver:
        receiver.handler = wait
        posts = [asyncio.create_task(local.post(request(receiver.url))) for _ in range(sender.PER_ADDRESS + 5)]
        await until(lambda: receiver.requests == sender.PER_ADDRESS)
        other = asyncio.create_task(local.post(request(receiver.url, "y")))
        await until(lambda: receiver.requests == sender.PER_ADDRESS + 1)
        may_answer.set()
        assert {one.status for one in await asyncio.gather(*posts, other)} == {204}
        assert receiver.requests == sender.PER_ADDRESS + 6


@pytest.mark.parametrize(
    "url", ["http://hooks.example.com/", "https://hooks.example.com:8443/", "http://hooks.example.com:8080/"]
)
async def test_scheme_and_port_are_judged_with_the_address(
    local: Sender, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Where networks are open, a name's URL says nothing yet: what lies outside of them takes https on port 443."""
    async with serving_names(monkeypatch) as names:
        names.names["hooks.example.com"] = [["8.8.8.8"]]
        assert (await local.post(request(url))).failure is Failure.ADDRESS_REFUSED


async def test_denied_networks_are_not_dialled() -> None:
    """Also within a network that is open."""
    policy = Policy(allow=tuple(networks("127.0.0.0/8")), deny=tuple(networks("127.0.0.1/32")))
    made = Sender(config.load({}), policy, Clock())
    async with receiving() as receiver:
        assert (await made.post(request(receiver.url))).failure is Failure.ADDRESS_REFUSED
        assert receiver.requests == 0
    await made.close()


async def test_the_addresses_of_the_store_are_not_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their names, with and without a port: a receiver cannot be the hub's own store."""
    settings = config.load({"storage": "nats://store.example.com:4222,nats://203.0.114.7"})
    async with serving_names(monkeypatch) as names:
        names.names["store.example.com"] = [["203.0.114.5"]]
        policy = await assembly.policy_of(settings)
    refused = {str(address) for address in policy.own}
    assert refused >= {"203.0.114.5", "203.0.114.7"}
    assert all(policy.why_refused("https", address, 443) for address in policy.own)


@pytest.mark.usefixtures("fast_retries")
async def test_an_endpoint_has_one_request_in_flight(start_hub: StartHub) -> None:
    """However many bodies wait, and whether the one before was taken or not."""
    in_flight = most = refused = 0

    async def behave(_body: dict[str, Any], _request: web.Request) -> web.Response | None:
        nonlocal in_flight, most, refused
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.01)
        in_flight -= 1
        refused += 1
        return web.Response(status=500) if refused % 3 == 0 else None

    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver, max_batch_size=5)
        names = ids("e", 60)
        await emit(hub, names)
        await receiver.until(lambda: names[-1] in receiver.ids)
        assert (receiver.ids, most) == (names, 1)


class HeldClock(FakeClock):
    """A clock whose waits of up to a second end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []
        self.go = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Wait for the test."""
        if seconds > 1:
            await super().sleep(seconds)
        else:
            self.waits.append(seconds)
            await self.go.wait()


async def test_an_endpoint_gets_no_more_requests_a_second_than_it_asked_for(start_hub: StartHub) -> None:
    """With `max_rate` 1 the second body waits for what is left of a second, though it is there."""
    clock = HeldClock()
    hub = await start_hub(clock, **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver, max_rate=1)
        await receiver.until(lambda: receiver.types == ["ready"])
        await emit(hub, ["one"])
        await until(lambda: clock.waits)
        assert receiver.types == ["ready"]
        clock.go.set()
        await receiver.until(lambda: receiver.ids == ["one"])


@pytest.mark.usefixtures("fast_retries")
async def test_a_body_has_a_largest_size(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that are more than that are sent in several bodies, in order; one alone may be larger."""
    monkeypatch.setattr(dispatcher, "MAX_BODY", 2_000)
    sizes: list[tuple[int, int]] = []

    async def behave(body: dict[str, Any], request: web.Request) -> web.Response | None:
        if body["type"] == "events":
            sizes.append((len(await request.read()), len(body["data"]["events"])))
        return None

    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        names = ids("e", 100)
        await emit(hub, names)
        await receiver.until(lambda: names[-1] in receiver.ids)
        assert receiver.ids == names
        assert all(size <= 2_000 or events == 1 for size, events in sizes)


@pytest.mark.usefixtures("fast_retries")
async def test_status_413_halves_the_batch(start_hub: StartHub) -> None:
    """413 halves the batch until it is taken; nothing is missing."""

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        return web.Response(status=413) if len(body["data"].get("events", ())) > 3 else None

    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        names = ids("e", 30)
        await emit(hub, names)
        await receiver.until(lambda: names[-1] in receiver.ids)
        assert receiver.ids == names


@pytest.mark.parametrize(("status", "asked", "wait"), [(429, 1_200, 1_200), (503, 90_000, 3_600), (500, 1_200, 0)])
async def test_retry_after_is_obeyed_with_429_and_503(start_hub: StartHub, status: int, asked: int, wait: int) -> None:
    """`Retry-After` with 429 and 503, up to an hour; with another status it means nothing."""
    clock, refused = FakeClock(), 0

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        nonlocal refused
        refused += body["type"] == "events"
        is_first = body["type"] == "events" and refused == 1
        return web.Response(status=status, headers={"retry-after": str(asked)}) if is_first else None

    hub = await start_hub(clock, **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        await emit(hub, ["one"])
        if wait:
            endpoint = await endpoint_when(reader, lambda one: one.failed_attempts)
            assert (endpoint.http_status, receiver.ids) == (status, [])
            [failed] = [one for one in (await ask(reader, "WebhookService/ListAttempts")).attempts if one.category]
            assert failed.next_attempt_time.ToSeconds() - failed.time.ToSeconds() >= wait
            clock.monotonic_offset += wait
        await receiver.until(lambda: receiver.ids == ["one"])
