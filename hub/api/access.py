"""What may come in: who calls, whether they may call this, and whether the request keeps the contract's rules.

Lives here: the one gate before every handler. Roles come from the contract's ``(access)``, a method without it cannot
be called; rules of fields come from ``buf.validate``. Must not know what a method does.
"""

import itertools
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import protovalidate
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from hub.api.failures import MAX_VIOLATIONS, Behaviour, Context, Handler, WrappingInterceptor, with_behaviour
from hub.api.limits import Buckets, CallLimit, OpenLimit
from hub.api.rules import is_plainly_valid
from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.errors import (
    AuthThrottled,
    IntegrationDeleted,
    InvalidRequest,
    KeyMissing,
    KeyUnknown,
    RoleNotAllowed,
    Violation,
)
from hub.logs import CALLER
from hub.model import Caller, Role, State

EXEMPT = ("/grpc.health.v1.Health/", "/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")
"""Health is open to everyone; reflection looks after itself (``server.py``)."""

_validator = protovalidate.Validator()
_request_ids = itertools.count(secrets.randbits(40) << 20)


def caller() -> Caller:
    """Who made the call that is being served."""
    found = CALLER.get()
    if found is None:
        raise RuntimeError("no call is being served")
    return found


class Throttle:
    """Counts failed authentications by peer: so many a minute, then AUTH_THROTTLED.

    Only guesses count: a missing or unknown key. An expired one keeps telling that it has expired.
    """

    def __init__(self, a_minute: int, clock: Clock) -> None:
        self._guesses = Buckets(a_minute, 60, clock)

    def failed(self, peer: str) -> None:
        """Count one failure.

        Raises:
            AuthThrottled: there were too many.
        """
        wait = self._guesses.take(peer)
        if wait:
            raise AuthThrottled(
                "too many failed authentications from your address: wait, and check the key", retry_after=wait
            )


class AccessInterceptor(WrappingInterceptor):
    """Lets in who may.

    Args:
        roles: who may call each method, by its path; what is not there cannot be called.
    """

    def __init__(
        self, registry: Registry, roles: Mapping[str, frozenset[Role]], settings: Settings, clock: Clock
    ) -> None:
        super().__init__()
        self._registry = registry
        self._roles = roles
        self._settings = settings
        self._throttle = Throttle(settings.max_failed_authentications, clock)
        self._calls = CallLimit(settings.max_concurrent_calls)
        self._open = OpenLimit(settings.max_open_calls)

    def wrap(self, method: str, handler: Handler) -> Handler | None:
        """Put the gate before the handler of a method.

        The gate reads one request: a method that takes a stream of them cannot be called until there is one for those.
        """
        if method.startswith(EXEMPT):
            return with_behaviour(handler, self._placed) if handler.response_streaming else handler
        return None if handler.request_streaming else self._gated(method, handler)

    def _gated(self, method: str, handler: Handler) -> Handler:
        name = "/".join((method.split("/")[1].rsplit(".", 1)[-1], method.split("/")[2]))
        parse = handler.request_deserializer
        limit = (
            self._settings.max_batch_bytes if name.endswith("/BatchEmitEvents") else self._settings.max_request_bytes
        )

        def gate(behaviour: Behaviour) -> Behaviour:
            # The streams have limits of their own (`delivery/streams.py`).
            served = behaviour if handler.response_streaming else self._calls.counting(behaviour)

            async def run(raw: bytes, context: Context) -> Any:  # noqa: ANN401  any message
                CALLER.set(self.identify(context, name))
                self._require_role(caller(), self._roles.get(method, frozenset()))
                request = read(raw, parse, limit)
                check(request)
                return await served(request, context)

            return run

        return with_behaviour(handler, gate, raw=True)

    def place(self, context: Context) -> AbstractContextManager[None]:
        """A place among the streams that need no key, for as long as this one lasts.

        Raises:
            TooManyCalls: on entering, if there is none left.
        """
        return self._open.place(address(context.peer()))

    def _placed(self, behaviour: Behaviour) -> Behaviour:
        async def run(request: Any, context: Context) -> Any:  # noqa: ANN401  any message
            with self.place(context):
                return await behaviour(request, context)

        return run

    def identify(self, context: Context, method: str) -> Caller:
        """Who calls.

        Raises:
            KeyMissing, KeyUnknown, KeyExpired, KeyRevoked, AuthThrottled, IntegrationDeleted: nobody who may.
        """
        try:
            holder = self._registry.authenticate(bearer(context.invocation_metadata() or ()))
        except (KeyMissing, KeyUnknown):
            self._throttle.failed(address(context.peer()))
            raise
        integration_id = holder.integration_id
        if integration_id and self._registry.integration(integration_id).record.state is State.DELETED:
            raise IntegrationDeleted("the integration was deleted", metadata={"integration_id": integration_id})
        return Caller(
            holder.key.role, holder.key.key_id, integration_id, method, f"{next(_request_ids):x}", peer=context.peer()
        )

    def _require_role(self, who: Caller, allowed: frozenset[Role]) -> None:
        if who.role not in allowed:
            names = " or ".join(sorted(role.name for role in allowed)) or "nobody"
            raise RoleNotAllowed(
                f"this key's role is {who.role.name}; {who.method} is for {names}",
                metadata={"role": who.role.name, "allowed": names.replace(" or ", ",")},
            )


def bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The key in a call's metadata.

    Raises:
        KeyMissing: there is none.
    """
    for name, value in metadata:
        if name == "authorization" and isinstance(value, str):
            scheme, _, key = value.partition(" ")
            if scheme.lower() == "bearer" and key:
                return key.strip()
    raise KeyMissing


def address(peer: str) -> str:
    """A peer without its port: "ipv4:127.0.0.1"."""
    return re.sub(r":\d+$", "", peer)


def read(raw: bytes, parse: Any, limit: int) -> Message:  # noqa: ANN401  a generated class's FromString
    """The request in some bytes.

    Raises:
        InvalidRequest: there are too many, or they are no such message.
    """
    if len(raw) > limit:
        raise InvalidRequest.field("", f"the request has {len(raw)} bytes, {limit} are allowed: send less at a time")
    try:
        request: Message = parse(raw)
    except DecodeError:
        raise InvalidRequest.field("", "the request is no message of this method: check the client's protos") from None
    return request


def check(request: Message, prefix: str = "") -> None:
    """Check a message by the rules in the contract.

    Raises:
        InvalidRequest: names the fields that break theirs; `prefix` is put before each path.
    """
    if is_plainly_valid(request):
        return
    violations = _validator.collect_violations(request)
    if violations:
        raise InvalidRequest(_told(violation, prefix) for violation in violations[:MAX_VIOLATIONS])


def learn_rules(services: Iterable[ServiceDescriptor]) -> None:
    """Have the rules of every request read now: some 40 ms, for which the first callers would wait."""
    for service in services:
        for method in service.methods:
            request = GetMessageClass(method.input_type)()
            is_plainly_valid(request)
            _validator.collect_violations(request)


def _told(violation: protovalidate.Violation, prefix: str) -> Violation:
    proto = violation.proto
    path = ".".join(
        element.field_name + (f"[{element.subscript.value}]" if element.subscript else "")
        for element in (proto.field.elements if proto.field else ())
    )
    return Violation(".".join(part for part in (prefix, path) if part), proto.message or proto.rule_id)
