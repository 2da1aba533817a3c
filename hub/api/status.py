"""How failures leave the hub: one table from the tree in ``errors.py`` to statuses, and what applies it.

Lives here: the only place that ends a call with an error. An exception that is no ``HubError`` is a fault of the hub:
the caller gets a fixed sentence and an incident id, the log gets the rest.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Never

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from hub import errors

DOMAIN = "tickets.hub.v1"
MAX_VIOLATIONS = 20
"""Violations told at most: they travel in the trailers, which clients limit to 8 KiB."""
MAX_MESSAGE = 1_000
MAX_TEXT = 300
"""Bytes of a sentence and of a detail: for the same reason."""

STATUS: dict[type[errors.HubError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.CursorInvalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.KeyFailure: grpc.StatusCode.UNAUTHENTICATED,
    errors.Denied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.EventIdConflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.EtagMismatch: grpc.StatusCode.ABORTED,
    errors.SubscriptionTakenOver: grpc.StatusCode.ABORTED,
    errors.StateForbids: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RotationInProgress: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RulesNotMet: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CursorExpired: grpc.StatusCode.OUT_OF_RANGE,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
}
"""The status of each failure; a class that is not named has that of the nearest class above it."""

log = structlog.get_logger()

Behaviour = Callable[[Any, Any], Any]
if TYPE_CHECKING:  # generic in the type stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Handler = grpc.RpcMethodHandler
    Context = grpc.aio.ServicerContext


class WrappingInterceptor(grpc.aio.ServerInterceptor):
    """An interceptor that wraps the handler of each method once, not each call."""

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}

    def wrap(self, method: str, handler: Handler) -> Handler | None:
        """The handler to use in place of a method's own; None: as if there were no such method."""
        raise NotImplementedError

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """What gRPC asks for at every call."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self.wrap(method, handler)
            if wrapped is not None:
                self._wrapped[method] = wrapped
        return wrapped


class FailureInterceptor(WrappingInterceptor):
    """Ends every call that raises with the right status; the outermost interceptor."""

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Guard the handler."""
        name = method.rpartition(".")[2]
        return with_behaviour(handler, lambda behaviour: guarded(behaviour, name))


def guarded(behaviour: Behaviour, method: str) -> Behaviour:
    """A coroutine handler that ends with a status instead of an exception; `method` names it in the log."""

    async def run(request: Any, context: Context) -> Any:  # noqa: ANN401  any message
        try:
            return await behaviour(request, context)
        except errors.HubError as error:
            await refuse(context, error, method)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # noqa: BLE001  nothing of it may reach the caller
            await refuse_for_incident(context, error)

    return run


async def refuse(context: Context, error: errors.HubError, method: str) -> Never:
    """End the call with the status of a failure; of a stranger the log has what they tried, and from where."""
    log.info("refused", reason=error.reason(), detail=error.message[:MAX_TEXT], method=method, peer=context.peer())
    await abort(context, to_status(error))


async def refuse_for_incident(context: Context, error: Exception) -> Never:
    """End the call after a fault of the hub: what it was stands in the log, under the incident's id."""
    incident = secrets.token_hex(6)
    log.error("incident", incident=incident, exc_info=error)
    status = status_pb2.Status(code=code_pb2.INTERNAL, message=f"a fault of the hub; its log knows it as {incident}")
    status.details.append(packed(_info("INTERNAL", {"incident": incident})))
    await abort(context, status)


async def abort(context: Context, status: status_pb2.Status) -> Never:
    """End the call with a ``google.rpc.Status`` in the trailers."""
    ready = rpc_status.to_status(status)
    await context.abort(ready.code, ready.details, ready.trailing_metadata)


def to_status(error: errors.HubError) -> status_pb2.Status:
    """A failure as ``google.rpc.Status``: ErrorInfo, and BadRequest or RetryInfo where they fit (AIP-193)."""
    status = status_pb2.Status(code=code_of(error).value[0], message=clipped(error.message, MAX_MESSAGE))
    status.details.append(packed(_info(error.reason(), {k: clipped(v, MAX_TEXT) for k, v in error.metadata.items()})))
    if isinstance(error, errors.InvalidRequest):
        told = error.violations[:MAX_VIOLATIONS]
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=clipped(v.description, MAX_TEXT))
            for v in told
        ]
        status.details.append(packed(error_details_pb2.BadRequest(field_violations=fields)))
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after * 1_000))
        status.details.append(packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status


def clipped(text: str, most: int) -> str:
    """The beginning of a text, up to so many bytes: it may hold what a caller sent, in letters of four bytes each."""
    return text.encode()[:most].decode(errors="ignore")


def code_of(error: errors.HubError) -> grpc.StatusCode:
    """The status of a failure, by the table."""
    return next((STATUS[cls] for cls in type(error).__mro__ if cls in STATUS), grpc.StatusCode.INTERNAL)


def packed(detail: message.Message) -> any_pb2.Any:
    """A detail as ``Any``."""
    box = any_pb2.Any()
    box.Pack(detail)
    return box


def _info(reason: str, metadata: dict[str, str]) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)


def with_behaviour(handler: Handler, wrap: Callable[[Behaviour], Behaviour], *, raw: bool = False) -> Handler:
    """The same handler with another behaviour; `raw`: it gets the request's bytes.

    Only unary requests are wrapped: the hub has no others; reflection, which has, looks after itself.
    """
    deserializer = None if raw else handler.request_deserializer
    if handler.request_streaming:
        return handler
    behaviour: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary
    make: Any = (
        grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    )
    wrapped: Handler = make(wrap(behaviour), deserializer, handler.response_serializer)
    return wrapped
