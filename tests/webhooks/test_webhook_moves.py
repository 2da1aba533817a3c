"""Endpoints survive kill -9, a restore, a move to another store, and trimmed history."""

import signal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hub.webhooks import dispatcher
from tests.support.calls import ask
from tests.support.events import ids, ticket, verified
from tests.support.hubs import REGISTRATION, Caller, FakeClock, StartHub, emit_all, scope_requests, until
from tests.support.processes import Serving, run_hub, serving
from tests.support.receivers import ALLOWED, connect, receiving

ALLOW = {"HUB_WEBHOOK_ALLOW": ALLOWED["webhook_allow"]}


async def register(hub: Serving, keys: dict[str, str]) -> tuple[Caller, Caller]:
    """The bot, and a new integration that may see new tickets."""
    admin = hub.caller(keys["HUB_ADMIN_KEY"])
    made = await ask(admin, "AdminService/RegisterIntegration", **REGISTRATION, scopes=scope_requests("TICKET_CREATED"))
    return hub.caller(keys["HUB_BOT_KEY"]), hub.caller(made.key.secret)


async def emit(bot: Caller, names: list[str]) -> None:
    """Store new tickets."""
    await ask(bot, "EventService/BatchEmitEvents", events=[ticket(name) for name in names])


async def test_nothing_is_missing_after_kill_9(tmp_path: Path) -> None:
    """Killed between a body and its commit, again and again: each event arrives, in order; some arrive twice."""
    async with receiving() as receiver:
        names = ids("e", 600)
        async with serving(cwd=tmp_path, **ALLOW) as hub:
            keys = await hub.first_keys()
            bot, reader = await register(hub, keys)
            await connect(reader, receiver)
            await emit(bot, names[:150])
            await receiver.until(lambda: len(receiver.ids) > 0)
            await hub.stop(signal.SIGKILL)
        for start in (150, 300, 450):
            async with serving(cwd=tmp_path, **ALLOW) as hub:
                bot = hub.caller(keys["HUB_BOT_KEY"])
                await emit(bot, names[start : start + 150])
                await receiver.until(lambda start=start: names[start] in receiver.ids)  # type: ignore[misc]
                await hub.stop(signal.SIGKILL)
        async with serving(cwd=tmp_path, **ALLOW):
            await receiver.until(lambda: names[-1] in receiver.ids)
        assert list(dict.fromkeys(receiver.ids)) == names


async def test_an_endpoint_whose_secret_is_forgotten_is_named(tmp_path: Path) -> None:
    """By the command that forgets, and by the log of the hub; it gets events again once its developer has rotated."""
    async with receiving() as receiver:
        async with serving(cwd=tmp_path, **ALLOW) as hub:
            keys = await hub.first_keys()
            bot, reader = await register(hub, keys)
            await connect(reader, receiver)
        assert (await run_hub("rotate-secret", cwd=tmp_path)).code == 0
        async with serving(cwd=tmp_path, **ALLOW) as hub:
            bot, reader = hub.caller(bot.key), hub.caller(reader.key)
            await emit(bot, ["one"])
            await receiver.until(lambda: receiver.ids == ["one"])
            await ask(reader, "WebhookService/ListEndpoints")
            await hub.stop()  # saves that each key has moved to the secret in force
        forgotten = await run_hub("rotate-secret", "--forget-earlier", cwd=tmp_path)
        assert "/default gets nothing from now on" in forgotten.out
        async with serving(cwd=tmp_path, **ALLOW) as hub:
            assert (await hub.heard("an endpoint has no secret"))["endpoint"].endswith("/default")
            await emit(hub.caller(bot.key), ["two"])
            reader = hub.caller(reader.key)
            receiver.secret = (await ask(reader, "WebhookService/RotateEndpointSecret")).secret
            await ask(reader, "WebhookService/VerifyEndpoint")
            await receiver.until(lambda: receiver.ids[-1:] == ["two"])


async def test_a_restore_is_a_gap(tmp_path: Path) -> None:
    """After a restore the endpoint gets a gap, then what the backup has; its secret is the same."""
    async with receiving() as receiver:
        async with serving(cwd=tmp_path, **ALLOW) as hub:
            keys = await hub.first_keys()
            bot, reader = await register(hub, keys)
            await connect(reader, receiver)
            await emit(bot, ["one"])
            await receiver.until(lambda: receiver.ids == ["one"])
            backup = await run_hub("backup", "hub.backup", cwd=tmp_path)
            assert backup.code == 0, backup.err
        restored = await run_hub("restore", "hub.backup", cwd=tmp_path, HUB_DATA_DIR="other")
        assert restored.code == 0, restored.err
        async with serving(cwd=tmp_path, **ALLOW, HUB_DATA_DIR="other") as hub:
            await emit(hub.caller(keys["HUB_BOT_KEY"]), ["two"])
            await receiver.until(lambda: receiver.ids[-1:] == ["two"])
        assert "gap" in receiver.types
        gap = next(body for body in receiver.bodies if body["type"] == "gap")
        assert gap["data"]["cause"] == "GAP_CAUSE_RESTORE"


async def test_an_import_keeps_the_place_of_an_endpoint(tmp_path: Path) -> None:
    """After export and import delivery continues at the same place, with the same secret."""
    async with receiving() as receiver:
        async with serving(cwd=tmp_path, **ALLOW) as hub:
            keys = await hub.first_keys()
            bot, reader = await register(hub, keys)
            await connect(reader, receiver)
            await emit(bot, ids("a", 20))
            await receiver.until(lambda: len(receiver.ids) == 20)
            await hub.stop()
        exported = await run_hub("export", "hub.export", cwd=tmp_path)
        imported = await run_hub("import", "hub.export", cwd=tmp_path, HUB_DATA_DIR="b")
        assert (exported.code, imported.code) == (0, 0), exported.err + imported.err
        async with serving(cwd=tmp_path, **ALLOW, HUB_DATA_DIR="b") as hub:
            await emit(hub.caller(keys["HUB_BOT_KEY"]), ids("b", 20))
            await receiver.until(lambda: len(receiver.ids) >= 40)
        assert receiver.ids == [*ids("a", 20), *ids("b", 20)]
        assert receiver.types.count("ready") == 1
        assert "gap" not in receiver.types


async def test_trimmed_history_is_a_gap(start_hub: StartHub) -> None:
    """Events that retention removed while the endpoint was away are named as a gap, before what is kept."""
    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await receiver.until(lambda: receiver.types == ["ready"])
        await ask(reader, "WebhookService/PauseEndpoint")
        await emit_all(hub, [ticket(name) for name in ids("gone", 5)])
        first = await hub.hub.log.trim(hub.hub.feed.through + 1, 1_000)
        hub.hub.feed.trimmed(first, clock.now())
        await emit_all(hub, [ticket("kept")])
        clock.monotonic_offset += 61
        await ask(reader, "WebhookService/ResumeEndpoint")
        await receiver.until(lambda: receiver.ids == ["kept"])
        assert receiver.types == ["ready", "ready", "gap", "events"]
        assert receiver.bodies[2]["data"]["cause"] == "GAP_CAUSE_RETENTION"


async def test_an_endpoint_without_events_for_long_gets_no_gap(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place moves over what it does not see, so that retention takes nothing from before it."""
    monkeypatch.setattr(dispatcher, "HEARTBEAT", 1.0)
    monkeypatch.setattr(dispatcher, "QUIET", 60.0)  # a receiver whose clock is ten minutes behind takes nothing
    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await receiver.until(lambda: receiver.types == ["ready"])
        await emit_all(hub, [verified(name) for name in ids("unseen", 5)])
        [name] = hub.hub.registry.endpoints.places
        last = await hub.hub.log.newest()
        clock.wall_offset += round(dispatcher.QUIET * 1e6)
        await until(lambda: hub.hub.registry.endpoints.places[name].record.position >= last)
        await ask(reader, "WebhookService/PauseEndpoint")
        first = await hub.hub.log.trim(last + 1, 1_000)
        hub.hub.feed.trimmed(first, clock.now())
        await emit_all(hub, [ticket("kept")])
        clock.monotonic_offset += 61
        await ask(reader, "WebhookService/ResumeEndpoint")
        await receiver.until(lambda: receiver.ids == ["kept"])
        assert receiver.types == ["ready", "ready", "events"]


@pytest.mark.usefixtures("fast_retries")
async def test_a_gap_is_repeated_until_it_is_accepted(start_hub: StartHub) -> None:
    """A receiver that refuses the gap gets it again; nothing after it comes first."""
    refused = 0

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        nonlocal refused
        if body["type"] == "gap" and refused < 3:
            refused += 1
            return web.Response(status=500)
        return None

    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        await receiver.until(lambda: receiver.types == ["ready"])
        await ask(reader, "WebhookService/PauseEndpoint")
        await emit_all(hub, [ticket("gone")])
        first = await hub.hub.log.trim(hub.hub.feed.through + 1, 1_000)
        hub.hub.feed.trimmed(first, clock.now())
        await emit_all(hub, [ticket("kept")])
        clock.monotonic_offset += 61
        await ask(reader, "WebhookService/ResumeEndpoint")
        await receiver.until(lambda: receiver.ids == ["kept"])
        assert receiver.types == ["ready", "ready", "gap", "events"]
        assert refused == 3
