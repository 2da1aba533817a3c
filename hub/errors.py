"""Every failure that the hub can name, in one tree.

Lives here: what went wrong, in words for the caller, and the details that a caller's program needs. Must not know:
gRPC, status codes (``api/failures.py`` maps these classes to statuses), anything else of ours.

The name of a class in upper snake case is its reason, as ``enum ErrorReason`` in the contract spells it:
``EventIdConflict`` is ``EVENT_ID_CONFLICT``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


class HubError(Exception):
    """A failure with a sentence for the caller: what is wrong, and what to do about it.

    Attributes:
        message: the sentence; holds nothing of other callers and no secret.
        metadata: what a program may want to know, as short strings; becomes ``ErrorInfo.metadata``.
        retry_after: seconds until a repetition makes sense; becomes ``RetryInfo``. None: no such time is known.
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
        super().__init__(
            "the cursor cannot be opened: it is cut off, altered, or of another hub; send it as a frame carried it"
        )


class KeyFailure(HubError):
    """The caller could not be told from a stranger."""


class KeyMissing(KeyFailure):
    """No key was sent."""

    def __init__(self) -> None:
        super().__init__("no key: send the metadata 'authorization: Bearer <key>'")


class KeyUnknown(KeyFailure):
    """There is no such key; malformed and unknown keys read alike."""

    def __init__(self) -> None:
        super().__init__("the hub knows no such key: check that it was copied whole")


class KeyExpired(KeyFailure):
    """The key's time is over."""


class KeyRevoked(KeyFailure):
    """The key was taken away before its time."""


class Denied(HubError):
    """The caller is known and may not do this."""


class RoleNotAllowed(Denied):
    """The key's role may not call this method."""


class ScopeNotGranted(Denied):
    """A scope was asked for that is not granted."""


class IntegrationPending(Denied):
    """The integration waits for an admin's decision."""


class IntegrationSuspended(Denied):
    """The integration is closed for now."""


class IntegrationRejected(Denied):
    """The integration's application was turned down."""


class IntegrationDeleted(Denied):
    """The integration was ended for good."""


class DeveloperBlocked(Denied):
    """The developer is on the blocklist; on whose word and why is for that developer alone ("" for everyone else)."""

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


class NotFound(HubError):
    """What was named does not exist, for this caller."""


class IntegrationNotFound(NotFound):
    """No integration has this id, or it is not the caller's own: both read alike."""

    def __init__(self, integration_id: str) -> None:
        super().__init__(f"there is no integration '{integration_id}'", metadata={"integration_id": integration_id})


class KeyNotFound(NotFound):
    """The holder has no key with this id."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"there is no key '{key_id}' here: ListKeys shows which there are", metadata={"key_id": key_id}
        )


class SubscriptionNotFound(NotFound):
    """The integration has no such subscription, or nothing was committed for it."""


class EventIdConflict(HubError):
    """The id was used within the dedupe window for an event with other content.

    Attributes:
        event_id: the id.
        index: which of the events stored at once it is, where the log can tell.
    """

    def __init__(self, event_id: str, index: int | None = None) -> None:
        super().__init__(
            f"the id '{event_id}' already names an event with other content: give each event an id of its own",
            metadata={"event_id": event_id},
        )
        self.event_id = event_id
        self.index = index

    def among(self, event_ids: Sequence[str]) -> "EventIdConflict":
        """The same, telling also which of a request's events it is."""
        self.metadata["index"] = str(event_ids.index(self.event_id) if self.index is None else self.index)
        return self


class EtagMismatch(HubError):
    """The integration was changed since the etag was read."""

    def __init__(self, integration_id: str) -> None:
        super().__init__(
            "the integration was changed since this etag was read: read it again, then repeat the change",
            metadata={"integration_id": integration_id},
        )


class SubscriptionTakenOver(HubError):
    """A newer stream of the same subscription took its place."""

    def __init__(self, subscription_id: str) -> None:
        super().__init__(
            f"a newer stream of the subscription '{subscription_id}' took over: "
            "give each reader that is to run beside others a subscription_id of its own",
            metadata={"subscription_id": subscription_id},
        )


class StateForbids(HubError):
    """The state does not allow this."""


class RotationInProgress(HubError):
    """Two keys live already."""


class RulesNotMet(HubError):
    """Rules are not met; the metadata names them."""

    def __init__(self, message: str, rules: Iterable[str]) -> None:
        super().__init__(message, metadata={"rules": ",".join(rules)})


class CursorExpired(HubError):
    """What lies after the cursor is not all there any more."""


class Exhausted(HubError):
    """A limit is reached."""


class TooManyStreams(Exhausted):
    """As many streams are open as may be."""


class TooManySubscriptions(Exhausted):
    """The integration has as many subscriptions as it may."""


class EmitBacklogFull(Exhausted):
    """More events wait to be stored than the hub takes."""


class AuthThrottled(Exhausted):
    """Too many failed authentications from this address."""


class TooManyInstallations(Exhausted):
    """As many guilds have installed the integration as may."""


class TooManyCalls(Exhausted):
    """More calls are being served, or open without a key, than may be."""


class TooManyChanges(Exhausted):
    """A developer, or a user for whom the bot speaks, has changed more within an hour than they may."""


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


class SlowConsumer(Unavailable):
    """A client takes nothing from its stream."""

    def __init__(self) -> None:
        super().__init__("nothing was read from this stream for too long: resume after the last cursor", retry_after=1)


class Conflict(Exception):
    """A conditional append met another state than it expected. Never leaves the hub: who appends decides again.

    Attributes:
        key: the state key that has moved.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} has moved")
        self.key = key


class StartError(Exception):
    """The hub cannot start; the text is one line for the person who starts it."""
