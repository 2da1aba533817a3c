"""What the tests of governance share: calls by name, the steps of an integration's life, and how a call is refused."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc
from tickets.hub.v1 import (
    admin_service_pb2,
    directory_service_pb2,
    integration_pb2,
    permissions_pb2,
)

from tests.support.calls import ask, fails, info_of
from tests.support.events import numbers
from tests.support.hubs import REGISTRATION, Caller, FakeClock, RunningHub, scope_requests
from tests.support.streams import RawStream, settle

OWNER = REGISTRATION["owner_user_id"]
STRANGER = "90351110224678913"
GUILD_ADMIN = "70351110224678914"
NOBODYS_ID = "zzzzzzzzzzzz"


class Refusal(NamedTuple):
    """How a call was refused: its status, its reason, and what the hub says of it."""

    status: str
    reason: str
    message: str
    metadata: dict[str, str]


async def refused(who: Caller, method: str, /, **fields: Any) -> Refusal:  # noqa: ANN401  fields of the request
    """How a call is refused; the test fails where it is not."""
    return refusal_of(await fails(ask(who, method, **fields)))


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """A failure, as a caller's program reads it."""
    info = info_of(error)
    return Refusal(error.code().name, info.reason, error.details() or "", dict(info.metadata))


async def apply_for(
    hub: RunningHub,
    *scopes: str,
    **fields: Any,  # noqa: ANN401  fields of the request
) -> integration_pb2.Integration:
    """An application by the bot, for its owner, who accepts the rules."""
    application = {**REGISTRATION, "rules_accepted": True, "scopes": scope_requests(*scopes), **fields}
    reply = await ask(hub.bot, "DirectoryService/SubmitApplication", **application)
    assert isinstance(reply.integration, integration_pb2.Integration)
    return reply.integration


async def approve(hub: RunningHub, integration_id: str, *scopes: str, reason: str = "") -> integration_pb2.Integration:
    """An admin's yes to these scopes; none named: to all that are asked for."""
    reply = await ask(
        hub.admin,
        "AdminService/ApproveIntegration",
        integration_id=integration_id,
        scopes=numbers(*scopes),
        reason=reason,
    )
    assert isinstance(reply.integration, integration_pb2.Integration)
    return reply.integration


async def own_key(hub: RunningHub, integration_id: str, owner: str = OWNER) -> Caller:
    """A key that the owner takes through the bot, and its caller."""
    reply = await ask(
        hub.bot, "DeveloperService/RotateOwnKey", integration_id=integration_id, acting_user_id=owner, overlap={}
    )
    return hub.caller(reply.key.secret)


async def set_scopes(hub: RunningHub, integration_id: str, *scopes: str) -> None:
    """An admin makes exactly these its scopes."""
    await ask(hub.admin, "AdminService/SetScopes", integration_id=integration_id, scopes=scope_requests(*scopes))


async def install(
    hub: RunningHub, integration_id: str, guild_id: str, *agreed: str, by: str = GUILD_ADMIN
) -> directory_service_pb2.Installation:
    """A guild's admin switches it on, or agrees again; no scopes named: to all that are granted."""
    reply = await ask(
        hub.bot,
        "DirectoryService/InstallIntegration",
        integration_id=integration_id,
        guild_id=guild_id,
        acting_user_id=by,
        agreed_scopes=numbers(*agreed),
    )
    assert isinstance(reply.installation, directory_service_pb2.Installation)
    return reply.installation


async def uninstall(hub: RunningHub, integration_id: str, guild_id: str) -> None:
    """A guild's admin switches it off."""
    await ask(
        hub.bot,
        "DirectoryService/UninstallIntegration",
        integration_id=integration_id,
        guild_id=guild_id,
        acting_user_id=GUILD_ADMIN,
    )


@asynccontextmanager
async def changes_wait(hub: RunningHub, key: str) -> AsyncIterator[Callable[[], int]]:
    """Changes under a key of state wait inside, in their order; gives how many do."""
    lock = hub.hub.changes._lock(key)
    async with lock:
        yield lambda: len(getattr(lock, "_waiters", None) or ())


async def block(hub: RunningHub, user_id: str = OWNER) -> admin_service_pb2.BlockedDeveloper:
    """An entry of the blocklist."""
    reply = await ask(
        hub.admin, "AdminService/BlockDeveloper", user_id=user_id, source="CyberShield", reason="sold user data"
    )
    assert isinstance(reply.developer, admin_service_pb2.BlockedDeveloper)
    return reply.developer


async def unblock(hub: RunningHub, user_id: str = OWNER) -> None:
    """The end of a block."""
    await ask(hub.admin, "AdminService/UnblockDeveloper", user_id=user_id, reason="it was somebody else")


async def arrived(hub: RunningHub, clock: FakeClock, stream: RawStream) -> list[str]:
    """The ids of all events that a stream has brought once it has brought everything."""
    await settle(hub, clock, [stream])
    return [shown.id for shown in stream.events]


async def opened(who: Caller, integration_id: str, **request: Any) -> RawStream:  # noqa: ANN401  of SubscribeRequest
    """A stream that has said that it is ready; from the beginning unless told otherwise."""
    stream = RawStream(who, integration_id, **request)
    await stream.ready()
    return stream


def granted(integration: integration_pb2.Integration) -> list[str]:
    """The short names of an integration's scopes."""
    return [short(grant.scope) for grant in integration.grants]


def requested(integration: integration_pb2.Integration) -> list[str]:
    """The short names of the scopes that wait for a decision."""
    return [short(request.scope) for request in integration.requested_scopes]


def short(scope: "permissions_pb2.Scope.ValueType") -> str:
    """A scope by its short name."""
    return permissions_pb2.Scope.Name(scope).removeprefix("SCOPE_")


def state(integration: integration_pb2.Integration) -> str:
    """An integration's state by its short name."""
    return integration_pb2.IntegrationState.Name(integration.state).removeprefix("INTEGRATION_STATE_")
