"""This replica's copy of the log's state: read at the start, then kept current by following the stream."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from hub.errors import StartError
from hub.model import Entry
from hub.storage.damage import DamageRecord
from hub.storage.group import Seen
from hub.storage.jetstream.background import BackgroundTasks
from hub.storage.jetstream.codec import Subjects, time_of
from hub.storage.jetstream.connection import NoReply
from hub.storage.jetstream.consumer import StreamFollower, newest
from hub.storage.jetstream.metadata import MetadataStream, StoreFormat
from hub.storage.jetstream.quorum import Quorum
from hub.storage.jetstream.reads import StreamReads
from hub.storage.jetstream.setup import START_TIME
from hub.storage.jetstream.state import ReplicaState
from hub.storage.jetstream.stream import ApiError, NatsStream, StoredMessage
from hub.storage.levels import FORMAT, may_write, require

_LATE = 0.2
"""Seconds after which an expected entry is requested."""
_ASK_AGAIN = 0.2

log = structlog.get_logger(__name__)

OnEntries = Callable[[Sequence[Entry], int], None]


class Replica:
    """This replica's copy of the log's state, and whether it is current.

    Attributes:
        stream: the stream of the log.
        subjects: the subjects of entries.
        state: the log up to a position.
        metadata: the stream beside the log.
        damage: the damaged entries that were found.
        reads: pages of the log.
        quorum: the proof that this replica misses nothing.
    """

    def __init__(self, streams: tuple[NatsStream, NatsStream], window: int, on_entries: OnEntries) -> None:
        """Begin empty.

        Args:
            streams: of the log and of its metadata.
            window: the dedupe window in microseconds.
            on_entries: called with new entries, in order, and the newest position.
        """
        self.stream, metadata = streams
        self.damage = DamageRecord()
        self.subjects = Subjects(self.stream.name, self.damage.add)
        self.state = ReplicaState(window)
        self.metadata = MetadataStream(metadata)
        self.reads = StreamReads(self.stream, self.subjects, self.state, self.metadata)
        self.quorum = Quorum(streams, self.metadata, self.state, self.catch_up)
        self._on_entries = on_entries

    async def start(self, tasks: BackgroundTasks, limit: asyncio.Timeout) -> None:
        """Read the log, then follow it. The time limit is extended as long as entries arrive.

        Raises:
            StartError: the log is damaged, or of a newer format.
            NoReply, ApiError, TimeoutError: the cluster does not answer.
        """
        now = asyncio.get_running_loop().time
        limit.reschedule(now() + START_TIME)
        tasks.start(self.metadata.run())
        await self.metadata.wait_applied(await _answered(self.metadata.publish_heartbeat))
        self.metadata.announced_position = 0  # older announcements may be of a tail that the cluster has lost
        last = await _answered(self.stream.last)
        await self._check_format(is_new=not last)
        await self._load_states()
        start = await self._start_of_window(last)
        for removed in self.metadata.removed_events():
            if removed.id_hash:
                self.state.ids.add(removed.id_hash, Seen(removed.position, removed.time, removed.digest))
        self.state.advance(start - 1)
        tasks.start(StreamFollower(self.stream, start - 1, self._take).run())
        while self.state.last < last:
            before = self.state.last
            with suppress(TimeoutError):
                async with asyncio.timeout(START_TIME / 2):
                    await self.catch_up(last)
            if self.state.last > before:
                limit.reschedule(now() + START_TIME)
        await self.quorum.check_quorum()
        tasks.start(self.quorum.run())

    @property
    def failed(self) -> bool:
        """See `Log.failed`. A cluster recovers by itself; damaged state does not, nor does a format that is too new."""
        marked = self.metadata.format
        return self.damage.is_unsafe or (marked is not None and not may_write(marked))

    def silence(self) -> float:
        """See `Log.silence`."""
        return math.inf if self.failed else self.quorum.silence()

    def publish(self, entries: Sequence[Entry]) -> None:
        """Apply entries, and hand the new ones on."""
        if new := self.state.take_in(entries):
            self._on_entries(new, self.state.last)

    async def catch_up(self, position: int) -> None:
        """Wait until everything up to a position is applied; the last entries may have been removed since.

        A server that ends before the position may be a former leader: it cannot tell that an entry is missing.
        """
        while self.state.last < position:
            try:
                async with asyncio.timeout(_LATE):
                    await self.state.wait_applied(position)
            except TimeoutError:
                if await self.stream.last() < position:
                    continue
                following = await self.stream.get(seq=self.state.last + 1, next_by_subj=">")
                if following is None or following.position > position:
                    self.state.advance(position)

    def _take(self, batch: list[StoredMessage]) -> None:
        """Apply what the stream delivers, except for this replica's own appends."""
        self.publish([self.subjects.entry(stored) for stored in batch if stored.position > self.state.last])

    async def _check_format(self, *, is_new: bool) -> None:
        """Refuse a log of a newer format; stamp one without a format. Older hubs may run beside this one."""
        checked = StoreFormat(FORMAT, FORMAT, FORMAT, checked_from=1)
        found = await self.metadata.stamp(checked if is_new else StoreFormat(FORMAT))
        require(f"stream {self.stream.name}", found)
        self.subjects.checked_from = found.checked_from

    async def refuse_older_hubs(self) -> None:
        """See `Log.refuse_older_hubs`."""
        marked = self.metadata.format
        if marked is None or marked.min_writer < FORMAT:
            await self.metadata.stamp(StoreFormat(FORMAT, FORMAT, FORMAT, checked_from=self.subjects.checked_from))

    async def _load_states(self) -> None:
        """Apply the newest state of each key: as one server has it, then what that server lacked."""
        states = await newest(self.stream, self.subjects.states)
        position = max((stored.position for stored in states), default=0)
        while (stored := await self.stream.get(seq=position + 1, next_by_subj=self.subjects.states)) is not None:
            states.append(stored)
            position = stored.position
        for stored in states:
            self.state.take_state(self.subjects.entry(stored))
        self.state.forget(self.metadata.extent.forgotten)
        if self.damage.is_unsafe:
            raise StartError(
                f"stream {self.stream.name} is damaged: the state at position {self.damage.unsafe_at} does not match "
                "its checksum; nothing is served until it is restored: 'hub doctor --verify' lists the damage"
            )

    async def _start_of_window(self, last: int) -> int:
        """The position of the first event whose id is still known."""
        newest_entry = await self.stream.get(last_by_subj=f"{self.stream.name}.>")
        times = [self.metadata.extent.last_time, *(removed.time for removed in self.metadata.removed_events())]
        if newest_entry is not None:
            times.append(time_of(newest_entry))
        self.state.last_time = max(times)
        newest_event = await self.stream.get(last_by_subj=self.subjects.events)
        self.state.event = newest_event.position if newest_event is not None else 0
        return await self.reads.first_event_since(self.state.last_time - self.state.window, last)


async def _answered(question: Callable[[], Awaitable[int]]) -> int:
    """Repeat a request until it is answered: a stream that is new, or has no leader yet, does not answer."""
    while True:
        try:
            return await question()
        except (NoReply, ApiError) as error:
            log.debug("the cluster does not answer yet", error=str(error))
            await asyncio.sleep(_ASK_AGAIN)
