"""How a call to the hub fails, as one typed exception, and which failures a repetition can mend.

Lives here: reading ``google.rpc.Status`` and the judgement "try again or not". Must not know gRPC's own types
(the names of statuses are plain strings), clocks or channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from tickets.hub.v1.event_service_pb2 import EmitEventResponse

STREAM_RETRIES = frozenset({"OK", "CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE"})
"""Endings of a stream after which opening it again may help; OK: the hub ended it without a word."""

CALL_RETRIES = frozenset({"DEADLINE_EXCEEDED", "UNAVAILABLE"})
"""Failures of one call after which repeating it, with the same event ids, may help."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of the request that breaks a rule: its path ("event.guild_id") and what the rule wants."""

    field: str
    description: str


class HubCallError(Exception):
    """A call to the hub failed.

    Attributes:
        code: the gRPC status by name: "PERMISSION_DENIED".
        reason: a name of ``enum ErrorReason`` without its prefix: "SCOPE_NOT_GRANTED". Empty where the failure is not
            the hub's word (no connection, a proxy between).
        message: one sentence for people.
        metadata: what a program may want to know: {"scopes": "ticket_stats"}.
        retry_after: seconds after which the hub asks to try again; None where it does not say.
        violations: the fields that break a rule, of INVALID_REQUEST.
        results: of ``emit_batch``: what was stored before the failure, in order.
    """

    def __init__(  # noqa: PLR0913  all of them are what an error says; only the first three are always there
        self,
        code: str,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        violations: Sequence[Violation] = (),
    ) -> None:
        super().__init__(code, reason, message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.violations = tuple(violations)
        self.results: tuple[EmitEventResponse, ...] = ()

    def __str__(self) -> str:
        """The failure in one line: ``UNAVAILABLE DRAINING: the hub is shutting down (try again after 2 s)``."""
        name = f"{self.code} {self.reason}" if self.reason else self.code
        after = "" if self.retry_after is None else f" (try again after {self.retry_after:g} s)"
        return f"{name}: {self.message}{after}"

    @classmethod
    def decode(cls, code: str, message: str, status: bytes | None) -> "HubCallError":
        """The failure that a call ended with.

        Args:
            code: the name of its status.
            message: the status's own text, used where there are no details.
            status: the trailing metadata ``grpc-status-details-bin``, a serialised ``google.rpc.Status``; None or
                unreadable (a proxy's doing): the error then has a code and a message only.
        """
        info, retry, bad = ErrorInfo(), RetryInfo(), BadRequest()
        try:
            details = Status.FromString(status or b"").details
            found = {type(kind): any(detail.Unpack(kind) for detail in details) for kind in (info, retry, bad)}
        except DecodeError:
            return cls(code, "", message)
        return cls(
            code,
            info.reason,
            message,
            metadata=info.metadata,
            retry_after=retry.retry_delay.ToTimedelta().total_seconds() if found[RetryInfo] else None,
            violations=[Violation(v.field, v.description) for v in bad.field_violations],
        )

    def mends_by_reopening(self) -> bool:
        """Whether opening the stream again may help. A wrong key, a missing scope, a takeover: it does not."""
        return self.code in STREAM_RETRIES or self._says_when()

    def mends_by_repeating(self) -> bool:
        """Whether the same call again may help."""
        return self.code in CALL_RETRIES or self._says_when()

    def _says_when(self) -> bool:
        """A limit is reached that passes: without a time to wait for it is one that does not.

        Without a reason it is none of the hub's limits, but one of gRPC itself, at either end or in a proxy.
        """
        return self.code == "RESOURCE_EXHAUSTED" and (self.retry_after is not None or not self.reason)
