"""An outbox: events in a file of the bot's own until the hub has them; what a call carries, and what its answer means.

What users configure and see of an outbox, and the logic of sending what is in it. The threaded and the asyncio client
drive it alike. It does not know files, channels, threads, tasks or clocks.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tickets_hub.failure import HubCallError
from tickets_hub.outgoing import refusal
from tickets_hub.requests import MAX_BATCH
from tickets_hub.session import Backoff, Policy
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import BatchEmitEventsRequest, BatchEmitEventsResponse, Emitter

logger = logging.getLogger("tickets_hub")

MAX_EVENT_BYTES = 256 * 1024
"""A larger event is refused at once: the hub accepts none, so it would block the events behind it."""

PERMANENT = frozenset({"INVALID_ARGUMENT", "ALREADY_EXISTS"})
"""Statuses with which the hub refuses an event permanently. After any other the events are kept and sent again."""


class OutboxError(Exception):
    """The outbox could not take an event, or could not be opened; the message says what to do."""


class OutboxFull(OutboxError):
    """The outbox is full: the hub has been away for long, or refuses the key."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that the hub refused for good: it is in the table ``rejected`` of the file, and is not sent again."""

    event: Event
    error: HubCallError


@dataclass(frozen=True, slots=True)
class Outbox:
    """Where a client keeps events until the hub has them, and how many.

    Attributes:
        path: a file on a local disk; made where there is none. One process at a time has it.
        max_events: with so many waiting ``emit`` raises ``OutboxFull``.
        max_bytes: the same for their size, before SQLite's own overhead.
        on_rejected: called with each event that the hub refused for good, by the thread or in the loop that sends.
            Unless given, it is a warning in the log ``tickets_hub``.
    """

    path: str | os.PathLike[str]
    max_events: int = 1_000_000
    max_bytes: int = 1024 * 1024 * 1024
    on_rejected: Callable[[Rejected], None] | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """The content of the file: events, their bytes, when the oldest came (microseconds); all refused events so far."""

    waiting: int
    size: int
    oldest: int | None
    rejected: int


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """The status of an outbox.

    Attributes:
        waiting: events that the hub does not have yet, as far as the client knows.
        size: their bytes.
        oldest_age: seconds since ``emit`` took the oldest of them; 0 where none waits.
        rejected: events that the hub has refused for good, since the file was made.
        failure: why the last call failed; None: it did not, or there was none.
    """

    waiting: int
    size: int
    oldest_age: float
    rejected: int
    failure: HubCallError | None

    @classmethod
    def of(cls, counts: Counts, failure: HubCallError | None, unix_seconds: float) -> "OutboxStatus":
        """The status at a moment, from the counts of the file."""
        age = 0.0 if counts.oldest is None else max(0.0, unix_seconds - counts.oldest / 1e6)
        return cls(counts.waiting, counts.size, age, counts.rejected, failure)


@dataclass(frozen=True, slots=True)
class Batch:
    """The oldest events of the file, as far as one call carries them: their positions follow each other."""

    emitter_id: str
    first_sequence: int
    first_position: int
    events: Sequence[bytes]

    @property
    def last_position(self) -> int:
        """The position of the last of them."""
        return self.first_position + len(self.events) - 1

    def request(self) -> BatchEmitEventsRequest:
        """The call that carries them: the hub checks each alone, and its number makes it unique for good."""
        return BatchEmitEventsRequest(
            events=[Event.FromString(event) for event in self.events],
            independent=True,
            emitter=Emitter(emitter_id=self.emitter_id, first_sequence=self.first_sequence),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do after a call.

    Attributes:
        done: take the events up to the end of the batch out of the file.
        rejected: those of them that go into the table of refused ones.
        renumber: give what the file has from the batch on a new emitter, with numbers from 1.
        delay: seconds to wait before the next call.
    """

    done: bool = False
    rejected: Sequence[Rejected] = ()
    renumber: bool = False
    delay: float = 0.0


@dataclass(slots=True)
class Forwarder:
    """Decides about the calls that carry the events of an outbox, one at a time, in order.

    ``failure`` is why the last call failed.
    """

    backoff: Backoff
    failure: HubCallError | None = None
    _alone: int = field(default=0, init=False)

    @classmethod
    def of(cls, policy: Policy) -> "Forwarder":
        """A forwarder with the delays of a policy."""
        return cls(Backoff(policy))

    @property
    def most(self) -> int:
        """How many events the next call may carry."""
        return 1 if self._alone else MAX_BATCH

    def judge(self, batch: Batch, answer: BatchEmitEventsResponse | HubCallError) -> Verdict:
        """Decide what the answer to a batch's call means."""
        if isinstance(answer, BatchEmitEventsResponse):
            return self._answered(batch, answer)
        if answer.reason == "EMITTER_SEQUENCE_GAP":
            return Verdict(renumber=True, delay=self._renumbered(answer))
        if answer.code in PERMANENT and answer.reason:
            return self._refused(batch, answer)
        return Verdict(delay=self._failed(answer))

    def _answered(self, batch: Batch, answer: BatchEmitEventsResponse) -> Verdict:
        if len(answer.results) != len(batch.events):
            return Verdict(delay=self._failed(HubCallError("INTERNAL", "", "the hub did not answer for each event")))
        rejected = tuple(
            Rejected(Event.FromString(event), refusal(result.error, index))
            for index, (event, result) in enumerate(zip(batch.events, answer.results, strict=True))
            if result.HasField("error")
        )
        self._succeeded(batch)
        return Verdict(done=True, rejected=rejected)

    def _refused(self, batch: Batch, error: HubCallError) -> Verdict:
        """The whole call was refused: by a hub that does not check each event alone, or for the one event in it."""
        if len(batch.events) > 1:
            self._alone = len(batch.events)
            return Verdict()
        self._succeeded(batch)
        rejected = Rejected(Event.FromString(batch.events[0]), error.renamed("events[0]", "event"))
        return Verdict(done=True, rejected=[rejected])

    def _succeeded(self, batch: Batch) -> None:
        self._alone = max(0, self._alone - len(batch.events))
        self.failure = None
        self.backoff.succeeded()

    def _failed(self, error: HubCallError) -> float:
        self.failure = error
        return self.backoff.failed(error.retry_after)

    def _renumbered(self, gap: HubCallError) -> float:
        """At once, unless the call before failed like this, too."""
        again = self.failure is not None and self.failure.reason == gap.reason
        delay = self._failed(gap)
        return delay if again else 0.0


def settings_of(outbox: "Outbox | str | os.PathLike[str]") -> Outbox:
    """The outbox settings of a client that was given them, or a path."""
    return outbox if isinstance(outbox, Outbox) else Outbox(outbox)


def prepared(event: Event, unix_seconds: float) -> bytes:
    """The bytes of an event that has its id; it gets the time at which it happened, unless it has one: now.

    Raises:
        ValueError: it is larger than the hub takes.
    """
    if not event.HasField("occur_time"):
        event.occur_time.FromMicroseconds(int(unix_seconds * 1e6))
    if (size := event.ByteSize()) > MAX_EVENT_BYTES:
        raise ValueError(f"an event of {size} bytes: the hub takes up to {MAX_EVENT_BYTES}")
    return event.SerializeToString()


def announce(rejected: Sequence[Rejected], callback: Callable[[Rejected], None] | None) -> None:
    """Call back with each refused event, or warn. What the callback raises is logged, and stops nothing."""
    for each in rejected:
        if callback is None:
            logger.warning("the hub refused event %s for good: %s", each.event.id, each.error)
            continue
        try:
            callback(each)
        except Exception:
            logger.exception("on_rejected failed for event %s", each.event.id)


def warn_once(before: HubCallError | None, now: HubCallError | None) -> None:
    """Warn where the hub begins to refuse or to miss calls, or for another reason than before."""
    known = before is not None and now is not None and (before.code, before.reason) == (now.code, now.reason)
    if now is not None and not known:
        logger.warning("the outbox keeps its events and tries again: %s", now)
