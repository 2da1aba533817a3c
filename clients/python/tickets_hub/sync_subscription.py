"""A subscription for threads: streams, one after the other, behind a plain ``for``.

Blocking reads and the watchdog's thread; ``session.py`` decides what to do next.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from types import TracebackType
from typing import Protocol, Self

import grpc

from tickets_hub.commits import Commits
from tickets_hub.failure import HubCallError
from tickets_hub.key import ClientKey, is_key_ending
from tickets_hub.session import Notice, Policy, StreamSession
from tickets_hub.transport import clean_end, closed_error, failure_of
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import CommitCursorRequest, Erased, SubscribeResponse
from tickets_hub.v1.event_service_pb2_grpc import EventServiceStub


class Clock(Protocol):
    """The time, and waiting for it."""

    def time(self) -> float:
        """Seconds since any moment; never goes back."""

    def wait(self, wake: threading.Event, seconds: float) -> None:
        """Return once ``wake`` is set or the seconds are over; ``wake`` is clear then."""


class RealClock:
    """The clock of this machine."""

    def time(self) -> float:
        """Seconds since the machine started."""
        return time.monotonic()

    def wait(self, wake: threading.Event, seconds: float) -> None:
        """Wait, at most as long as a thread can."""
        wake.wait(min(seconds, threading.TIMEOUT_MAX))
        wake.clear()


@dataclass(frozen=True, slots=True)
class Access:
    """What a call needs: the service, the key, the time."""

    events: EventServiceStub
    key: ClientKey
    clock: Clock
    rotating: threading.RLock = field(default_factory=threading.RLock)
    """Held during a rotation of the key."""

    def has_newer_key(self, version: int, failure: HubCallError) -> bool:
        """Whether a failed call used a key that has ended and there is a newer one; waits for a rotation under way."""
        if not is_key_ending(failure):
            return False
        with self.rotating:
            return self.key.version != version


class Committer:
    """The thread that commits for one subscription, so that delivery never waits for it."""

    def __init__(self, access: Access, subscription_id: str, policy: Policy, *, keep_notices: bool) -> None:
        """`keep_notices`: the program handles no erasures, so commits must not confirm erasures."""
        self._access = access
        self._keep_notices = keep_notices
        self._subscription_id = subscription_id
        self._timeout = policy.try_timeout
        self._commits = Commits(policy)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._failure: HubCallError | None = None
        self.thread = threading.Thread(target=self._run, name="hub-client-commits", daemon=True)
        self.thread.start()

    def offer(self, cursor: str) -> None:
        """Offer a cursor up to which everything was processed. Raises an earlier commit's permanent failure."""
        if self._failure:
            raise self._failure
        with self._lock:
            self._commits.offer(cursor)
        self._wake.set()

    def stop(self) -> None:
        """Send the waiting cursor once, and end."""
        self._stopping = True
        self._wake.set()

    def _run(self) -> None:
        while self._failure is None:
            stopping = self._stopping
            with self._lock:
                due = self._commits.due(self._access.clock.time())
            if due == 0 or (stopping and due < inf):
                self._send()
            elif not stopping:
                self._access.clock.wait(self._wake, due)
            if stopping:
                return

    def _send(self) -> None:
        """Commit the newest cursor; a permanent error is kept for the reader to raise."""
        with self._lock:
            cursor = self._commits.take()
        request = CommitCursorRequest(
            cursor=cursor, subscription_id=self._subscription_id, keep_notices=self._keep_notices
        )
        failure: HubCallError | None = None
        version, newer_key = self._access.key.version, False
        try:
            self._access.events.CommitCursor(request, timeout=self._timeout, metadata=self._access.key.metadata)
        except grpc.RpcError as error:
            failure = failure_of(error)
            newer_key = self._access.has_newer_key(version, failure)
        except ValueError:  # gRPC's word for a channel that is closed
            failure = closed_error()
        try:
            with self._lock:
                self._commits.settled(cursor, failure, self._access.clock.time(), newer_key=newer_key)
        except HubCallError as final:
            self._failure = final


class Subscription(Iterator[Event]):
    """The events of one subscription, one after the other, for as long as it takes; made by ``Client.subscribe``.

    Iterating blocks until there is an event. A broken stream is opened again, after the last event handed over. It ends
    without an error only by ``close``. ``with`` closes it; so does the last reference going away.
    """

    def __init__(
        self,
        access: Access,
        session: StreamSession,
        on_notice: Callable[[Notice], None],
        on_erased: Callable[[Erased], None],
        committer: Committer | None = None,
    ) -> None:
        self._access = access
        self._committer = committer
        self._session = session
        self._on_notice = on_notice
        self._on_erased = on_erased
        self._stream: _Stream | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False

    @property
    def cursor(self) -> str:
        """After the last frame of which every event was handed over; empty before the first.

        Kept with the work that was done, and given to ``Start.cursor`` in the next run, it makes the subscription
        resume there: events of a frame that was not finished come again, nothing is left out.
        """
        return self._session.cursor

    def __next__(self) -> Event:
        """The next event.

        Raises:
            HubCallError: the stream ended for a reason that reopening does not fix; the subscription is closed.
            StopIteration: the subscription was closed.
        """
        try:
            while not self._closed:
                event = self._session.take()
                if event is not None:
                    return event
                if self._committer:
                    self._committer.offer(self._session.cursor)
                self._step(self._stream or self._open())
        except BaseException:
            self.close()
            raise
        raise StopIteration

    def close(self) -> None:
        """End it now, from any thread: a blocked ``for`` ends, too. Closing again does nothing."""
        with self._lock:
            self._closed = True
            if self._stream:
                self._stream.end()
        if self._committer:
            self._committer.stop()
        self._wake.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # After `for event in client.subscribe(): break` nothing else ends the call.
        if hasattr(self, "_wake"):
            self.close()

    def _open(self) -> "_Stream | None":
        """Open a stream; None if the subscription was closed in between."""
        with self._lock:
            if not self._closed:
                self._stream = _Stream(self._access, self._session)
            return self._stream

    def _step(self, stream: "_Stream | None") -> None:
        """Read one frame, or handle the stream's end."""
        if stream is None:
            return
        frame = stream.read()
        if isinstance(frame, HubCallError):
            self._reconnect(frame)
            return
        notice = self._session.received(frame)
        if isinstance(notice, Erased):
            self._on_erased(notice)
        elif notice is not None:
            stream.patience_changed()
            self._on_notice(notice)

    def _reconnect(self, failure: HubCallError) -> None:
        """Wait as long as the session says before the next stream is opened; raise a permanent failure."""
        stream, self._stream = self._stream, None
        if stream:
            stream.end()
        if self._closed:
            return
        newer_key = stream is not None and self._access.has_newer_key(stream.key_version, failure)
        reconnecting = self._session.ended(failure, newer_key=newer_key)
        self._on_notice(reconnecting)
        self._access.clock.wait(self._wake, reconnecting.delay)


class _Stream:
    """One open call, and the watchdog that cancels it when it falls silent."""

    def __init__(self, access: Access, session: StreamSession) -> None:
        self._clock = access.clock
        self._session = session
        self.key_version = access.key.version
        self._call = access.events.Subscribe(session.request(), metadata=access.key.metadata)
        self._wake = threading.Event()
        self._over = False
        self._silent = False
        threading.Thread(target=self._watch, name="hub-client-watchdog", daemon=True).start()

    def read(self) -> SubscribeResponse | HubCallError:
        """The next frame, or the failure that ended the stream."""
        self._session.waiting(self._clock.time())
        try:
            return next(self._call)
        except StopIteration:
            return clean_end()
        except grpc.RpcError as error:
            return self._session.silence() if self._silent else failure_of(error)

    def patience_changed(self) -> None:
        """The session may now wait for less long than the watchdog sleeps."""
        self._wake.set()

    def end(self) -> None:
        """Cancel the call, in whatever state it is; from any thread."""
        self._over = True
        self._call.cancel()
        self._wake.set()

    def _watch(self) -> None:
        while not self._over:
            remaining = self._session.remaining(self._clock.time())
            if remaining <= 0:
                self._silent = True
                self._call.cancel()
                return
            self._clock.wait(self._wake, min(remaining, self._session.patience))
