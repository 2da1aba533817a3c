"""Extreme times and durations, on every method that takes one: an answer or a clear refusal, no internal error."""

import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from hub.api.convert import uuid7
from hub.clock import rfc3339
from hub.permissions import SERVICES
from tests.support.calls import ask, reason_of, send
from tests.support.hubs import PATIENCE, REGISTRATION, Caller, RunningHub, scope_requests

SECONDS = [0, 1, -1, 253_402_300_799, 253_402_300_800, -62_135_596_800, -62_135_596_801, 2**63 - 1, -(2**63)]
SECONDS += [315_576_000_000, -315_576_000_000, 604_800, 604_801, 60, 61, 4_102_444_800]
NANOS = [0, 1, 999, 1_000, 999_999_999, 999_999_900, 10**9, -1, -999_999_999, 2**31 - 1, -(2**31)]
KINDS = {"google.protobuf.Timestamp", "google.protobuf.Duration"}
METHODS = {f"{service.name}/{method.name}": method for service in SERVICES for method in service.methods}


def times(kind: Descriptor, seen: frozenset[str] = frozenset()) -> Iterator[tuple[str, ...]]:
    """The paths of all times and spans in a message."""
    for field in kind.fields:
        part = field.message_type
        if part is not None and part.full_name in KINDS:
            yield (field.name,)
        elif part is not None and part.full_name.startswith("tickets.") and part.full_name not in seen:
            yield from ((field.name, *rest) for rest in times(part, seen | {part.full_name}))


TRIED = {(name, path) for name, method in METHODS.items() for path in times(method.input_type)}


def part_at(message: Message, path: tuple[str, ...]) -> Any:  # noqa: ANN401  a Timestamp or a Duration
    """The time at a path; made where it is not there yet."""
    for name in path:
        part = getattr(message, name)
        message = part[0] if hasattr(part, "add") and part else part.add() if hasattr(part, "add") else part
    return message


async def valid(hub: RunningHub) -> dict[str, tuple[Caller, dict[str, Any]]]:
    """For each method that takes a time: who calls it, and the rest of a right request."""
    made, reader = await hub.register("TICKET_CREATED")
    spare = await ask(hub.admin, "AdminService/CreateServiceKey", role=1, display_name="spare")
    event = {"guild_id": "41", "ticket_created": {"creator_user_id": "7"}}
    one = {"integration_id": made.integration_id}
    endpoint = {"url": "https://hooks.example.com/in"}
    await ask(reader, "WebhookService/CreateEndpoint", endpoint=endpoint)
    return {
        "EventService/EmitEvent": (hub.bot, {"event": event}),
        "EventService/BatchEmitEvents": (hub.bot, {"events": [event]}),
        "EventService/Subscribe": (reader, {}),
        "AdminService/RegisterIntegration": (hub.admin, REGISTRATION | {"scopes": scope_requests("TICKET_CREATED")}),
        "AdminService/UpdateIntegration": (hub.admin, {"integration": one | {"description": "x"}}),
        "AdminService/RotateKey": (hub.admin, one),
        "AdminService/CreateServiceKey": (hub.admin, {"role": 1, "display_name": "x"}),
        "AdminService/UpdateServiceKey": (hub.admin, {"key": {"key_id": spare.key.key_id, "display_name": "y"}}),
        "AdminService/ListAuditEntries": (hub.admin, {}),
        "AdminService/WatchHub": (hub.admin, {}),
        "DeveloperService/UpdateProfile": (reader, {"integration": {"description": "x"}}),
        "DeveloperService/RotateOwnKey": (hub.bot, one | {"acting_user_id": made.owner_user_id}),
        "DeveloperService/PreviewEvent": (reader, {"event": event}),
        "DeveloperService/SendTestEvent": (reader, {"event": event}),
        "WebhookService/CreateEndpoint": (reader, {"endpoint": endpoint | {"endpoint_id": "other"}}),
        "WebhookService/UpdateEndpoint": (reader, {"endpoint": endpoint}),
        "WebhookService/RotateEndpointSecret": (reader, {}),
        "WebhookService/RewindEndpoint": (reader, {}),
    }


@pytest.mark.parametrize(("name", "path"), sorted(TRIED), ids=str)
async def test_extreme_times_cause_no_internal_error(hub: RunningHub, name: str, path: tuple[str, ...]) -> None:
    """Each is accepted or refused with a reason; what was stored can be read afterwards."""
    caller, fields = (await valid(hub))[name]
    reasons: set[str] = set()
    for seconds in SECONDS:
        for nanos in NANOS if seconds in (0, 253_402_300_799, 604_800, 2**63 - 1, -1) else (0, 999_999_999):
            request = GetMessageClass(METHODS[name].input_type)(**fields)
            moment = part_at(request, path)
            moment.seconds, moment.nanos = seconds, nanos
            try:
                if METHODS[name].server_streaming:
                    await first_frame(caller, name, request)
                else:
                    await send(caller, name, request.SerializeToString())
            except grpc.aio.AioRpcError as error:
                reasons.add(reason_of(error))
    refused = {"INVALID_REQUEST", "ROTATION_IN_PROGRESS", "TOO_MANY_CHANGES", "RULES_NOT_MET", "ENDPOINT_EXISTS"}
    assert reasons <= refused
    await ask(hub.admin, "AdminService/ListAuditEntries", page_size=200)
    await ask(hub.admin, "AdminService/ListKeys")
    await ask(hub.admin, "AdminService/ListIntegrations")
    await ask(hub.admin, "AdminService/GetPrivilegeReport")


async def first_frame(caller: Caller, name: str, request: Message) -> None:
    """Open a stream, read one frame, and leave."""
    call: Any = caller._channel.unary_stream(f"/tickets.hub.v1.{name}", None, None)
    stream = call(request.SerializeToString(), metadata=caller.metadata, timeout=PATIENCE)
    try:
        await stream.read()
    finally:
        stream.cancel()


def test_times_near_the_year_9999_are_not_rounded() -> None:
    """Such a time does not become the year 10000, and no other time becomes its neighbour."""
    assert rfc3339(253_402_300_799_999_999) == "9999-12-31T23:59:59.999999Z"
    assert rfc3339(253_402_300_799_000_001) == "9999-12-31T23:59:59.000001Z"
    assert rfc3339(0) == "1970-01-01T00:00:00Z"


def test_event_ids_made_by_the_hub_are_ordered_uuid7s() -> None:
    """As RFC 9562 has it, like those of the client: 48 bits of milliseconds come first."""
    times = [0, 1_000, 1_765_000_000_123_456, 2**48 * 1_000 - 1]
    ids = [uuid7(time) for time in times]
    assert ids == sorted(ids)
    for made, time in zip(map(uuid.UUID, ids), times, strict=True):
        assert (made.version, made.variant, made.int >> 80) == (7, uuid.RFC_4122, time // 1_000)
    assert len({uuid7(0) for _ in range(100)}) == 100
