"""Options of a Subscribe call: start, narrowing, batching; and the subscriber that makes it."""

from collections.abc import Callable
from typing import NamedTuple

from hub.control.registry import SERVICE_HOLDER
from hub.delivery.view import Narrowing
from hub.model import Caller, Role

LOST_EPOCH = 0
"""The epoch of a cursor whose position the log has lost with its tail. No log has this epoch."""

TAILS = SERVICE_HOLDER
"""The holder of all tails, instead of an integration id: tails belong to the holders of service keys."""


class Start(NamedTuple):
    """Where a stream begins.

    Attributes:
        kind: "latest", "earliest", "committed", "cursor" or "since"; "" = committed if there is one, else latest.
        cursor: a sealed cursor's text.
        since: microseconds.
    """

    kind: str = ""
    cursor: str = ""
    since: int = 0


class SubscribeOptions(NamedTuple):
    """The options of one Subscribe call.

    Attributes:
        gaps: continue after a Gap where history is gone, instead of ending.
        batch: the maximum number of events in a frame.
        heartbeat: seconds.
        linger: seconds; the effective ones.
    """

    subscription_id: str
    start: Start
    gaps: bool
    narrowing: Narrowing
    batch: int
    heartbeat: float
    linger: float


OF_ENDPOINT = "~"
"""What precedes an endpoint's id in place of a subscription's, whose ids cannot begin with it."""


class Subscriber(NamedTuple):
    """The reader of one stream.

    Attributes:
        caller: the stream ends with its key.
        stream_id: a fresh id; the claim on the subscription names it.
        guard: of the hub's own reader, which delivers to an endpoint and has neither a key nor a claim: raises where it
            may not go on. None: a key and, but for tails, a claim are required.
    """

    caller: Caller
    options: SubscribeOptions
    stream_id: str
    guard: Callable[[], None] | None = None

    @property
    def integration_id(self) -> str:
        """The integration whose view the stream applies."""
        return self.caller.integration_id

    @property
    def is_tail(self) -> bool:
        """Whether an admin reads along: the key is the admin's, and the stream is not one of the integration's."""
        return self.caller.role is Role.ADMIN

    @property
    def is_endpoint(self) -> bool:
        """Whether the hub itself reads, to deliver to an endpoint."""
        return self.guard is not None

    @property
    def holder(self) -> str:
        """The id under which the stream is counted: the integration's, or `TAILS`."""
        return TAILS if self.is_tail else self.caller.integration_id

    @property
    def name(self) -> str:
        """The subscription, as "<integration>/<subscription>"."""
        return f"{self.caller.integration_id}/{self.options.subscription_id}"
