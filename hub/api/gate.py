"""The gate in front of every handler: the caller, then the request, then the contract's rules, then the handler.

Metadata decides whether a call is accepted, before anything of its request is read: gRPC would keep a message of any
caller, and would wait for it until the connection ends. So the methods are served as if they took a stream of requests,
and this module reads the one that there is.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import grpc
from msgspec.structs import replace

from hub import metrics
from hub.api.access import require_role
from hub.api.guards import Guards
from hub.api.limits import AnonymousStreamLimit
from hub.api.receiving import Receiver
from hub.api.status import Behaviour, Context, Handler, guarded
from hub.api.throttle import Refusals
from hub.api.validation import check, read
from hub.config import Settings
from hub.errors import HubError
from hub.logs import CALLER
from hub.model import Role

HEALTH = "/grpc.health.v1.Health/"
"""Open to everyone, even while the hub stops."""

MAX_OPEN_BYTES = 1_024
"""Bytes of a request without a key: the name of a service, which a health watch keeps for as long as it lasts."""

REFLECTION = ("/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")
"""Takes a stream of requests: the only one that may. Open to everyone on loopback."""


class Entry(NamedTuple):
    """The name of a method, the roles that may call it (None: anyone), and the handler behind the gate."""

    name: str
    roles: frozenset[Role] | None
    handler: Handler


class Gate(grpc.aio.ServerInterceptor):
    """Admits callers that may call a method, and gives its handler a valid request.

    Args:
        guards: the checks of calls, shared with calls over HTTP.
        roles: who may call each method, by its path; a method that is missing cannot be called.
    """

    def __init__(self, guards: Guards, roles: Mapping[str, frozenset[Role]], settings: Settings) -> None:
        self._guards = guards
        self._roles = roles
        self._settings = settings
        self._refusals = Refusals(guards.addresses, guards.log, guards.throttle)
        self._receiver = Receiver(guards.half_open, settings)
        self._open = AnonymousStreamLimit(settings.max_open_calls)
        self._entries: dict[str, Entry] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return the handler of a call, by its method and metadata; gRPC asks at every call."""
        method = handler_call_details.method
        entry = self._entries.get(method)
        if entry is None:
            handler = await continuation(handler_call_details)
            if handler is None or (handler.request_streaming and not method.startswith(REFLECTION)):
                return None
            entry = self._entries[method] = self._entry(method, handler)
        try:
            if not method.startswith(HEALTH):
                self._guards.drain.enter()
            if entry.roles is not None:
                metadata = handler_call_details.invocation_metadata or ()
                caller = self._guards.access.identify(metadata, entry.name)
                CALLER.set(caller)  # before the role is checked, so that a refusal names the caller
                require_role(caller, entry.roles)
        except HubError as error:
            return self._refusals.handler(error, entry.name)
        return entry.handler

    def _entry(self, method: str, handler: Handler) -> Entry:
        """Wrap the handler of a method; once, not at each call."""
        name = method.rpartition(".")[2]
        metrics.METHODS[name] = method.removeprefix("/")
        roles = self._roles_of(method)
        if handler.request_streaming:
            behaviour: Behaviour = self._guarded(self._placed(handler.stream_stream), name)
        elif handler.response_streaming:
            inner = handler.unary_stream if roles is not None else self._placed(handler.unary_stream)
            behaviour = self._guarded(self._received(inner, handler, name, roles), name)
        else:
            inner = self._counted(handler.unary_unary) if roles is not None else handler.unary_unary
            behaviour = self._until_its_end(self._guarded(self._received(inner, handler, name, roles), name))
        return Entry(name, roles, streaming(handler, behaviour))

    def _roles_of(self, method: str) -> frozenset[Role] | None:
        if method.startswith(HEALTH):
            return None
        if method.startswith(REFLECTION):
            return None if self._settings.is_loopback else frozenset(Role)
        return self._roles.get(method, frozenset())

    def _guarded(self, behaviour: Behaviour, name: str) -> Behaviour:
        return guarded(behaviour, name, self._guards.log)

    def _received(
        self,
        behaviour: Any,  # noqa: ANN401  a coroutine handler
        handler: Handler,
        name: str,
        roles: frozenset[Role] | None,
    ) -> Behaviour:
        """A handler that first reads and checks its request."""
        parse, settings = handler.request_deserializer, self._settings
        is_batch = name.endswith("/BatchEmitEvents")  # the service checks it: a bad event may concern itself alone
        limit = settings.max_batch_bytes if is_batch else settings.max_request_bytes
        if roles is None:
            limit = min(limit, MAX_OPEN_BYTES)

        async def run(requests: Any, context: Context) -> Any:  # noqa: ANN401  any message
            del requests  # an iterator, which costs more than `context.read`
            origin, caller = self._guards.addresses.of(context), CALLER.get()
            if caller is not None:
                CALLER.set(replace(caller, peer=origin.peer))
            data = await self._receiver.receive(context, origin.address, caller)
            if caller is not None:
                self._guards.access.require_live(caller)
            request = read(data, parse, limit)
            if not is_batch:
                check(request)
            return await behaviour(request, context)

        return run

    def _counted(self, behaviour: Any) -> Behaviour:  # noqa: ANN401  a coroutine handler
        """A handler that holds one of the places for calls; streams have limits of their own."""

        async def run(request: Any, context: Context) -> Any:  # noqa: ANN401  any message
            with self._guards.calls:
                return await behaviour(request, context)

        return run

    def _placed(self, behaviour: Any) -> Behaviour:  # noqa: ANN401  a coroutine handler
        """A handler that holds one of the places for streams without a key."""

        async def run(request: Any, context: Context) -> Any:  # noqa: ANN401  any message
            with self._open.place(self._guards.addresses.of(context).address):
                return await behaviour(request, context)

        return run

    def _until_its_end(self, behaviour: Behaviour) -> Behaviour:
        """A handler whose end a stop waits for."""

        async def run(request: Any, context: Context) -> Any:  # noqa: ANN401  any message
            with self._guards.drain.serving:
                return await behaviour(request, context)

        return run


def streaming(handler: Handler, behaviour: Any) -> Handler:  # noqa: ANN401  a coroutine handler
    """A handler of a method as one that takes a stream of requests; of a unary one the bytes."""
    make: Any = (
        grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
    )
    parse = handler.request_deserializer if handler.request_streaming else None
    made: Handler = make(behaviour, parse, handler.response_serializer)
    return made
