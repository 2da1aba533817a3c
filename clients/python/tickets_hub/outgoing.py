"""The queue of outgoing events: what one call carries, and what its answer means for each caller.

The order, the coalescing, the bounds of a call, and the outcome of each event. The threaded and the asyncio client
drive it alike. At most one call is under way, so that an event never overtakes one that has to be sent again. It does
not know channels, threads, tasks or clocks.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

from google.rpc import code_pb2
from google.rpc.status_pb2 import Status

from tickets_hub.failure import HubCallError
from tickets_hub.requests import MAX_BATCH
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import (
    BatchEmitEventsRequest,
    BatchEmitEventsResponse,
    EmitEventRequest,
    EmitEventResponse,
)

MAX_CALL_BYTES = 256 * 1024
"""Bytes of events in a call that carries more than one caller's."""

Answer = EmitEventResponse | BatchEmitEventsResponse | HubCallError


@dataclass(slots=True, eq=False)
class Parcel:
    """The events of one caller: one of ``emit``, or a list of ``emit_batch`` that is stored whole or not at all.

    Attributes:
        wake: called once the parcel has an outcome.
        since: when it came, in seconds of any clock that never goes back.
        is_list: it is of ``emit_batch``, and a call of its own.
        apart: it may share no call: an older hub refused one with its event.
        size: bytes of the event, where it may share a call.
        results: one for each event, once they are stored.
        error: why they are not stored, or why that is unknown.
    """

    events: Sequence[Event]
    wake: Callable[[], None]
    since: float = 0.0
    is_list: bool = False
    apart: bool = False
    size: int = 0
    results: list[EmitEventResponse] | None = None
    error: HubCallError | None = None

    @property
    def travels_alone(self) -> bool:
        """Whether its call carries nothing else."""
        return self.is_list or self.apart

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of its events."""
        return tuple(event.id for event in self.events)

    @property
    def has_outcome(self) -> bool:
        """Whether the parcel has an outcome."""
        return self.results is not None or self.error is not None

    def outcome(self) -> list[EmitEventResponse]:
        """The results.

        Raises:
            HubCallError: it names the events.
        """
        if self.error is not None:
            raise self.error
        return self.results or []

    def store(self, results: Iterable[EmitEventResponse]) -> None:
        """Note that the events are stored."""
        self.results = list(results)
        self.wake()

    def fail(self, error: HubCallError) -> None:
        """Note that they are not stored, or may not be; each caller gets an exception of its own."""
        self.error = error.of(self.ids)
        self.wake()


@dataclass(slots=True, eq=False)
class Call:
    """One call to the hub with the events of some parcels."""

    parcels: list[Parcel]
    request: EmitEventRequest | BatchEmitEventsRequest = field(init=False)

    def __post_init__(self) -> None:
        first = self.parcels[0]
        if len(self.parcels) > 1:
            events = [parcel.events[0] for parcel in self.parcels]
            self.request = BatchEmitEventsRequest(events=events, independent=True)
        elif first.is_list:
            self.request = BatchEmitEventsRequest(events=first.events)
        else:
            self.request = EmitEventRequest(event=first.events[0])


class Outgoing:
    """Parcels in the order in which they came, and the call that is under way."""

    def __init__(self) -> None:
        self._waiting = deque[Parcel]()
        self._under_way: Call | None = None
        self._held = False
        self._ending: HubCallError | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._waiting and not self._held

    @property
    def unknown(self) -> tuple[str, ...]:
        """The ids of the events that are under way."""
        return tuple(name for parcel in self._under_way.parcels for name in parcel.ids) if self._under_way else ()

    def enter(self, parcel: Parcel) -> Call | None:
        """Add a parcel. If nothing is before it, returns its call, which the caller makes at once.

        Raises:
            HubCallError: the queue is closed; the error names the events.
        """
        if self._ending is not None:
            raise self._ending.of(parcel.ids)
        if self.is_idle:
            self._under_way = Call([parcel])
            self._held = True
            return self._under_way
        if not parcel.is_list:
            parcel.size = parcel.events[0].ByteSize()
        self._waiting.append(parcel)
        return None

    def end(self, error: HubCallError) -> None:
        """Refuse new parcels from now on, with this error; earlier ones are still sent."""
        self._ending = error

    def withdraw(self, parcel: Parcel) -> bool:
        """Remove a parcel whose caller has gone. False: it was sent already, with unknown outcome."""
        try:
            self._waiting.remove(parcel)
        except ValueError:
            return False
        return True

    def next_call(self) -> Call | None:
        """The next call to make, after the one before has ended; None: nothing waits, and the line is idle."""
        self._under_way = Call(self._take()) if self._waiting else None
        self._held = self._under_way is not None
        return self._under_way

    def _take(self) -> list[Parcel]:
        first = self._waiting.popleft()
        taken, size = [first], first.size
        while self._waiting and len(taken) < MAX_BATCH and not first.travels_alone:
            following = self._waiting[0]
            size += following.size
            if following.travels_alone or size > MAX_CALL_BYTES:
                break
            taken.append(self._waiting.popleft())
        return taken

    def settle(self, call: Call, answer: Answer) -> None:
        """Tell the parcels of a call what became of them; the line stays held until `next_call`.

        An older hub does not know independent batches and refuses them whole: their events then go one by one.
        """
        shared = len(call.parcels) > 1
        if isinstance(answer, HubCallError):
            if shared and answer.code in ("INVALID_ARGUMENT", "ALREADY_EXISTS"):
                for parcel in reversed(call.parcels):
                    parcel.apart = True
                    self._waiting.appendleft(parcel)
                self._under_way = None
                return
            for parcel in call.parcels:
                parcel.fail(answer)
        elif isinstance(answer, EmitEventResponse):
            call.parcels[0].store([answer])
        elif not shared:
            call.parcels[0].store(answer.results)
        else:
            for index, (parcel, result) in enumerate(zip(call.parcels, answer.results, strict=True)):
                if result.HasField("error"):
                    parcel.fail(refusal(result.error, index))
                else:
                    parcel.store([result])
        self._under_way = None

    def expire(self, until: float, error: HubCallError) -> None:
        """Fail what has waited since `until` or longer: the hub is away, and the calls before took all its time."""
        while self._waiting and self._waiting[0].since <= until:
            self._waiting.popleft().fail(error)

    def give_up(self, error: HubCallError) -> None:
        """Fail everything, the call under way included: nothing is left to send it."""
        under_way, self._under_way, self._held = self._under_way, None, False
        for parcel in under_way.parcels if under_way else ():
            if not parcel.has_outcome:
                parcel.fail(error)
        self.drop(error)

    def drop(self, error: HubCallError) -> None:
        """Fail everything that waits; nothing of it was sent."""
        self.expire(inf, error)


def refusal(status: Status, index: int) -> HubCallError:
    """Why one event of a batch was refused, as ``EmitEvent`` would have said it."""
    code = code_pb2.Code.Name(code_pb2.Code.ValueType(status.code))
    return HubCallError.decode(code, status.message, status.SerializeToString()).renamed(f"events[{index}]", "event")
