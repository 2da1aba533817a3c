"""The subscriptions of all integrations, as of the last entry applied: claims, committed cursors, ended streams.

A subscription exists from its first stream or its first commit on, until it is deleted or expires.
"""

from typing import NamedTuple

from msgspec.structs import replace

from hub.control.sent import Sent
from hub.control.versioned import Versioned
from hub.errors import SubscriptionNotFound
from hub.model import ClaimRecord, CursorRecord, Entry
from hub.state import CLAIM, CURSOR, OVERSIGHT

MAX_FORGOTTEN = 100_000
"""How many tombstones of committed cursors are remembered; commits after older ones are unconditional."""

END_STREAM = "end_stream"
"""The action of an OversightRecord that ends the stream of a subscription."""


class EndedStream(NamedTuple):
    """The last stream of a subscription that an admin ended, and the reason."""

    stream_id: str
    reason: str


class Readers:
    """All subscriptions, by "<integration>/<subscription>".

    Attributes:
        claims: which stream it belongs to.
        cursors: its committed cursor.
        sent: what it was sent.
        ended: the last stream of it that an admin has ended.
    """

    def __init__(self) -> None:
        self.claims: dict[str, Versioned[ClaimRecord]] = {}
        self.cursors: dict[str, Versioned[CursorRecord]] = {}
        self.ended: dict[str, EndedStream] = {}
        self.sent = Sent()
        self._names: dict[str, set[str]] = {}
        self._forgotten: dict[str, int] = {}

    def names(self, integration_id: str) -> list[str]:
        """The names of an integration's subscriptions, in order."""
        return sorted(self._names.get(integration_id, ()))

    def require(self, integration_id: str, subscription_id: str) -> None:
        """Check that an integration has a subscription.

        Raises:
            SubscriptionNotFound: it has none of this name.
        """
        if subscription_id not in self._names.get(integration_id, ()):
            raise SubscriptionNotFound(
                f"there is no subscription '{subscription_id}': ListOwnSubscriptions, for admins ListSubscriptions, "
                "lists them",
                metadata={"subscription_id": subscription_id},
            )

    def cursor_position(self, name: str) -> int:
        """Position of the newest entry for this cursor, tombstones included; 0 if unknown."""
        stored = self.cursors.get(name)
        return stored.position if stored is not None else self._forgotten.get(name, 0)

    def apply_claim(self, entry: Entry) -> tuple[str, ...]:
        """Apply the claim of a stream, or a tombstone: an earlier stream has to end."""
        name = CLAIM.rest(entry.key)
        before = self.claims.pop(name, None)
        if not entry.body:
            self.ended.pop(name, None)
            self._drop(name)
            return (name.partition("/")[0],)
        record = CLAIM.decode(entry.body)
        record = replace(record, seen_time=record.seen_time or entry.time)
        self.claims[name] = Versioned(record, entry.position)
        self._add(name)
        is_same = before is not None and before.record.stream_id == record.stream_id
        return () if is_same else (name.partition("/")[0],)

    def apply_cursor(self, entry: Entry) -> tuple[str, ...]:
        """Apply a committed cursor, or its tombstone."""
        name = CURSOR.rest(entry.key)
        if entry.body:
            self.cursors[name] = Versioned(CURSOR.decode(entry.body), entry.position)
            self._forgotten.pop(name, None)
            self._add(name)
        else:
            self.cursors.pop(name, None)
            self._forgotten[name] = entry.position
            if len(self._forgotten) > MAX_FORGOTTEN:
                del self._forgotten[next(iter(self._forgotten))]
            self._drop(name)
        return ()

    def apply_oversight(self, entry: Entry) -> tuple[str, ...]:
        """Apply an admin's action on streams; it may end the stream that was open until this entry."""
        record, change = OVERSIGHT.decode(entry.body)
        name = f"{record.integration_id}/{record.subscription_id}"
        claim = self.claims.get(name)
        if record.action == END_STREAM and claim is not None:
            self.ended[name] = EndedStream(claim.record.stream_id, change.reason)
            return (record.integration_id,)
        return ()

    def _add(self, name: str) -> None:
        integration_id, _, subscription_id = name.partition("/")
        self._names.setdefault(integration_id, set()).add(subscription_id)

    def _drop(self, name: str) -> None:
        """Forget a subscription that has neither a claim nor a committed cursor."""
        integration_id, _, subscription_id = name.partition("/")
        names = self._names.get(integration_id, set())
        if name not in self.claims and name not in self.cursors:
            names.discard(subscription_id)
        if not names:
            self._names.pop(integration_id, None)
