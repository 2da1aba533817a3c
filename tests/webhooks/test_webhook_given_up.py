"""An endpoint that fails for 72 hours, in the time of a fake clock."""

import random
from itertools import pairwise, repeat
from typing import Any

import pytest
from aiohttp import web

from hub.control.endpoints import name_of
from hub.endpoint_model import EndpointRecord, EndpointState
from hub.webhooks.schedule import BACK_OFF
from tests.support.calls import ask
from tests.support.events import ids
from tests.support.hubs import FakeClock, RunningHub, StartHub, emit, pass_time, until
from tests.support.receivers import ALLOWED, connect, endpoint_when, receiving

ACTIVE, FAILING, DISABLED = 2, 3, 5
SERVER_ERROR = 8
RETENTION = 72 * 3_600
KEPT_FROM = 800
"""The attempt, of about 870, after which come the events that are still kept at the end."""


class Down:
    """A receiver's answers while it is down, with the times of its requests by a clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.times: list[float] = []
        self._clock = clock

    async def behave(self, body: dict[str, Any], _: web.Request) -> web.Response | None:
        """Refuse everything after the first word."""
        if body["type"] == "ready":
            return None
        self.times.append(self._clock.monotonic())
        return web.Response(status=500)


def record_of(hub: RunningHub) -> EndpointRecord:
    """The one endpoint of a hub."""
    [record] = hub.hub.registry.endpoints.all()
    return record


def failures(hub: RunningHub) -> int:
    """How often in a row it has failed."""
    record = record_of(hub)
    return hub.hub.dispatchers.places.of(record, name_of(record)).attempts.failures


def is_disabled(hub: RunningHub) -> bool:
    """Whether it is switched off."""
    return record_of(hub).state is EndpointState.DISABLED


def let_pass(clock: FakeClock, seconds: float) -> None:
    """Let time pass by both clocks."""
    clock.wall_offset += round(seconds * 1e6)
    clock.monotonic_offset += seconds


async def test_an_endpoint_is_disabled_after_72_hours_of_failures(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that retention removed meanwhile are a gap once the endpoint is resumed."""
    monkeypatch.setattr(random, "random", lambda: 1.0)  # each back-off lasts as long as it can
    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED, retention=RETENTION)
    integration, reader = await hub.register("TICKET_CREATED")
    down = Down(clock)
    async with receiving(down.behave) as receiver:
        receiver.clock = clock
        await connect(reader, receiver)
        await emit(hub, ids("gone", 5))
        waits = [*BACK_OFF[:-1], *repeat(BACK_OFF[-1], RETENTION // int(BACK_OFF[-1]))]
        for count, wait in enumerate(waits, 1):
            await until(lambda count=count: failures(hub) == count or is_disabled(hub))  # type: ignore[misc]
            if is_disabled(hub):
                break  # on a slow machine its own time counts, too
            if count == KEPT_FROM:
                await emit(hub, ids("kept", 5))
            let_pass(clock, wait)
        endpoint = await endpoint_when(reader, lambda one: one.state == DISABLED)
        assert (endpoint.last_failure, endpoint.http_status) == (SERVER_ERROR, 500)
        assert "nothing but failure" in endpoint.disable_reason
        trail = await ask(hub.admin, "AdminService/ListAuditEntries", integration_id=integration.integration_id)
        assert trail.entries[0].reason == endpoint.disable_reason
        gaps = [later - earlier for earlier, later in pairwise(down.times)]
        assert all(gap >= wait for gap, wait in zip(gaps, waits, strict=False))
        first, *_, before, last = down.times
        assert last - first >= RETENTION > before - first

        await pass_time(hub, clock, BACK_OFF[-1])
        down.times.clear()
        receiver.behave = None
        verified = await ask(reader, "WebhookService/ResumeEndpoint")
        assert verified.endpoint.state == ACTIVE
        await receiver.until(lambda: receiver.ids == ids("kept", 5))
        assert down.times == []
        assert receiver.types == ["ready", "ready", "gap", "events"]
        gap = receiver.bodies[2]["data"]
        assert gap["cause"] == "GAP_CAUSE_RETENTION"
        assert gap["from_time"] < gap["to_time"]


async def test_failures_outlive_a_restart_before_anything_was_taken(start_hub: StartHub) -> None:
    """A receiver that passes the verification and takes nothing after it is given up, however often hubs restart."""
    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")

    async def refuse(_body: dict[str, Any], _request: web.Request) -> web.Response:
        return web.Response(status=500)

    async with receiving(refuse) as receiver:
        receiver.clock = clock
        await connect(reader, receiver)
        for count, wait in enumerate(BACK_OFF, 1):
            await until(lambda count=count: failures(hub) == count)  # type: ignore[misc]
            let_pass(clock, wait if count < len(BACK_OFF) else 0.0)
        before = await endpoint_when(reader, lambda one: one.state == FAILING)
        await hub.close()
        hub = await start_hub(clock, **ALLOWED)
        [name] = hub.hub.registry.endpoints.places
        await until(lambda: hub.hub.dispatchers.running(name) is not None)
        again = await endpoint_when(hub.caller(reader.key), lambda one: one.failed_attempts)
        assert (again.state, again.failing_since) == (before.state, before.failing_since)
        let_pass(clock, BACK_OFF[-1])
        await until(lambda: failures(hub) == len(BACK_OFF) + 1)
