"""A failed call as one typed exception, read from ``google.rpc.Status``, and whether a retry can help."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from tickets_hub.v1.event_service_pb2 import EmitEventResponse

STREAM_RETRIES = frozenset({"OK", "CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE"})
"""Endings of a stream after which reopening it may help; OK: the hub ended it without a reason."""

CALL_RETRIES = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE"})
"""Failures of one call after which a retry, with the same event ids, may help.

CANCELLED is never the caller's own: gRPC answers so in a burst, a server that stops does, and so does a proxy."""


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
        event_ids: of ``emit`` and ``emit_batch``: the ids of the events of the call that failed, in order. Whether they
            are stored is not known after UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED, UNKNOWN and INTERNAL: send them
            again with these ids.
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
        self.event_ids: tuple[str, ...] = ()
        self.results: tuple[EmitEventResponse, ...] = ()

    def __str__(self) -> str:
        """The failure in one line: ``UNAVAILABLE DRAINING: the hub is shutting down (try again after 2 s)``."""
        name = f"{self.code} {self.reason}" if self.reason else self.code
        after = "" if self.retry_after is None else f" (try again after {self.retry_after:g} s)"
        return f"{name}: {self.message}{after}"

    @classmethod
    def decode(cls, code: str, message: str, status: bytes | None) -> "HubCallError":
        """Build the error for a call that failed.

        Args:
            code: the name of its status.
            message: the status's own text, used where there are no details.
            status: the trailing metadata ``grpc-status-details-bin``, a serialised ``google.rpc.Status``. Some proxies
                drop or alter it: without it the error has a code and a message only.
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

    def of(self, event_ids: Sequence[str]) -> "HubCallError":
        """The same failure, as one of these events: each caller gets an exception of its own."""
        copy = HubCallError(
            self.code,
            self.reason,
            self.message,
            metadata=self.metadata,
            retry_after=self.retry_after,
            violations=self.violations,
        )
        copy.event_ids = tuple(event_ids)
        return copy

    def renamed(self, before: str, after: str) -> "HubCallError":
        """The same failure with another name for a field: what a batch calls "events[3]" is "event" to its caller."""
        copy = self.of(self.event_ids)
        copy.message = self.message.replace(f"{before}.", f"{after}.")
        copy.violations = tuple(Violation(v.field.replace(before, after, 1), v.description) for v in self.violations)
        copy.args = (copy.code, copy.reason, copy.message)
        return copy

    def mends_by_reopening(self) -> bool:
        """Whether opening the stream again may help. Not for a wrong key, a missing scope or a takeover."""
        return self.code in STREAM_RETRIES or self._says_when()

    def mends_by_repeating(self) -> bool:
        """Whether the same call again may help."""
        return self.code in CALL_RETRIES or self._says_when()

    def _says_when(self) -> bool:
        """Whether a limit was reached that passes; one without a time to wait does not.

        Without a reason the limit is gRPC's own, at either end or in a proxy, and not the hub's.
        """
        return self.code == "RESOURCE_EXHAUSTED" and (self.retry_after is not None or not self.reason)
