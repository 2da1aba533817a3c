"""Delivery to an endpoint: in order and complete, by the current view, whatever the receiver does."""

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from hub.control.endpoint_changes import HUB_ITSELF
from hub.delivery.options import Start, SubscribeOptions
from hub.delivery.view import Narrowing
from hub.errors import KeyRevoked
from hub.model import Caller as CallerRecord
from hub.model import Role
from hub.webhooks import dispatchers, sender
from tests.support.calls import ask, set_scopes, steer
from tests.support.events import closed, ids, ticket
from tests.support.governance import install
from tests.support.hubs import PATIENCE, FakeClock, RunningHub, StartHub, emit_all
from tests.support.receivers import ALLOWED, connect, endpoint_when, receiving

ACTIVE, FAILING, PAUSED, DISABLED = 2, 3, 4, 5
CONNECT = 3


async def refusing(body: dict[str, Any], _: web.Request) -> web.Response | None:
    """Answers events with 500."""
    return web.Response(status=500) if body["type"] == "events" else None


async def test_events_reach_a_verified_receiver_in_order(start_hub: StartHub) -> None:
    """What was accepted after the endpoint was made arrives, in batches, signed as the official library verifies it."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    await emit_all(hub, [ticket("before")])
    async with receiving() as receiver:
        made = await connect(reader, receiver)
        assert made.state == ACTIVE
        names = ids("e", 250)
        await emit_all(hub, [ticket(name) for name in names])
        await receiver.until(lambda: len(receiver.ids) >= 250)
        assert receiver.ids == names
        assert receiver.types[0] == "ready"
        assert receiver.bodies[0]["data"]["effective_scopes"] == ["SCOPE_TICKET_CREATED"]
        assert max(len(body["data"]["events"]) for body in receiver.bodies[1:]) <= 100
        assert receiver.forgeries == 1
        endpoint = await endpoint_when(reader, lambda one: one.commit_time.seconds and not one.lag.nanos)
        assert endpoint.last_success_time.seconds


@pytest.mark.usefixtures("fast_retries")
async def test_a_receiver_that_fails_at_random_gets_everything_in_order(start_hub: StartHub) -> None:
    """Each event is taken once or more, and never before the one before it; nothing is missing."""
    dice = random.Random(12)  # noqa: S311  a test repeats itself

    async def behave(_body: dict[str, Any], _: web.Request) -> web.Response | None:
        if dice.random() < 0.4:
            return web.Response(status=dice.choice([400, 404, 429, 500, 503, 302]))
        return None

    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        names = ids("e", 400)
        for start in range(0, 400, 40):
            await emit_all(hub, [ticket(name) for name in names[start : start + 40]])
        await receiver.until(lambda: names[-1] in receiver.ids)
        assert list(dict.fromkeys(receiver.ids)) == names
        assert receiver.types.count("ready") == 1


@pytest.mark.usefixtures("fast_retries")
@pytest.mark.parametrize("end", ["abort", "close"])
async def test_a_broken_connection_is_retried(start_hub: StartHub, end: str) -> None:
    """A receiver that resets or closes instead of an answer gets the same events again, and nothing is missing."""
    broken = 0

    async def behave(body: dict[str, Any], request: web.Request) -> web.Response | None:
        nonlocal broken
        if body["type"] == "events" and broken < 3:
            broken += 1
            assert request.transport is not None
            getattr(request.transport, end)()
            return web.Response(status=500)
        return None

    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        names = ids("e", 50)
        await emit_all(hub, [ticket(name) for name in names])
        await receiver.until(lambda: names[-1] in receiver.ids)
        assert (receiver.ids, broken) == (names, 3)
        attempts = (await ask(reader, "WebhookService/ListAttempts")).attempts
        assert [one.category for one in attempts if one.category] == [CONNECT] * 3


@pytest.mark.usefixtures("fast_retries")
async def test_the_same_content_has_the_same_id_at_each_attempt(start_hub: StartHub) -> None:
    """A receiver that took a body and whose answer was lost recognises it; `hub-attempt` counts."""
    seen: list[tuple[str, str]] = []

    async def behave(body: dict[str, Any], request: web.Request) -> web.Response | None:
        if body["type"] != "events":
            return None
        seen.append((request.headers["webhook-id"], request.headers["hub-attempt"]))
        return web.Response(status=500) if len(seen) < 4 else None

    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        await hub.emit(ticket("one"))
        await receiver.until(lambda: receiver.ids == ["one"])
        await hub.emit(ticket("two"))
        await receiver.until(lambda: receiver.ids == ["one", "two"])
    assert [attempt for _, attempt in seen] == ["1", "2", "3", "4", "1"]
    assert len({message_id for message_id, _ in seen[:4]}) == 1
    assert seen[4][0] != seen[0][0]


@pytest.mark.usefixtures("fast_retries")
async def test_a_retry_holds_nothing_that_was_revoked(start_hub: StartHub) -> None:
    """The receiver refuses until a scope is taken away: from the answer on nothing of it is sent, retries included."""
    revoked = False
    late: list[dict[str, Any]] = []

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        if body["type"] != "events":
            return None
        late.extend(event for event in body["data"]["events"] if revoked and "ticket_closed" in event)
        return None if revoked else web.Response(status=500)

    hub = await start_hub(**ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED", "TICKET_STATS")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        for number in range(20):
            await emit_all(hub, [ticket(f"t{number:02d}"), closed(f"c{number:02d}")])
        await endpoint_when(reader, lambda one: one.failed_attempts >= 3)
        await set_scopes(hub, integration, "TICKET_CREATED")
        revoked = True
        await receiver.until(lambda: "t19" in receiver.ids)
    assert late == []
    assert receiver.ids == [f"t{number:02d}" for number in range(20)]
    assert receiver.types[:3] == ["ready", "grants_changed", "events"]
    assert receiver.bodies[1]["data"]["removed"] == ["SCOPE_TICKET_STATS"]


async def test_a_request_in_flight_is_aborted_when_its_scope_is_revoked(start_hub: StartHub) -> None:
    """A receiver that holds a request back loses it at the revocation; what it gets next is of the new view."""
    held = 0

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        nonlocal held
        if body["type"] == "events" and not held:
            held += 1
            await asyncio.Event().wait()  # for ever: the hub is to give it up
        return None

    hub = await start_hub(**ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED", "TICKET_STATS")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        await emit_all(hub, [closed("c"), ticket("t")])
        await receiver.until(lambda: receiver.types == ["ready"])
        await endpoint_when(reader, lambda _: held == 1)
        await set_scopes(hub, integration, "TICKET_CREATED")
        await receiver.until(lambda: receiver.ids == ["t"])
        assert receiver.types == ["ready", "grants_changed", "events"]


async def test_a_suspension_pauses_delivery_and_loses_nothing(start_hub: StartHub) -> None:
    """Suspended: nothing is sent; resumed: everything since follows."""
    hub = await start_hub(**ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await hub.emit(ticket("one"))
        await receiver.until(lambda: receiver.ids == ["one"])
        await steer(hub, "Suspend", integration)
        sent = receiver.requests
        await emit_all(hub, [ticket(name) for name in ids("s", 30)])
        assert receiver.requests == sent
        await steer(hub, "Resume", integration)
        await receiver.until(lambda: len(receiver.ids) == 31)
        assert receiver.ids == ["one", *ids("s", 30)]


async def test_only_guilds_that_agreed_are_delivered(start_hub: StartHub) -> None:
    """An integration that needs consent gets the guilds that agreed, for as long as they do."""
    hub = await start_hub(**ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED", guild_access=2)
    await install(hub, integration.integration_id, "51")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await emit_all(hub, [ticket("a", "51"), ticket("b", "52")])
        await receiver.until(lambda: receiver.ids == ["a"])
        await ask(
            hub.bot,
            "DirectoryService/UninstallIntegration",
            integration_id=integration.integration_id,
            guild_id="51",
            acting_user_id="7",
        )
        await install(hub, integration.integration_id, "53")
        await emit_all(hub, [ticket("c", "51"), ticket("d", "53")])
        await receiver.until(lambda: len(receiver.ids) == 2)
        assert receiver.ids == ["a", "d"]


async def test_a_pause_keeps_the_place(start_hub: StartHub) -> None:
    """PAUSED: nothing is sent; resumed: the endpoint is verified again, and delivery continues."""
    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await hub.emit(ticket("one"))
        await receiver.until(lambda: receiver.ids == ["one"])
        paused = await ask(reader, "WebhookService/PauseEndpoint")
        assert paused.endpoint.state == PAUSED
        await hub.emit(ticket("two"))
        clock.monotonic_offset += 61
        forgeries = receiver.forgeries
        resumed = await ask(reader, "WebhookService/ResumeEndpoint")
        assert resumed.endpoint.state == ACTIVE
        assert receiver.forgeries == forgeries + 1
        await receiver.until(lambda: receiver.ids == ["one", "two"])
        assert receiver.types == ["ready", "events", "ready", "events"]


@pytest.mark.parametrize("what", ["endpoint", "integration"])
async def test_a_deleted_endpoint_gets_a_last_notice(start_hub: StartHub, what: str) -> None:
    """`terminated`, once, and nothing after it; a new endpoint of the same name starts at its own entry."""
    hub = await start_hub(FakeClock(), **ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await receiver.until(lambda: receiver.types == ["ready"])
        if what == "integration":
            await steer(hub, "Delete", integration)
        else:
            await ask(reader, "WebhookService/DeleteEndpoint")
        await hub.emit(ticket("after"))
        await receiver.until(lambda: "terminated" in receiver.types)
        assert receiver.types == ["ready", "terminated"]
        found = await ask(hub.admin, "WebhookService/ListEndpoints", integration_id=integration.integration_id)
        assert list(found.endpoints) == []


async def test_status_410_disables_an_endpoint_until_it_is_resumed(start_hub: StartHub) -> None:
    """DISABLED at once, with the reason; the developer may resume it."""
    gone = True

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        return web.Response(status=410) if gone and body["type"] == "events" else None

    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        await hub.emit(ticket("one"))
        endpoint = await endpoint_when(reader, lambda one: one.state == DISABLED)
        assert (endpoint.last_failure, endpoint.http_status) == (9, 410)
        assert "410" in endpoint.disable_reason
        trail = await ask(hub.admin, "AdminService/ListAuditEntries", integration_id=integration.integration_id)
        newest = trail.entries[0]
        assert newest.method == "Webhooks/Deliver"
        assert "ENDPOINT_STATE_DISABLED" in [change.new_value.string_value for change in newest.changes]
        gone = False
        clock.monotonic_offset += 61
        await ask(reader, "WebhookService/ResumeEndpoint")
        await receiver.until(lambda: receiver.ids == ["one"])


@pytest.mark.usefixtures("fast_retries")
async def test_five_failures_make_an_endpoint_failing_until_a_success(start_hub: StartHub) -> None:
    """FAILING after five failures in a row, with what is known of them; one success ends it."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(refusing) as receiver:
        await connect(reader, receiver)
        await hub.emit(ticket("one"))
        endpoint = await endpoint_when(reader, lambda one: one.state == FAILING)
        assert endpoint.failed_attempts >= 5
        assert (endpoint.last_failure, endpoint.http_status) == (8, 500)
        assert endpoint.failing_since.seconds
        assert endpoint.lag.seconds or endpoint.lag.nanos
        receiver.behave = None
        await receiver.until(lambda: receiver.ids == ["one"])
        endpoint = await endpoint_when(reader, lambda one: one.state == ACTIVE)
        assert (endpoint.failed_attempts, endpoint.last_failure) == (0, 0)


@pytest.mark.usefixtures("fast_retries")
async def test_an_event_that_always_fails_is_isolated_and_can_be_skipped(start_hub: StartHub) -> None:
    """The batch is halved down to it; the attempt has its id, and the cursor with which to skip it."""

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        events = body["data"].get("events", []) if body["type"] == "events" else []
        return web.Response(status=400) if any(event["id"] == "e00007" for event in events) else None

    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        names = ids("e", 20)
        await emit_all(hub, [ticket(name) for name in names])
        await receiver.until(lambda: receiver.ids == names[:7])
        stuck = None
        while stuck is None:
            await endpoint_when(reader, lambda one: one.failed_attempts)
            attempts = (await ask(reader, "WebhookService/ListAttempts")).attempts
            stuck = next((one for one in attempts if one.cursor_after), None)
        assert (stuck.first_event_id, stuck.events, stuck.http_status) == ("e00007", 1, 400)
        await ask(reader, "WebhookService/RewindEndpoint", cursor=stuck.cursor_after)
        await receiver.until(lambda: names[-1] in receiver.ids)
        assert receiver.ids == [*names[:7], *names[8:]]


async def test_hanging_endpoints_delay_no_others(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many receivers hang, more than there are places for them: a live one beside them gets everything in order."""
    hub = await start_hub(**ALLOWED, max_endpoints=40, webhook_requests=40, max_changes=1_000)
    _, reader = await hub.register("TICKET_CREATED")
    _, other = await hub.register("TICKET_CREATED")

    async def hang(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    async with receiving() as dead, receiving() as live:
        for number in range(40):
            await connect(reader, dead, f"dead{number}")
        dead.handler = hang
        await connect(other, live)
        monkeypatch.setattr(sender, "REQUEST_TIMEOUT", 2.0)
        await hub.emit(ticket("first"))
        for number in range(40):
            await endpoint_when(reader, lambda one: one.failed_attempts, f"dead{number}")
        names = ids("e", 300)
        for start in range(0, 300, 30):
            await emit_all(hub, [ticket(name) for name in names[start : start + 30]])
        await live.until(lambda: names[-1] in live.ids)
        assert live.ids == ["first", *names]


async def test_endpoints_that_begin_to_hang_delay_no_others(start_hub: StartHub) -> None:
    """More endpoints than slots hang with their next event; another one gets its events meanwhile."""
    hub = await start_hub(**ALLOWED, max_endpoints=12, webhook_requests=4)
    _, reader = await hub.register("TICKET_CREATED")
    _, other = await hub.register("TICKET_CREATED")

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        if body["type"] == "events":
            await asyncio.Event().wait()
        return None

    async with AsyncExitStack() as stack:
        for number in range(12):
            dead = await stack.enter_async_context(receiving(behave))
            await connect(reader, dead, f"dead{number}")
            await dead.until(lambda dead=dead: dead.types == ["ready"])  # type: ignore[misc]
        live = await stack.enter_async_context(receiving())
        await connect(other, live)
        await live.until(lambda: live.types == ["ready"])
        names = ids("e", 30)
        await emit_all(hub, [ticket(name) for name in names])
        async with asyncio.timeout(PATIENCE):
            await live.until(lambda: live.ids == names)


async def test_a_restart_resumes_at_the_place(start_hub: StartHub) -> None:
    """After a clean stop nothing is delivered twice, and nothing is missing."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await emit_all(hub, [ticket(name) for name in ids("a", 120)])
        await receiver.until(lambda: len(receiver.ids) == 120)
        await hub.close()
        again = await start_hub(**ALLOWED)
        await emit_all(again, [ticket(name) for name in ids("b", 10)])
        await receiver.until(lambda: len(receiver.ids) >= 130)
        assert receiver.ids == [*ids("a", 120), *ids("b", 10)]
        assert receiver.types.count("ready") == 1


async def test_rewinding_delivers_again(start_hub: StartHub) -> None:
    """`earliest` brings all of it once more, `latest` nothing of it; each counts from the answer on."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await emit_all(hub, [ticket("one"), ticket("two")])
        await receiver.until(lambda: receiver.ids == ["one", "two"])
        await ask(reader, "WebhookService/RewindEndpoint", earliest=True)
        await receiver.until(lambda: receiver.ids == ["one", "two"] * 2)
        await ask(reader, "WebhookService/PauseEndpoint")
        await hub.emit(ticket("skipped"))
        await ask(reader, "WebhookService/RewindEndpoint", latest=True)
        endpoint = (await ask(reader, "WebhookService/GetEndpoint")).endpoint
        assert endpoint.cursor


async def test_an_integration_moves_between_webhook_and_stream(start_hub: StartHub) -> None:
    """The cursor of a body is one of Subscribe, and the other way round: nothing twice, nothing missing."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await emit_all(hub, [ticket("a"), ticket("b")])
        await receiver.until(lambda: receiver.ids == ["a", "b"])
        await ask(reader, "WebhookService/PauseEndpoint")
        await hub.emit(ticket("c"))
        stream = await reader.subscribe(cursor=receiver.bodies[-1]["data"]["cursor"])
        assert [event.id for event in await stream.events(1)] == ["c"]
        assert receiver.headers[-1]["hub-cursor"] == receiver.bodies[-1]["data"]["cursor"]


async def test_a_test_event_reaches_the_endpoint(start_hub: StartHub) -> None:
    """SendTestEvent goes to endpoints as to streams."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await receiver.until(lambda: receiver.types == ["ready"])
        sent = await ask(reader, "DeveloperService/SendTestEvent", event=ticket("sample"))
        assert sent.stream_count == 1
        await receiver.until(lambda: bool(receiver.events))
        assert receiver.events[0]["test"] is True
        assert receiver.ids == [sent.event_id]


async def test_delivery_counts_as_use(start_hub: StartHub) -> None:
    """The privilege report sees what an endpoint has taken."""
    hub = await start_hub(**ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await hub.emit(ticket("one"))
        await receiver.until(lambda: receiver.ids == ["one"])
        await endpoint_when(reader, lambda one: one.commit_time.seconds)
    assert hub.hub.registry.usage.scopes[integration.integration_id].keys() == {1}
    shown = await ask(reader, "EventService/ListOwnSubscriptions")
    assert list(shown.subscriptions) == []


async def test_narrowed_endpoints_get_what_they_ask_for(start_hub: StartHub) -> None:
    """Five endpoints are five readers, each with its own scopes, guilds and batches."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED", "TICKET_STATS")
    async with receiving() as one, receiving() as two:
        await connect(reader, one, "tickets", scopes=[1], guild_ids=["41"], max_batch_size=1)
        await connect(reader, two, "stats", scopes=[5])
        await emit_all(hub, [ticket("a"), closed("b"), ticket("c", "42"), ticket("d")])
        await one.until(lambda: one.ids == ["a", "d"])
        await two.until(lambda: two.ids == ["b"])
        assert [len(body["data"]["events"]) for body in one.bodies[1:]] == [1, 1]


async def test_the_dispatchers_stream_cannot_be_opened_by_a_call(hub: RunningHub) -> None:
    """The hub's own reader has a guard that no call can set: a caller without a key and without it gets nothing."""
    integration, _ = await hub.register("TICKET_CREATED")
    options = SubscribeOptions("~default", Start("latest"), True, Narrowing(), 1, 1.0, 0.0)  # noqa: FBT003
    for role in Role:
        caller = CallerRecord(role, "", integration.integration_id, HUB_ITSELF.method, "")
        with pytest.raises(KeyRevoked):
            async with hub.hub.streams.open(caller, options, lambda _: None):
                raise AssertionError("it was opened")
    assert hub.hub.streams.all() == []


async def test_checking_many_endpoints_yields_to_the_event_loop(start_hub: StartHub) -> None:
    """However many there are, what else there is to do has its turn after some of them."""
    hub = await start_hub(max_endpoints=5 * dispatchers.AT_ONCE, max_changes=1_000)
    _, reader = await hub.register("TICKET_CREATED")
    for number in range(5 * dispatchers.AT_ONCE):
        endpoint = {"endpoint_id": f"e{number}", "url": "https://hooks.example.com/"}
        await ask(reader, "WebhookService/CreateEndpoint", endpoint=endpoint)
    turns = 0
    update = asyncio.create_task(hub.hub.dispatchers.update())
    while not update.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 5


@pytest.mark.parametrize("turns", range(5))
async def test_the_dispatchers_stop_during_a_change(hub: RunningHub, turns: int) -> None:
    """A hub that stops in the moment of a change waits for them: its cancellation must not be lost."""
    own = hub.hub.dispatchers
    running = asyncio.create_task(own.run())
    await asyncio.sleep(0.01)
    own._news.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    assert await asyncio.wait({running}, timeout=PATIENCE) == ({running}, set())
