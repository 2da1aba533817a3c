"""Calls by name, commands that many tests give, and how a call fails."""

import asyncio
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tickets.hub.v1 import admin_service_pb2, event_service_pb2, integration_pb2

from tests.support.hubs import PATIENCE, Caller, RunningHub, scope_requests


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in a failure's ErrorInfo."""
    return str(info_of(error).reason)


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """A failure's ErrorInfo."""
    info = detail_of(error, error_details_pb2.ErrorInfo)
    assert info.domain == "tickets.hub.v1"
    return info


def detail_of(error: grpc.aio.AioRpcError, kind: Any) -> Any:  # noqa: ANN401  a message class and its message
    """The detail of one kind that a failure carries; fails where there is none."""
    status = rpc_status.from_call(error)
    for box in status.details if status is not None else ():
        if box.Is(kind.DESCRIPTOR):
            detail = kind()
            box.Unpack(detail)
            return detail
    raise AssertionError(f"no {kind.__name__} in {error}")


async def ask(caller: Caller, name: str, /, **fields: Any) -> Any:  # noqa: ANN401  its fields, its reply
    """Call a method of any service: `ask(hub.admin, "AdminService/GetIntegration", integration_id="x")`."""
    service, _, method = name.partition("/")
    descriptor = descriptor_pool.Default().FindServiceByName(f"tickets.hub.v1.{service}").methods_by_name[method]
    request, reply = (message_factory.GetMessageClass(side) for side in (descriptor.input_type, descriptor.output_type))
    return reply.FromString(await send(caller, name, request(**fields).SerializeToString()))


async def send(caller: Caller, name: str, raw: bytes) -> bytes:
    """Call a method with these bytes as the request; returns those of the reply."""
    call: Any = caller._channel.unary_unary(f"/tickets.hub.v1.{name}", None, None)
    reply = await call(raw, metadata=caller.metadata, timeout=PATIENCE)
    assert isinstance(reply, bytes)
    return reply


async def fails(call: Any) -> grpc.aio.AioRpcError:  # noqa: ANN401  anything that can be awaited
    """How a call fails; the test fails where it does not."""
    try:
        async with asyncio.timeout(PATIENCE):
            reply = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"it was answered: {reply}")


async def read(hub: RunningHub, integration_id: str) -> integration_pb2.Integration:
    """An integration as it is now."""
    reply = await ask(hub.admin, "AdminService/GetIntegration", integration_id=integration_id)
    assert isinstance(reply.integration, integration_pb2.Integration)
    return reply.integration


async def commit(reader: Caller, cursor: str, **fields: Any) -> event_service_pb2.CommitCursorResponse:  # noqa: ANN401  of the request
    """Commit a cursor."""
    reply = await reader.call(
        "EventService/CommitCursor", event_service_pb2.CommitCursorRequest(cursor=cursor, **fields)
    )
    assert isinstance(reply, event_service_pb2.CommitCursorResponse)
    return reply


async def subscriptions(reader: Caller) -> dict[str, event_service_pb2.Subscription]:
    """The integration's subscriptions, by name."""
    reply = await reader.call("EventService/ListOwnSubscriptions", event_service_pb2.ListOwnSubscriptionsRequest())
    return {one.subscription_id: one for one in reply.subscriptions}


async def set_scopes(hub: RunningHub, integration: integration_pb2.Integration, *scopes: str, reason: str = "") -> None:
    """Give an integration exactly these scopes."""
    await hub.admin.call(
        "AdminService/SetScopes",
        admin_service_pb2.SetScopesRequest(
            integration_id=integration.integration_id, scopes=scope_requests(*scopes), reason=reason or "for the tests"
        ),
    )


async def steer(hub: RunningHub, what: str, integration: integration_pb2.Integration, **fields: Any) -> Any:  # noqa: ANN401  of the messages
    """Call "Suspend", "Resume" or "Delete" on an integration."""
    request = getattr(admin_service_pb2, f"{what}IntegrationRequest")
    fields.setdefault("reason", "for the tests")
    return await hub.admin.call(
        f"AdminService/{what}Integration", request(integration_id=integration.integration_id, **fields)
    )
