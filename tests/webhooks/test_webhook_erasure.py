"""Erasures reach receivers: each gets the notice, in order, and its 2xx confirms it."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from tests.support.calls import ask
from tests.support.events import event, ticket
from tests.support.hubs import PATIENCE, RunningHub, StartHub
from tests.support.privacy import done
from tests.support.receivers import ALLOWED, connect, endpoint_when, receiving

USER = "80351110224678912"


async def test_a_receiver_gets_and_confirms_an_erasure_notice(start_hub: StartHub) -> None:
    """What it received counts as sent; the notice is a body of its own; after its 2xx it is confirmed."""
    hub = await start_hub(**ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await hub.emit(event("one", ticket_created={"creator_user_id": USER}))
        await receiver.until(lambda: receiver.ids == ["one"])
        found = (await ask(hub.admin, "PrivacyService/ListDisclosures", user_id=USER)).disclosures
        assert [(one.integration_id, one.by, one.event_count) for one in found] == [(integration.integration_id, 2, 1)]
        made = await ask(hub.admin, "PrivacyService/EraseUser", user_id=USER, reason="asked for")
        await receiver.until(lambda: "erased" in receiver.types)
        kept = hub.hub.dispatchers._parts.bodies._pieces
        assert not [piece for piece in kept.values() if USER.encode() in piece]
        told = next(body for body in receiver.bodies if body["type"] == "erased")
        assert told["data"]["user_id"] == USER
        async with asyncio.timeout(PATIENCE):
            while True:
                erasure = await ask(hub.admin, "PrivacyService/GetErasure", erasure_id=made.erasure.erasure_id)
                notices = {one.integration_id: one for one in erasure.erasure.notices}
                if notices and notices[integration.integration_id].confirm_time.seconds:
                    break
                await asyncio.sleep(0.05)


async def test_the_list_of_attempts_forgets_ids_of_erased_events(start_hub: StartHub) -> None:
    """The bot may have put a user into the id of an event, which a failed attempt shows."""

    async def refuse(body: dict[str, Any], _: web.Request) -> web.Response | None:
        return web.Response(status=500) if body["type"] == "events" else None

    async def listed() -> list[str]:
        attempts = (await ask(reader, "WebhookService/ListAttempts")).attempts
        return [one.first_event_id for one in attempts if one.category]

    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(refuse) as receiver:
        await connect(reader, receiver)
        await hub.emit(event(f"by-{USER}", ticket_created={"creator_user_id": USER}))
        await endpoint_when(reader, lambda one: one.failed_attempts)
        assert set(await listed()) == {f"by-{USER}"}
        await ask(hub.admin, "PrivacyService/EraseUser", user_id=USER, reason="asked for")
        assert set(await listed()) == {""}


@pytest.mark.usefixtures("fast_retries")
async def test_a_notice_that_is_not_accepted_is_sent_again(start_hub: StartHub) -> None:
    """A receiver that fails twice still gets the notice, before the events that follow it."""
    refused = 0

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        nonlocal refused
        if body["type"] == "erased" and refused < 2:
            refused += 1
            return web.Response(status=500)
        return None

    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        await hub.emit(event("one", ticket_created={"creator_user_id": USER}))
        await receiver.until(lambda: receiver.ids == ["one"])
        made = await ask(hub.admin, "PrivacyService/EraseUser", user_id=USER, reason="asked for")
        await done(hub.admin, made.erasure.erasure_id)
        await hub.emit(ticket("next"))
        await receiver.until(lambda: "next" in receiver.ids)
        assert (receiver.types, refused) == (["ready", "events", "erased", "events"], 2)


@pytest.mark.parametrize("what", ["erasure", "sharing"])
async def test_a_request_in_flight_is_aborted_when_its_event_is_hidden(start_hub: StartHub, what: str) -> None:
    """A receiver that holds a request back loses it when its event is erased, or its guild shares no longer."""
    held = asyncio.Event()

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        if body["type"] == "events" and not held.is_set():
            held.set()
            await asyncio.Event().wait()  # for ever: the hub is to give it up
        return None

    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        await hub.emit(event("theirs", ticket_created={"creator_user_id": USER}))
        await asyncio.wait_for(held.wait(), PATIENCE)
        await withhold(hub, what)
        await hub.emit(ticket("other", "42"))
        await receiver.until(lambda: "other" in receiver.ids)
        assert receiver.ids == ["other"]
        tried = (await ask(reader, "WebhookService/ListAttempts")).attempts
        assert [one.category for one in tried if one.category] == [], "it was given up after its time, not cut"


@pytest.mark.parametrize("what", ["erasure", "sharing"])
async def test_requests_without_hidden_events_continue(start_hub: StartHub, what: str) -> None:
    """An erasure, or a guild that shares no longer, cuts those requests that hold its events, and no others."""
    arrived, answers = asyncio.Event(), asyncio.Event()

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        if body["type"] == "events":
            arrived.set()
            await answers.wait()
        return None

    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        await hub.emit(event("other", guild_id="42", ticket_created={"creator_user_id": "5"}))
        async with asyncio.timeout(PATIENCE):
            await arrived.wait()
        sent = receiver.requests
        await withhold(hub, what)
        await hub.emit(event("next", guild_id="42", ticket_created={"creator_user_id": "5"}))
        answers.set()
        await receiver.until(lambda: "next" in receiver.ids)
        assert receiver.ids == ["other", "next"]
        assert receiver.requests == sent + 1


async def test_stream_and_endpoint_are_disclosed_separately(start_hub: StartHub) -> None:
    """An integration that reads a stream beside its endpoint has two entries, before an erasure and after it."""
    hub = await start_hub(**ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        for name in ("one", "two"):
            await hub.emit(event(name, ticket_created={"creator_user_id": USER}))
        await receiver.until(lambda: receiver.ids == ["one", "two"])
        stream = await reader.subscribe(earliest={}, max_batch_size=1)
        await stream.events(2)
        found = await ways(hub)
        assert found == [(integration.integration_id, by, 2) for by in (1, 2)]
        made = await ask(hub.admin, "PrivacyService/EraseUser", user_id=USER)
        erasure = await done(hub.admin, made.erasure.erasure_id)
        assert len(erasure.notices) == 1
        assert await ways(hub) == found


async def ways(hub: RunningHub) -> list[tuple[str, int, int]]:
    """Which integrations received something about the user, how, and how many events."""
    found = (await ask(hub.admin, "PrivacyService/ListDisclosures", user_id=USER)).disclosures
    return [(one.integration_id, one.by, one.event_count) for one in found]


async def withhold(hub: RunningHub, what: str) -> None:
    """Erase a user's events, or let guild 41 share no longer."""
    if what == "erasure":
        await ask(hub.admin, "PrivacyService/EraseUser", user_id=USER, reason="asked for")
    else:
        await ask(hub.bot, "DirectoryService/SetGuildSharing", guild_id="41", sharing=1, acting_user_id="7")
