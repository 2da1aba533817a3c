"""How failures leave the hub: one table that maps the errors of ``errors.py`` to statuses, and its use.

Only this module ends a call with an error. An exception that is not a ``HubError`` is a bug in the hub: the caller gets
a fixed sentence and an incident id, the log gets the rest.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Never

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from hub import errors, metrics
from hub.api.refusals import RefusalLog

DOMAIN = "tickets.hub.v1"
MAX_VIOLATIONS = 20
"""The most violations in an error: they travel in the trailers, which clients limit to 8 KiB."""
MAX_MESSAGE = 1_000
MAX_TEXT = 300
"""The most bytes of a message and of a detail, for the same reason."""

STATUS: dict[type[errors.HubError], grpc.StatusCode] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.CursorInvalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.KeyFailure: grpc.StatusCode.UNAUTHENTICATED,
    errors.Denied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.EventIdConflict: grpc.StatusCode.ALREADY_EXISTS,
    errors.EndpointExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.EtagMismatch: grpc.StatusCode.ABORTED,
    errors.EmitterSequenceGap: grpc.StatusCode.ABORTED,
    errors.SubscriptionTakenOver: grpc.StatusCode.ABORTED,
    errors.StateForbids: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RotationInProgress: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RulesNotMet: grpc.StatusCode.FAILED_PRECONDITION,
    errors.EndpointNotVerified: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CursorExpired: grpc.StatusCode.OUT_OF_RANGE,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
}
"""The status of each failure; a class that is not listed has that of its nearest listed base class."""

log = structlog.get_logger()

Behaviour = Callable[[Any, Any], Any]
if TYPE_CHECKING:  # generic in the type stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Handler = grpc.RpcMethodHandler
    Context = grpc.aio.ServicerContext


def guarded(behaviour: Behaviour, method: str, refusals: RefusalLog) -> Behaviour:
    """A coroutine handler that ends with a status instead of an exception; `method` names it in the log."""

    async def run(request: Any, context: Context) -> Any:  # noqa: ANN401  any message
        began, code, reason = metrics.now(), "OK", ""
        try:
            return await behaviour(request, context)
        except errors.HubError as error:
            code, reason = code_of(error).name, error.reason()
            refusals.note(error, method, context)
            await abort(context, to_status(error))
        except asyncio.CancelledError:
            code = reason = "CANCELLED"
            raise
        except grpc.aio.AbortError:  # of `end`, which needs few words: for guesses of keys, and of health services
            code, reason = _ended_with(context)
            raise
        except grpc.aio.InternalError:  # the caller went in the middle of a write
            code = reason = "CANCELLED"
            raise asyncio.CancelledError from None
        except Exception as error:  # noqa: BLE001  nothing of it may reach the caller
            code = reason = "INTERNAL"
            await refuse_for_incident(context, error)
        finally:
            metrics.note_call(began, method, code, reason)

    return run


async def refuse_for_incident(context: Context, error: Exception) -> Never:
    """End the call after a fault of the hub, which is logged under the incident's id."""
    incident = secrets.token_hex(6)
    log.error("incident", incident=incident, exc_info=error)
    status = status_pb2.Status(
        code=code_pb2.INTERNAL, message=f"internal error; the hub's log has it as incident {incident}"
    )
    status.details.append(packed(_info("INTERNAL", {"incident": incident})))
    await abort(context, status)


async def abort(context: Context, status: status_pb2.Status) -> Never:
    """End the call with a ``google.rpc.Status`` in the trailers."""
    ready = rpc_status.to_status(status)
    await end(context, ready.code, ready.details, ready.trailing_metadata)


async def end(context: Context, code: grpc.StatusCode, text: str, trailers: Any = ()) -> Never:  # noqa: ANN401  gRPC's
    """End the call with a status.

    Raises:
        AbortError: it is ended.
        CancelledError: the caller has disconnected, which is a normal end for gRPC.
    """
    try:
        await context.abort(code, text, trailers)
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


def _ended_with(context: Context) -> tuple[str, str]:
    """The status with which `end` has ended a call, and its reason, for the metrics."""
    name = grpc.StatusCode(context.code()).name
    return name, errors.AuthThrottled.reason() if name == grpc.StatusCode.RESOURCE_EXHAUSTED.name else name


def to_status(error: errors.HubError) -> status_pb2.Status:
    """A failure as ``google.rpc.Status``: ErrorInfo, and BadRequest or RetryInfo where they fit (AIP-193)."""
    status = status_pb2.Status(code=code_of(error).value[0], message=clipped(error.message, MAX_MESSAGE))
    status.details.append(packed(_info(error.reason(), {k: clipped(v, MAX_TEXT) for k, v in error.metadata.items()})))
    if isinstance(error, errors.InvalidRequest):
        listed = error.violations[:MAX_VIOLATIONS]
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=clipped(v.description, MAX_TEXT))
            for v in listed
        ]
        status.details.append(packed(error_details_pb2.BadRequest(field_violations=fields)))
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after * 1_000))
        status.details.append(packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status


def clipped(text: str, most: int) -> str:
    """The beginning of a text, up to a number of bytes: a caller's text may have letters of four bytes each."""
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
