"""How callers can cause each failure: wrong requests, keys, rights, names and states."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from msgspec.structs import replace

from hub.control.transactions import COMMAND_LINE, Intent
from hub.model import State
from tests.support.calls import ask, detail_of, fails, info_of, reason_of
from tests.support.events import EVERY_SCOPE, event, numbers, ticket
from tests.support.hubs import REGISTRATION, RunningHub, StartHub, scope_requests

TICKET: dict[str, Any] = {"ticket_created": {"creator_user_id": "7"}}
OWNER = str(REGISTRATION["owner_user_id"])

Failure = grpc.aio.AioRpcError
Provoke = Callable[[StartHub], Awaitable[Failure]]
ROWS: dict[str, tuple[grpc.StatusCode, Provoke]] = {}
"""How to provoke each reason, and the status that it must come with."""


def row(status: grpc.StatusCode) -> Callable[[Provoke], Provoke]:
    """The function provokes the reason that it is named after."""

    def keep(provoke: Provoke) -> Provoke:
        ROWS[provoke.__name__.upper()] = (status, provoke)
        return provoke

    return keep


def metadata(error: Failure) -> dict[str, str]:
    """What a failure tells programs."""
    return dict(info_of(error).metadata)


def retry_seconds(error: Failure) -> float:
    """When a failure says to try again."""
    return float(detail_of(error, error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds())


@row(grpc.StatusCode.INVALID_ARGUMENT)
async def invalid_request(start_hub: StartHub) -> Failure:
    """A list of events with a wrong one: the field is named."""
    hub = await start_hub()
    events = [event("a", **TICKET), event("b", "12a", ticket_created={"creator_user_id": "0"})]
    error = await fails(ask(hub.bot, "EventService/BatchEmitEvents", events=events))
    fields = {violation.field for violation in detail_of(error, error_details_pb2.BadRequest).field_violations}
    assert fields == {"events[1].guild_id", "events[1].ticket_created.creator_user_id"}
    return error


@row(grpc.StatusCode.INVALID_ARGUMENT)
async def cursor_invalid(start_hub: StartHub) -> Failure:
    """A cursor that is none."""
    _, reader = await (await start_hub()).register("TICKET_CREATED")
    return await reader.open(cursor="abc").ending()


@row(grpc.StatusCode.UNAUTHENTICATED)
async def key_missing(start_hub: StartHub) -> Failure:
    """A call without a key."""
    return await fails(ask((await start_hub()).caller(""), "DirectoryService/ListScopes"))


@row(grpc.StatusCode.UNAUTHENTICATED)
async def key_unknown(start_hub: StartHub) -> Failure:
    """A key of nobody's."""
    return await fails(ask((await start_hub()).caller("tkt_bot_x"), "DirectoryService/ListScopes"))


@row(grpc.StatusCode.UNAUTHENTICATED)
async def key_expired(start_hub: StartHub) -> Failure:
    """A stream whose key was rotated away with an overlap, when that is over."""
    hub = await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    reply = await ask(
        hub.admin, "AdminService/RotateKey", integration_id=integration.integration_id, overlap={"nanos": 10**8}
    )
    await hub.caller(reply.key.secret).subscribe(latest={}, subscription_id="other")
    ending = await stream.ending()
    assert metadata(ending)["key_id"] == reply.previous_keys[0].key_id
    ended = Timestamp()
    ended.FromJsonString(metadata(ending)["expire_time"])
    assert ended == reply.previous_keys[0].expire_time
    return ending


@row(grpc.StatusCode.UNAUTHENTICATED)
async def key_revoked(start_hub: StartHub) -> Failure:
    """A stream whose key is revoked."""
    hub = await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    keys = await ask(hub.admin, "AdminService/ListKeys", integration_id=integration.integration_id)
    which = {"integration_id": integration.integration_id, "key_id": keys.keys[0].key_id}
    await ask(hub.admin, "AdminService/RevokeKey", **which)
    assert reason_of(await fails(ask(reader, "DirectoryService/ListScopes"))) == "KEY_REVOKED"
    return await stream.ending()


@row(grpc.StatusCode.PERMISSION_DENIED)
async def role_not_allowed(start_hub: StartHub) -> Failure:
    """An integration that emits."""
    _, reader = await (await start_hub()).register("TICKET_CREATED")
    error = await fails(ask(reader, "EventService/EmitEvent", event=event("a", **TICKET)))
    assert metadata(error) == {"role": "INTEGRATION", "allowed": "BOT"}
    return error


@row(grpc.StatusCode.PERMISSION_DENIED)
async def scope_not_granted(start_hub: StartHub) -> Failure:
    """A stream that asks for scopes that it has not."""
    _, reader = await (await start_hub()).register("TICKET_CREATED")
    error = await reader.open(scopes=numbers(*EVERY_SCOPE[:3])).ending()
    assert metadata(error) == {"scopes": "transcript_created,drop_claimed"}
    return error


async def put_into(hub: RunningHub, integration_id: str, state: State) -> None:
    """Put an integration that has a key into a state in which none has one: only an insider can."""
    await hub.hub.changes.update_integration(
        Intent(COMMAND_LINE), integration_id, lambda record: replace(record, state=state)
    )


@row(grpc.StatusCode.PERMISSION_DENIED)
async def integration_pending(start_hub: StartHub) -> Failure:
    """A stream of an integration that is not approved."""
    hub = await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    await put_into(hub, integration.integration_id, State.PENDING)
    return await reader.open(latest={}).ending()


@row(grpc.StatusCode.PERMISSION_DENIED)
async def integration_rejected(start_hub: StartHub) -> Failure:
    """A stream of an integration that was turned down."""
    hub = await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    await put_into(hub, integration.integration_id, State.REJECTED)
    return await reader.open(latest={}).ending()


@row(grpc.StatusCode.PERMISSION_DENIED)
async def integration_suspended(start_hub: StartHub) -> Failure:
    """A stream whose integration is suspended: the error has the reason."""
    hub = await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    which = {"integration_id": integration.integration_id, "reason": "too curious"}
    await ask(hub.admin, "AdminService/SuspendIntegration", **which)
    assert reason_of(await reader.open(latest={}).ending()) == "INTEGRATION_SUSPENDED"
    ending = await stream.ending()
    assert "too curious" in (ending.details() or "")
    return ending


@row(grpc.StatusCode.PERMISSION_DENIED)
async def integration_deleted(start_hub: StartHub) -> Failure:
    """A stream whose integration is deleted, and any later call."""
    hub = await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    await ask(hub.admin, "AdminService/DeleteIntegration", integration_id=integration.integration_id, reason="over")
    assert reason_of(await stream.ending()) in {"INTEGRATION_DELETED", "KEY_REVOKED"}
    return await fails(ask(reader, "DirectoryService/ListScopes"))


@row(grpc.StatusCode.PERMISSION_DENIED)
async def developer_blocked(start_hub: StartHub) -> Failure:
    """A stream whose owner is put on the blocklist."""
    hub = await start_hub()
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    await ask(hub.admin, "AdminService/BlockDeveloper", user_id=OWNER, source="a list", reason="spies")
    assert reason_of(await reader.open(latest={}).ending()) == "DEVELOPER_BLOCKED"
    return await stream.ending()


@row(grpc.StatusCode.PERMISSION_DENIED)
async def not_owner(start_hub: StartHub) -> Failure:
    """The bot, speaking for somebody else than the owner."""
    hub = await start_hub()
    integration, _ = await hub.register("TICKET_CREATED")
    who = {"integration_id": integration.integration_id, "acting_user_id": "999"}
    return await fails(ask(hub.bot, "DeveloperService/GetOwnIntegration", **who))


@row(grpc.StatusCode.PERMISSION_DENIED)
async def not_subject(start_hub: StartHub) -> Failure:
    """The bot, speaking for a user who asks about another one."""
    hub = await start_hub()
    return await fails(ask(hub.bot, "PrivacyService/EraseUser", user_id="7", acting_user_id="8"))


@row(grpc.StatusCode.NOT_FOUND)
async def erasure_not_found(start_hub: StartHub) -> Failure:
    """An erasure that there is not."""
    hub = await start_hub()
    error = await fails(ask(hub.bot, "PrivacyService/GetErasure", erasure_id="x1"))
    assert metadata(error) == {"erasure_id": "x1"}
    return error


@row(grpc.StatusCode.NOT_FOUND)
async def integration_not_found(start_hub: StartHub) -> Failure:
    """An integration that there is not; with an integration's key another's reads alike."""
    hub = await start_hub()
    another, _ = await hub.register("TICKET_CREATED")
    _, reader = await hub.register("TICKET_CREATED")
    mine = await fails(ask(reader, "DeveloperService/GetOwnIntegration", integration_id=another.integration_id))
    assert reason_of(mine) == "INTEGRATION_NOT_FOUND"
    error = await fails(ask(hub.admin, "AdminService/GetIntegration", integration_id="nobody"))
    assert metadata(error) == {"integration_id": "nobody"}
    return error


@row(grpc.StatusCode.NOT_FOUND)
async def key_not_found(start_hub: StartHub) -> Failure:
    """A key that the integration has not."""
    hub = await start_hub()
    integration, _ = await hub.register("TICKET_CREATED")
    which = {"integration_id": integration.integration_id, "key_id": "nokey"}
    error = await fails(ask(hub.admin, "AdminService/RevokeKey", **which))
    assert metadata(error) == {"key_id": "nokey"}
    return error


@row(grpc.StatusCode.NOT_FOUND)
async def subscription_not_found(start_hub: StartHub) -> Failure:
    """A subscription that is deleted twice; with the first its stream ended."""
    _, reader = await (await start_hub()).register("TICKET_CREATED")
    stream = await reader.subscribe(latest={}, subscription_id="mine")
    await ask(reader, "EventService/DeleteSubscription", subscription_id="mine")
    assert reason_of(await stream.ending()) == "SUBSCRIPTION_NOT_FOUND"
    return await fails(ask(reader, "EventService/DeleteSubscription", subscription_id="mine"))


@row(grpc.StatusCode.ALREADY_EXISTS)
async def event_id_conflict(start_hub: StartHub) -> Failure:
    """An id used again for another event, in a list: the error has its index."""
    hub = await start_hub()
    await hub.emit(event("a", **TICKET))
    events = [event("b", **TICKET), event("a", "42", **TICKET)]
    error = await fails(ask(hub.bot, "EventService/BatchEmitEvents", events=events))
    assert metadata(error) == {"event_id": "a", "index": "1"}
    return error


@row(grpc.StatusCode.ABORTED)
async def etag_mismatch(start_hub: StartHub) -> Failure:
    """A change on the strength of an etag that is outdated."""
    hub = await start_hub()
    integration, _ = await hub.register("TICKET_CREATED")
    which = {
        "integration_id": integration.integration_id,
        "scopes": scope_requests("DROP_CLAIMED"),
        "etag": integration.etag,
    }
    await ask(hub.admin, "AdminService/SetScopes", **which)
    error = await fails(ask(hub.admin, "AdminService/SetScopes", **which))
    assert metadata(error) == {"integration_id": integration.integration_id}
    return error


@row(grpc.StatusCode.ABORTED)
async def emitter_sequence_gap(start_hub: StartHub) -> Failure:
    """A batch of an emitter whose earlier numbers the hub does not have."""
    hub = await start_hub()
    emitter = {"emitter_id": "bot", "first_sequence": 7}
    error = await fails(
        ask(hub.bot, "EventService/BatchEmitEvents", events=[ticket("a")], independent=True, emitter=emitter)
    )
    assert metadata(error) == {"emitter_id": "bot", "expected_sequence": "1"}
    return error


@row(grpc.StatusCode.ABORTED)
async def subscription_taken_over(start_hub: StartHub) -> Failure:
    """A stream after which another of the same subscription was opened."""
    _, reader = await (await start_hub()).register("TICKET_CREATED")
    stream = await reader.subscribe(latest={}, subscription_id="mine")
    await reader.subscribe(latest={}, subscription_id="mine")
    ending = await stream.ending()
    assert metadata(ending) == {"subscription_id": "mine"}
    return ending


@row(grpc.StatusCode.FAILED_PRECONDITION)
async def state_forbids(start_hub: StartHub) -> Failure:
    """Resuming what is not suspended."""
    hub = await start_hub()
    integration, _ = await hub.register("TICKET_CREATED")
    error = await fails(ask(hub.admin, "AdminService/ResumeIntegration", integration_id=integration.integration_id))
    assert metadata(error) == {"state": "ACTIVE", "allowed": "SUSPENDED"}
    return error


@row(grpc.StatusCode.FAILED_PRECONDITION)
async def rotation_in_progress(start_hub: StartHub) -> Failure:
    """A third key while two live and are in use."""
    hub = await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    await ask(reader, "DirectoryService/ListScopes")
    second = await ask(hub.admin, "AdminService/RotateKey", integration_id=integration.integration_id)
    await ask(hub.caller(second.key.secret), "DirectoryService/ListScopes")
    error = await fails(ask(hub.admin, "AdminService/RotateKey", integration_id=integration.integration_id))
    assert metadata(error) == {"live_keys": f"{second.key.key_id},{second.previous_keys[0].key_id}"}
    return error


@row(grpc.StatusCode.FAILED_PRECONDITION)
async def rules_not_met(start_hub: StartHub) -> Failure:
    """The last admin key cannot be revoked."""
    hub = await start_hub()
    keys = await ask(hub.admin, "AdminService/ListKeys")
    [admin_key] = [key.key_id for key in keys.keys if key.display_name == "first admin key"]
    error = await fails(ask(hub.admin, "AdminService/RevokeKey", key_id=admin_key))
    assert metadata(error) == {"rules": "last_admin_key"}
    return error


ENDPOINT = {"url": "https://hooks.example.com/in"}


@row(grpc.StatusCode.NOT_FOUND)
async def endpoint_not_found(start_hub: StartHub) -> Failure:
    """An integration that has no endpoint asks for one."""
    _, reader = await (await start_hub()).register("TICKET_CREATED")
    return await fails(ask(reader, "WebhookService/GetEndpoint"))


@row(grpc.StatusCode.ALREADY_EXISTS)
async def endpoint_exists(start_hub: StartHub) -> Failure:
    """The same endpoint twice."""
    _, reader = await (await start_hub()).register("TICKET_CREATED")
    await ask(reader, "WebhookService/CreateEndpoint", endpoint=ENDPOINT)
    return await fails(ask(reader, "WebhookService/CreateEndpoint", endpoint=ENDPOINT))


@row(grpc.StatusCode.FAILED_PRECONDITION)
async def endpoint_not_verified(start_hub: StartHub) -> Failure:
    """A receiver that nobody can reach: port 1 of this machine."""
    hub = await start_hub(webhook_allow="127.0.0.0/8")
    _, reader = await hub.register("TICKET_CREATED")
    await ask(reader, "WebhookService/CreateEndpoint", endpoint={"url": "http://127.0.0.1:1/in"})
    return await fails(ask(reader, "WebhookService/VerifyEndpoint"))
