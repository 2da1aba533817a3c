"""What the tests of AdminService share: requests by their fields, and refusals by what a caller's program sees."""

from collections.abc import Awaitable
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from tickets.hub.v1 import admin_service_pb2, directory_service_pb2

from tests.support.calls import detail_of, fails, reason_of
from tests.support.hubs import REGISTRATION, Caller, scope_requests

Code = grpc.StatusCode
INVALID = (Code.INVALID_ARGUMENT, "INVALID_REQUEST")
HOUR = 3600


async def ask(caller: Caller, method: str, /, **fields: Any) -> Any:  # noqa: ANN401  any request's fields, its reply
    """Call a method of AdminService: `ask(hub.admin, "GetIntegration", integration_id="x")`."""
    request = getattr(admin_service_pb2, f"{method}Request")(**fields)
    return await caller.call(f"AdminService/{method}", request)


async def change(caller: Caller, method: str, /, **fields: Any) -> Any:  # noqa: ANN401  the same
    """The integration that a change results in."""
    return (await ask(caller, method, **fields)).integration


def registration(*scopes: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401  fields of the request
    """What RegisterIntegration wants."""
    return {**REGISTRATION, "scopes": scope_requests(*(scopes or ("TICKET_CREATED",))), **fields}


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The status and the reason with which a call is refused; fails where it is answered."""
    error = await fails(call)
    return error.code(), reason_of(error)


async def violations(call: Awaitable[Any]) -> list[str]:
    """The fields that a call is refused for, each once; fails where it is answered, or refused for anything else."""
    error = await fails(call)
    assert (error.code(), reason_of(error)) == INVALID
    told = detail_of(error, error_details_pb2.BadRequest).field_violations
    return list(dict.fromkeys(one.field for one in told))


async def use(caller: Caller) -> None:
    """Open the hub with a key, for nothing."""
    await caller.call("DirectoryService/ListScopes", directory_service_pb2.ListScopesRequest())


def span(seconds: int) -> Duration:
    """A duration."""
    return Duration(seconds=seconds)
