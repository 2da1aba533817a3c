"""Limits of calls and changes: callers without a key do not block others, and no developer fills the log."""

import asyncio
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from tickets.hub.v1 import permissions_pb2

from hub import config
from hub.api.grpc_core import transport_options
from hub.api.limits import AnonymousStreamLimit
from hub.api.reflection import REFLECTION
from hub.errors import TooManyCalls
from hub.model import Kind
from tests.support.calls import ask, fails, reason_of
from tests.support.events import event
from tests.support.failures import TICKET, metadata, retry_seconds
from tests.support.hubs import PATIENCE, REGISTRATION, Caller, FakeClock, RunningHub, StartHub, log_of, scope_requests

OWNER = "80351110224678912"


def watch(hub: RunningHub) -> Any:  # noqa: ANN401  a call
    """Somebody without a key watches the hub's health."""
    stub: Any = health_pb2_grpc.HealthStub(hub.channel)
    return stub.Watch(health_pb2.HealthCheckRequest())


async def test_calls_without_a_key_do_not_block_calls_with_one(start_hub: StartHub) -> None:
    """However many callers watch the health, emits and streams work, and health itself answers."""
    hub = await start_hub(max_streams=1, max_concurrent_calls=5, max_open_calls=10)
    _, reader = await hub.register("TICKET_CREATED")
    watches = [watch(hub) for _ in range(40)]
    ends = await asyncio.gather(*(call.read() for call in watches), return_exceptions=True)
    refused = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
    assert len(ends) - len(refused) == 2  # one address has a fifth
    assert {reason_of(end) for end in refused} == {"TOO_MANY_CALLS"}
    await reader.subscribe()
    await hub.emit(event("a", **TICKET))
    stub: Any = health_pb2_grpc.HealthStub(hub.channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("version", REFLECTION)
async def test_an_anonymous_stream_frees_its_slot_when_it_ends(start_hub: StartHub, version: str) -> None:
    """Health and reflection on loopback share the slots."""
    hub = await start_hub(max_open_calls=1)
    reflect: Any = hub.channel.stream_stream(
        f"/{version}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = reflect()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    assert (await call.read()).list_services_response.service
    assert reason_of(await fails(watch(hub).read())) == "TOO_MANY_CALLS"
    call.cancel()
    assert await in_time(hub) == health_pb2.HealthCheckResponse.SERVING


async def in_time(hub: RunningHub) -> int:
    """What a watch says first, as soon as there is a place for it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(grpc.aio.AioRpcError):
                return int((await watch(hub).read()).status)


def test_addresses_share_the_slots_and_are_forgotten() -> None:
    """Five addresses use all slots; the sixth waits until one leaves; addresses that left use no memory."""
    limit = AnonymousStreamLimit(5)
    with ExitStack() as stack:
        for number in range(5):
            stack.enter_context(limit.place(f"ipv4:192.0.2.{number}"))
        with pytest.raises(TooManyCalls), limit.place("ipv4:192.0.2.9"):
            pass
    assert not limit._inside


async def test_too_many_calls_are_refused_with_a_retry_delay(start_hub: StartHub) -> None:
    """The hub's refusals have a reason; nothing of them is stored, and every admitted event is."""
    hub = await start_hub(max_concurrent_calls=2)
    ends = await asyncio.gather(*(hub.emit(event(f"e{n}", **TICKET)) for n in range(20)), return_exceptions=True)
    refused = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
    assert refused
    assert {(reason_of(end), retry_seconds(end)) for end in refused} == {("TOO_MANY_CALLS", 1.0)}
    assert len(await log_of(hub, Kind.EVENT)) == len(ends) - len(refused) >= 2
    await hub.emit(event("later", **TICKET))


def test_grpcs_own_limits_are_the_last_resort() -> None:
    """The core refuses without a reason, so the hub's own limits come first; other calls wait in their client."""
    settings = config.load()
    options = dict(transport_options(settings))
    pending = options["grpc.server.max_pending_requests"]
    assert pending == options["grpc.server.max_pending_requests_hard_limit"]
    assert pending > settings.max_concurrent_calls + settings.max_half_open_calls
    assert options["grpc.max_concurrent_streams"] <= settings.max_half_open_calls


async def test_changes_of_a_developer_are_limited_per_hour(start_hub: StartHub) -> None:
    """With the integration's key; refused changes leave nothing, and time restores the budget."""
    clock = FakeClock()
    hub = await start_hub(clock, max_changes=3)
    integration, reader = await hub.register("TICKET_CREATED")
    for turn in range(2):
        await describe(reader, str(turn))
    for _ in range(5):  # what changes nothing, or is refused, is not counted
        await describe(reader, "1")
        wrong = ask(reader, "DeveloperService/RotateOwnKey", etag="outdated")
        assert reason_of(await fails(wrong)) == "ETAG_MISMATCH"
    await ask(reader, "DeveloperService/RequestScopes", scopes=scope_requests("DROP_CLAIMED"))
    before = len(await log_of(hub, Kind.STATE))
    calls = [
        describe(reader, "more"),
        ask(reader, "DeveloperService/RotateOwnKey", overlap={}),
        ask(reader, "DeveloperService/RequestScopes", scopes=scope_requests("TICKET_STATS")),
    ]
    errors = [await fails(call) for call in calls]
    assert {reason_of(error) for error in errors} == {"TOO_MANY_CHANGES"}
    assert len(await log_of(hub, Kind.STATE)) == before
    clock.monotonic_offset += retry_seconds(errors[-1])
    await describe(reader, "later")
    assert reason_of(await fails(describe(reader, "and again"))) == "TOO_MANY_CHANGES"
    for turn in range(10):  # admins are outside it
        which = {"integration_id": integration.integration_id}
        await ask(hub.admin, "AdminService/SuspendIntegration", reason=str(turn), **which)
        await ask(hub.admin, "AdminService/ResumeIntegration", **which)


async def test_a_stolen_key_does_not_use_up_its_owners_changes(start_hub: StartHub) -> None:
    """The thief's budget is spent; the owner still makes changes through the bot, and can revoke the key."""
    hub = await start_hub(max_changes=1)
    integration, reader = await hub.register("TICKET_CREATED")
    owner = {"integration_id": integration.integration_id, "acting_user_id": OWNER}
    await describe(reader, "by the thief")
    new = await ask(hub.bot, "DeveloperService/RotateOwnKey", **owner)
    assert reason_of(await fails(ask(hub.bot, "DeveloperService/RotateOwnKey", **owner))) == "TOO_MANY_CHANGES"
    for key in (new.key, *new.previous_keys):
        await ask(hub.bot, "DeveloperService/RevokeOwnKey", key_id=key.key_id, **owner)
    assert reason_of(await fails(describe(reader, "again"))) == "KEY_REVOKED"


async def test_a_refused_installation_does_not_count_as_a_change(start_hub: StartHub) -> None:
    """What a guild may not do, or has already done, does not count for its user."""
    hub = await start_hub(max_changes=1)
    integration, _ = await hub.register("TICKET_CREATED")
    guild = {"guild_id": "41", "acting_user_id": "7"}
    named = guild | {"integration_id": integration.integration_id}
    for fields, reason in (
        (guild | {"integration_id": "zzzzzzzzzzzz"}, "INTEGRATION_NOT_FOUND"),
        (named | {"agreed_scopes": [permissions_pb2.SCOPE_DROP_CLAIMED]}, "SCOPE_NOT_GRANTED"),
    ):
        refused = ask(hub.bot, "DirectoryService/InstallIntegration", **fields)
        assert reason_of(await fails(refused)) == reason
    await ask(hub.bot, "DirectoryService/SetGuildSharing", **guild, sharing=2)  # as it is already
    await ask(hub.bot, "DirectoryService/InstallIntegration", **named)
    again = ask(hub.bot, "DirectoryService/InstallIntegration", **named)
    assert reason_of(await fails(again)) == "TOO_MANY_CHANGES"


async def test_changes_through_the_bot_are_counted_per_user(start_hub: StartHub) -> None:
    """Applications and installations count for the user who asks; a guild can always uninstall."""
    hub = await start_hub(max_changes=1)
    integration, _ = await hub.register("TICKET_CREATED")
    guild = {"integration_id": integration.integration_id, "guild_id": "41"}
    await ask(hub.bot, "DirectoryService/InstallIntegration", acting_user_id="7", **guild)
    await ask(hub.bot, "DirectoryService/UninstallIntegration", acting_user_id="7", **guild)
    again = ask(hub.bot, "DirectoryService/InstallIntegration", acting_user_id="7", **guild)
    assert reason_of(await fails(again)) == "TOO_MANY_CHANGES"
    application = REGISTRATION | {
        "owner_user_id": "7",
        "rules_accepted": True,
        "scopes": scope_requests("TICKET_CREATED"),
    }
    error = await fails(ask(hub.bot, "DirectoryService/SubmitApplication", **application))
    assert metadata(error) == {"limit": "1"}
    await ask(hub.bot, "DirectoryService/SubmitApplication", **application | {"owner_user_id": "8"})


async def describe(reader: Caller, text: str) -> None:
    """Give the integration another description, with its own key."""
    await ask(reader, "DeveloperService/UpdateProfile", integration={"description": text})
