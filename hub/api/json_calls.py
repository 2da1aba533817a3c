"""Some methods of the contract as JSON over HTTP, with the same keys, roles, rules, limits, audit and errors.

A request and its reply are the contract's messages as protobuf's JSON has them, with the fields' own names; a failure
is ``google.rpc.Status`` in JSON (AIP-193). Must not know aiohttp.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from msgspec.structs import replace

from hub.api.access import require_role
from hub.api.guards import Guards
from hub.api.peers import Call
from hub.api.status import clipped, code_of, to_status
from hub.api.throttle import guessed_too_often
from hub.api.validation import check, normalise
from hub.errors import HubError, InvalidRequest, KeyMissing, KeyUnknown
from hub.logs import CALLER
from hub.model import Caller, Role
from hub.permissions import SERVICES, roles_allowed

MAX_COMPLAINT = 300

STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}
"""The HTTP status for each gRPC status, as ``google.rpc.Code`` documents them; 500 for any other."""

Answer = Callable[[Any, Any], Awaitable[Message]]
"""A handler of a service, without a gRPC context."""


class Reply(NamedTuple):
    """A reply: an HTTP status and a JSON object."""

    status: int
    body: bytes


class Method(NamedTuple):
    """An offered method: who may call it, its request, its handler."""

    roles: frozenset[Role]
    request: type[Message]
    answer: Answer


class JsonCalls:
    """Serves calls in JSON.

    Args:
        answers: what serves each method that is offered, by its name ("AdminService/GetIntegration").
    """

    def __init__(self, guards: Guards, max_bytes: int, answers: Mapping[str, Answer]) -> None:
        self._guards = guards
        self._max_bytes = max_bytes
        self._methods = dict(_methods(answers))

    @property
    def names(self) -> Iterable[str]:
        """The methods that are offered."""
        return self._methods

    async def serve(self, name: str, call: Call, body: bytes) -> Reply:
        """Serve a call of a method."""
        mark = CALLER.set(None)
        try:
            reply = await self._answer(name, call, body)
            return Reply(200, await asyncio.to_thread(written, reply))
        except HubError as error:
            self._guards.log.note(error, name, call)
            return failed(error)
        finally:
            CALLER.reset(mark)

    async def _answer(self, name: str, call: Call, body: bytes) -> Message:
        method, guards = self._methods[name], self._guards
        guards.drain.enter()
        caller = self._identify(name, call)
        CALLER.set(caller)
        require_role(caller, method.roles)
        request = self._read(body, method.request())
        with guards.calls, guards.drain.serving:
            return await method.answer(request, None)

    def _identify(self, name: str, call: Call) -> Caller:
        """Identify the caller; a wrong key counts like one over gRPC.

        Raises:
            KeyFailure: the caller is unknown.
            AuthThrottled: too many guesses came from this address.
        """
        origin = self._guards.addresses.of(call)
        try:
            caller = self._guards.access.identify(call.invocation_metadata() or (), name)
        except (KeyMissing, KeyUnknown):
            if wait := self._guards.throttle.wait(origin.address):
                raise guessed_too_often(wait) from None
            raise
        return replace(caller, peer=origin.peer)

    def _read(self, body: bytes, request: Message) -> Message:
        """The request in a body, checked by the contract's rules.

        Raises:
            InvalidRequest: it is malformed.
        """
        if len(body) > self._max_bytes:
            raise InvalidRequest.field("", f"the request has {len(body)} bytes, at most {self._max_bytes} are allowed")
        try:
            content = json.loads(body or b"{}")
            json.dumps(content, ensure_ascii=False).encode()  # protobuf fails on half a surrogate pair
            if not isinstance(content, dict):
                raise ParseError("it is not an object")  # noqa: TRY301  `ParseDict` takes an empty list for one
            ParseDict(content, request)
        except (ParseError, ValueError, RecursionError) as error:
            why = clipped(str(error), MAX_COMPLAINT)
            raise InvalidRequest.field("", f"the body is not a {request.DESCRIPTOR.name} in JSON: {why}") from None
        normalise(request)
        check(request)
        return request


def written(message: Message) -> bytes:
    """A message as JSON with the contract's field names, including fields without a value. May run in a thread."""
    content = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def failed(error: HubError) -> Reply:
    """A failure as JSON."""
    code = code_of(error)
    content = MessageToDict(to_status(error), preserving_proto_field_name=True)
    body = {"error": {**content, "code": STATUS.get(code, 500), "status": code.name, "reason": error.reason()}}
    return Reply(STATUS.get(code, 500), json.dumps(body).encode())


def _methods(answers: Mapping[str, Answer]) -> Iterable[tuple[str, Method]]:
    """The methods that are offered, as the contract has them."""
    for service in SERVICES:
        allowed = roles_allowed(service)
        for method in service.methods:
            name = f"{service.name}/{method.name}"
            if name in answers:
                roles = allowed[f"/{service.full_name}/{method.name}"]
                yield name, Method(roles, GetMessageClass(method.input_type), answers[name])
