"""Endpoints over several hubs: one of them runs an endpoint, another takes over, and nothing is missing after it."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hub.webhooks import dispatchers, presence
from tests.support.calls import ask
from tests.support.events import ids, ticket
from tests.support.hubs import REGISTRATION, Caller, RunningHub, emit_all, scope_requests, until
from tests.support.nats_servers import shared
from tests.support.processes import PATIENCE, serving
from tests.support.receivers import ALLOWED, connect, receiving


@pytest.fixture
def flags() -> dict[str, str]:
    """The hubs may dial the receivers of these tests."""
    return ALLOWED


def runs(hub: RunningHub, name: str) -> bool:
    """Whether a hub delivers to an endpoint."""
    running = hub.hub.dispatchers.running(name)
    return running is not None and running.stream is not None


async def test_one_hub_runs_an_endpoint_and_another_one_takes_over(
    two: list[RunningHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While both are alive one delivers; when it falls silent the other continues; each event arrives, in order."""
    monkeypatch.setattr(presence, "HEARTBEAT_TIMEOUT", 2.0)
    integration, reader = await two[0].register("TICKET_CREATED")
    await until(lambda: integration.integration_id in two[1].hub.registry.integrations)
    name = f"{integration.integration_id}/default"
    async with receiving() as receiver:
        await connect(reader, receiver)
        await emit_all(two[0], [ticket(one) for one in ids("a", 50)])
        await receiver.until(lambda: len(receiver.ids) == 50)
        assert [runs(hub, name) for hub in two].count(True) == 1
        holder = two[0] if runs(two[0], name) else two[1]
        other = two[1] if holder is two[0] else two[0]
        await until(lambda: len(other.hub.registry.endpoints.heartbeats) == 2)
        silence(holder)
        await emit_all(other, [ticket(one) for one in ids("b", 50)])
        await receiver.until(lambda: "b00049" in receiver.ids)
        assert runs(other, name)
        assert list(dict.fromkeys(receiver.ids)) == [*ids("a", 50), *ids("b", 50)]


def silence(hub: RunningHub) -> None:
    """Let a hub do nothing for its endpoints any more, as if it had been killed; the rest of it goes on."""
    manager = hub.hub.dispatchers
    for task in [*manager._tasks, *hub.hub._tasks]:
        work = task.get_coro()
        if getattr(work, "__qualname__", "").startswith(("Dispatchers.run", "Dispatchers._deliver")):
            task.cancel()


async def test_a_stopping_hub_hands_its_endpoints_over_at_once(two: list[RunningHub]) -> None:
    """A clean stop stores the place: the other hub continues without duplicates, before a heartbeat is missed."""
    integration, reader = await two[0].register("TICKET_CREATED")
    await until(lambda: integration.integration_id in two[1].hub.registry.integrations)
    name = f"{integration.integration_id}/default"
    async with receiving() as receiver:
        await connect(reader, receiver)
        await emit_all(two[0], [ticket(one) for one in ids("a", 50)])
        await receiver.until(lambda: len(receiver.ids) == 50)
        holder = two[0] if runs(two[0], name) else two[1]
        other = two[1] if holder is two[0] else two[0]
        await until(lambda: len(other.hub.registry.endpoints.heartbeats) == 2)
        await holder.hub.stop()
        await emit_all(other, [ticket(one) for one in ids("b", 50)])
        await receiver.until(lambda: len(receiver.ids) >= 100)
        assert receiver.ids == [*ids("a", 50), *ids("b", 50)]


async def test_a_pause_applies_at_every_replica(two: list[RunningHub]) -> None:
    """At whichever hub the developer pauses it, the hub that delivers stops."""
    integration, reader = await two[0].register("TICKET_CREATED")
    await until(lambda: integration.integration_id in two[1].hub.registry.integrations)
    name = f"{integration.integration_id}/default"
    async with receiving() as receiver:
        await connect(reader, receiver)
        await emit_all(two[0], [ticket("one")])
        await receiver.until(lambda: receiver.ids == ["one"])
        holder = two[0] if runs(two[0], name) else two[1]
        other = two[1] if holder is two[0] else two[0]
        await ask(other.caller(reader.key), "WebhookService/PauseEndpoint")
        await until(lambda: not runs(holder, name))
        sent = receiver.requests
        await emit_all(other, [ticket("two")])
        await asyncio.sleep(0)
        assert receiver.requests == sent


async def test_a_hub_that_lost_an_endpoint_leaves_it_alone(
    two: list[RunningHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another hub's place ends the dispatcher here, and this hub waits before it claims again."""
    monkeypatch.setattr(dispatchers, "LOST_FOR", 60.0)
    integration, reader = await two[0].register("TICKET_CREATED")
    await until(lambda: integration.integration_id in two[1].hub.registry.integrations)
    name = f"{integration.integration_id}/default"
    async with receiving() as receiver:
        await connect(reader, receiver)
        await receiver.until(lambda: receiver.types == ["ready"])
        holder = two[0] if runs(two[0], name) else two[1]
        other = two[1] if holder is two[0] else two[0]
        record = other.hub.registry.endpoints.require(integration.integration_id, "default").record
        assert await other.hub.dispatchers.places.claim(record, name) is not None
        await until(lambda: not runs(holder, name))
        assert not holder.hub.dispatchers.places.holds(name)


async def test_another_hub_continues_after_a_kill(tmp_path: Path, name: str) -> None:
    """SIGKILL ends the hub that delivers, with a request under way: the other one delivers all of it, in order."""
    variables = {"HUB_STORAGE": shared().url, "HUB_NATS_STREAM": name, "HUB_WEBHOOK_ALLOW": ALLOWED["webhook_allow"]}
    held = asyncio.Event()

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        if body["type"] == "events" and body["data"]["events"][0]["id"].startswith("b") and not held.is_set():
            held.set()
            await asyncio.Event().wait()  # the hub that waits for this answer is killed
        return None

    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(serving(cwd=tmp_path, **variables))
        keys = await first.first_keys()
        (tmp_path / "second").mkdir()
        second = await stack.enter_async_context(serving(cwd=tmp_path / "second", **variables))
        receiver = await stack.enter_async_context(receiving(behave))
        admin = first.caller(keys["HUB_ADMIN_KEY"])
        key = (
            await ask(
                admin, "AdminService/RegisterIntegration", **REGISTRATION, scopes=scope_requests("TICKET_CREATED")
            )
        ).key
        await connect(first.caller(key.secret), receiver)
        await emit(first.caller(keys["HUB_BOT_KEY"]), ids("a", 20))
        await receiver.until(lambda: len(receiver.ids) == 20)
        await emit(first.caller(keys["HUB_BOT_KEY"]), ids("b", 20))
        async with asyncio.timeout(PATIENCE):
            await held.wait()
        holder = first if await sent(first.caller(key.secret)) else second
        other = second if holder is first else first
        holder.process.kill()
        await holder.process.wait()
        await emit(other.caller(keys["HUB_BOT_KEY"]), ids("c", 20))
        await receiver.until(lambda: "c00019" in receiver.ids)
        assert list(dict.fromkeys(receiver.ids)) == [*ids("a", 20), *ids("b", 20), *ids("c", 20)]


async def emit(bot: Caller, names: list[str]) -> None:
    """Have events stored."""
    await ask(bot, "EventService/BatchEmitEvents", events=[ticket(name) for name in names])


async def sent(caller: Caller) -> bool:
    """Whether the hub that is asked has sent events to the endpoint."""
    return any(one.events for one in (await ask(caller, "WebhookService/ListAttempts")).attempts)
