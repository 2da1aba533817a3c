"""Every failure that the hub can name, in one tree.

Each has a sentence for the caller and the details that a caller's program needs. Must not know gRPC or status codes
(``api/status.py`` maps these classes to statuses), nor anything else of ours.

The name of a class in upper snake case is its reason, as ``enum ErrorReason`` in the contract spells it:
``EventIdConflict`` is ``EVENT_ID_CONFLICT``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


class HubError(Exception):
    """A failure, with a sentence for the caller: what is wrong, and what to do about it.

    Attributes:
        message: the sentence; holds nothing of other callers and no secret.
        metadata: details for programs, as short strings; becomes ``ErrorInfo.metadata``.
        retry_after: seconds after which to try again; becomes ``RetryInfo``. None: no such time is known.
    """

    def __init__(
        self, message: str, *, metadata: Mapping[str, str] | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after

    @classmethod
    def reason(cls) -> str:
        """The name of this failure in the contract, without its prefix."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper()


@dataclass(frozen=True, slots=True)
class Violation:
    """A field that breaks a rule: its path in the request ("event.guild_id") and what the rule wants."""

    field: str
    description: str


class InvalidRequest(HubError):
    """Fields break their rules."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__(
            "; ".join(f"{v.field}: {v.description}" if v.field else v.description for v in self.violations)
        )

    @classmethod
    def field(cls, field: str, description: str) -> "InvalidRequest":
        """One field breaks one rule."""
        return cls([Violation(field, description)])


class CursorInvalid(HubError):
    """The cursor cannot be opened."""

    def __init__(self) -> None:
        super().__init__("the cursor is not valid: truncated, altered or from another hub; send it exactly as received")


class KeyFailure(HubError):
    """The call carries no valid key."""


class KeyMissing(KeyFailure):
    """No key was sent, or several."""

    def __init__(self, message: str = "no key: send the metadata 'authorization: Bearer <key>'") -> None:
        super().__init__(message)


class KeyUnknown(KeyFailure):
    """There is no such key; malformed and unknown keys read alike."""

    def __init__(self) -> None:
        super().__init__("unknown key: check that it was copied completely")


class KeyExpired(KeyFailure):
    """The key has expired."""


class KeyRevoked(KeyFailure):
    """The key was revoked."""


class Denied(HubError):
    """The caller is known and may not do this."""


class RoleNotAllowed(Denied):
    """The key's role may not call this method."""


class ScopeNotGranted(Denied):
    """A requested scope is not granted."""


class IntegrationPending(Denied):
    """The integration waits for an admin's decision."""


class IntegrationSuspended(Denied):
    """The integration is suspended."""


class IntegrationRejected(Denied):
    """The integration's application was rejected."""


class IntegrationDeleted(Denied):
    """The integration was deleted."""


class DeveloperBlocked(Denied):
    """The developer is on the blocklist; only that developer learns who did it and why ("" for everyone else)."""

    def __init__(self, source: str = "", reason: str = "") -> None:
        why = f" by {source}: {reason}" if reason else ""
        super().__init__(
            f"the developer of this integration is on the blocklist{why}; ask the admins of Tickets about it",
            metadata={"source": source, "reason": reason} if reason else None,
        )


class NotOwner(Denied):
    """The Discord user for whom the bot speaks does not own the integration."""

    def __init__(self) -> None:
        super().__init__("this Discord user does not own the integration")


class NotSubject(Denied):
    """The Discord user for whom the bot speaks asks for another user."""

    def __init__(self) -> None:
        super().__init__("users can ask only about themselves: acting_user_id and user_id must be the same")


class NotFound(HubError):
    """The named resource does not exist, for this caller."""


class IntegrationNotFound(NotFound):
    """No integration has this id, or it is not the caller's own: both read alike."""

    def __init__(self, integration_id: str) -> None:
        super().__init__(f"there is no integration '{integration_id}'", metadata={"integration_id": integration_id})


class KeyNotFound(NotFound):
    """The holder has no key with this id."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key '{key_id}' here: ListKeys lists them", metadata={"key_id": key_id})


class SubscriptionNotFound(NotFound):
    """The integration has no such subscription, or nothing was committed for it."""


class ErasureNotFound(NotFound):
    """No erasure has this id."""

    def __init__(self, erasure_id: str) -> None:
        super().__init__(
            f"there is no erasure '{erasure_id}': ListErasures lists them",
            metadata={"erasure_id": erasure_id},
        )


class EndpointNotFound(NotFound):
    """The integration has no such endpoint."""

    def __init__(self, endpoint_id: str) -> None:
        super().__init__(
            f"there is no endpoint '{endpoint_id}': ListEndpoints lists them",
            metadata={"endpoint_id": endpoint_id},
        )


class EndpointExists(HubError):
    """The integration has an endpoint of this id."""

    def __init__(self, endpoint_id: str) -> None:
        super().__init__(
            f"there is an endpoint '{endpoint_id}' already: change it with UpdateEndpoint, and show its secret with "
            "RotateEndpointSecret",
            metadata={"endpoint_id": endpoint_id},
        )


class EndpointNotVerified(HubError):
    """The receiver has not passed the verification."""


class EventIdConflict(HubError):
    """The id was used within the dedupe window for an event with other content.

    Attributes:
        event_id: the id.
        index: its index among the events of one append, if the log knows it.
    """

    def __init__(self, event_id: str, index: int | None = None) -> None:
        super().__init__(
            f"the id '{event_id}' already names an event with other content: give each event its own id",
            metadata={"event_id": event_id},
        )
        self.event_id = event_id
        self.index = index

    def among(self, event_ids: Sequence[str]) -> "EventIdConflict":
        """The same failure, with the index of the event in the request."""
        self.metadata["index"] = str(event_ids.index(self.event_id) if self.index is None else self.index)
        return self


class EtagMismatch(HubError):
    """The resource was changed after the etag was read."""

    def __init__(self, integration_id: str, what: str = "integration") -> None:
        super().__init__(
            f"the {what} was changed since this etag was read: read it again, then repeat the change",
            metadata={"integration_id": integration_id},
        )


class SubscriptionTakenOver(HubError):
    """A newer stream of the same subscription took its place."""

    def __init__(self, subscription_id: str) -> None:
        super().__init__(
            f"a newer stream of the subscription '{subscription_id}' took over: "
            "give each concurrent reader its own subscription_id",
            metadata={"subscription_id": subscription_id},
        )


class EmitterSequenceGap(HubError):
    """The first number of an emitter's batch is not the next one: earlier numbers are missing."""

    def __init__(self, emitter_id: str, expected: int) -> None:
        super().__init__(
            f"the next number of the emitter '{emitter_id}' is {expected}: send those before, or continue "
            "under a new emitter_id, from 1",
            metadata={"emitter_id": emitter_id, "expected_sequence": str(expected)},
        )


class StateForbids(HubError):
    """The resource's state does not allow this command."""


class RotationInProgress(HubError):
    """The limit of live keys is reached."""


class RulesNotMet(HubError):
    """Some rules are not met; the metadata names them."""

    def __init__(self, message: str, rules: Iterable[str]) -> None:
        super().__init__(message, metadata={"rules": ",".join(rules)})


class CursorExpired(HubError):
    """Some of the events after the cursor are no longer kept."""


class Exhausted(HubError):
    """A limit is reached."""


class TooManyStreams(Exhausted):
    """The limit of open streams is reached."""


class TooManySubscriptions(Exhausted):
    """The integration has reached its limit of subscriptions."""


class TooManyEndpoints(Exhausted):
    """The integration has reached its limit of endpoints."""


class EmitBacklogFull(Exhausted):
    """The limit of events that wait to be stored is reached."""


class AuthThrottled(Exhausted):
    """Too many failed authentications from this address."""


class TooManyInstallations(Exhausted):
    """The limit of guilds that may install the integration is reached."""


class TooManyCalls(Exhausted):
    """The limit of calls in flight, or of streams without a key, is reached."""


class TooManyChanges(Exhausted):
    """A developer, or a user for whom the bot speaks, has reached the limit of changes an hour."""


class TooManySearches(Exhausted):
    """Searches, lists and reports with one key have read as many records as the limit allows."""


class TooManyErasures(Exhausted):
    """The limit of unfinished erasures is reached."""


class StorageFull(Exhausted):
    """The disk is full; nothing of the request was stored."""

    def __init__(self) -> None:
        super().__init__("the hub's disk is full; nothing of this request was stored", retry_after=30)


class Unavailable(HubError):
    """The hub cannot serve this now."""


class Draining(Unavailable):
    """The hub is shutting down."""

    def __init__(self, retry_after: float = 1) -> None:
        super().__init__("the hub is shutting down: connect again", retry_after=retry_after)


class StorageUnavailable(Unavailable):
    """The store cannot be written to or read from now."""

    def __init__(self) -> None:
        super().__init__("the hub's store does not answer; nothing of this request is acknowledged", retry_after=5)


class RequestTimeout(Unavailable):
    """The request of a call did not arrive in time; nothing of it was read."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the request did not arrive within {seconds:g} s of its call: send it with the call, then close your side",
            retry_after=1,
        )


class SlowConsumer(Unavailable):
    """The client read nothing from its stream for longer than the write deadline."""

    def __init__(self) -> None:
        super().__init__(
            "the client did not read this stream for too long: resume after the last cursor", retry_after=1
        )


class DisclosuresNotReady(Unavailable):
    """The hub is still looking up who received which events."""

    def __init__(self) -> None:
        super().__init__("the hub is still searching who received which events: repeat the same request", retry_after=2)


class StreamEnded(Unavailable):
    """An admin ended this stream; the client may connect again."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"an admin ended this stream: {reason}; the client may connect again",
            metadata={"reason": reason},
            retry_after=1,
        )


class Conflict(Exception):
    """A conditional append found another state than it expected. Never leaves the hub: its caller decides again.

    Attributes:
        key: the state key that has changed.
        position: where its newest entry is; 0 = there is none.
    """

    def __init__(self, key: str, position: int = 0) -> None:
        super().__init__(f"{key} has moved")
        self.key = key
        self.position = position


class StartError(Exception):
    """The hub cannot start; the text is a line for the operator."""
