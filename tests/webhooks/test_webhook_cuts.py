"""A request in flight is aborted at once when its receiver may no longer have it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from tickets.hub.v1 import integration_pb2

from hub.webhooks import sender
from tests.support.calls import ask, set_scopes, steer
from tests.support.events import ticket
from tests.support.governance import OWNER, install
from tests.support.hubs import PATIENCE, Caller, RunningHub, StartHub
from tests.support.receivers import ALLOWED, connect, receiving

Act = Callable[[RunningHub, integration_pb2.Integration, Caller], Awaitable[object]]


async def revoke(hub: RunningHub, integration: integration_pb2.Integration, _: Caller) -> None:
    """Take the scope of the event away."""
    await set_scopes(hub, integration, "TICKET_STATS")


async def uninstall(hub: RunningHub, integration: integration_pb2.Integration, _: Caller) -> None:
    """Let the event's guild uninstall the integration."""
    await ask(
        hub.bot,
        "DirectoryService/UninstallIntegration",
        integration_id=integration.integration_id,
        guild_id="41",
        acting_user_id="7",
    )


async def agree_to_less(hub: RunningHub, integration: integration_pb2.Integration, _: Caller) -> None:
    """Let the event's guild agree to another scope alone."""
    await install(hub, integration.integration_id, "41", "TICKET_STATS")


async def suspend(hub: RunningHub, integration: integration_pb2.Integration, _: Caller) -> None:
    """Suspend the integration."""
    await steer(hub, "Suspend", integration)


async def delete(hub: RunningHub, integration: integration_pb2.Integration, _: Caller) -> None:
    """Delete the integration."""
    await steer(hub, "Delete", integration)


async def block(hub: RunningHub, _: integration_pb2.Integration, __: Caller) -> None:
    """Block its developer."""
    await ask(hub.admin, "AdminService/BlockDeveloper", user_id=OWNER, source="a list", reason="spies")


async def pause(_: RunningHub, __: integration_pb2.Integration, reader: Caller) -> None:
    """Pause the endpoint."""
    await ask(reader, "WebhookService/PauseEndpoint")


async def delete_endpoint(_: RunningHub, __: integration_pb2.Integration, reader: Caller) -> None:
    """Delete the endpoint."""
    await ask(reader, "WebhookService/DeleteEndpoint")


async def share_no_longer(hub: RunningHub, _: integration_pb2.Integration, __: Caller) -> None:
    """Let the event's guild share nothing."""
    await ask(hub.bot, "DirectoryService/SetGuildSharing", guild_id="41", sharing=1, acting_user_id="7")


ALL, INSTALLED = 1, 2
ACTS = (revoke, uninstall, agree_to_less, suspend, delete, block, pause, delete_endpoint, share_no_longer)


@pytest.mark.parametrize(("act", "access"), [*((act, INSTALLED) for act in ACTS), (uninstall, ALL)])
async def test_a_request_in_flight_is_aborted(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch, act: Act, access: int
) -> None:
    """The receiver holds the request of an event back, and sees its connection end."""
    monkeypatch.setattr(sender, "REQUEST_TIMEOUT", 6 * PATIENCE)
    arrived, cut = asyncio.Event(), asyncio.Event()

    async def behave(body: dict[str, object], request: web.Request) -> web.Response | None:
        if body["type"] == "events":
            arrived.set()
            while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110  no event
                await asyncio.sleep(0.02)
            cut.set()
        return None

    hub = await start_hub(**ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED", "TICKET_STATS", guild_access=access)
    await install(hub, integration.integration_id, "41")
    async with receiving(behave) as receiver, asyncio.timeout(3 * PATIENCE):
        await connect(reader, receiver)
        await hub.emit(ticket("held"))
        await arrived.wait()
        async with asyncio.timeout(PATIENCE):
            await act(hub, integration, reader)
            await cut.wait()
