"""The log as a stream of NATS JetStream, for any number of replicas of the hub: `Log` on a cluster.

How appends hold: one group at a time is published as an atomic batch that expects the stream to stand exactly where
this replica's view ends. So what was decided by the view (times, ids, expectations, positions) is still true when it is
stored, whoever else writes; where somebody was faster nothing is stored, the view catches up and decides again.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import Any, Self, cast

import structlog

from hub.config import Settings
from hub.errors import Conflict, EventIdConflict, StartError, StorageFull, StorageUnavailable
from hub.model import Appended, Bounds, Entry, Expect, Kind, Page
from hub.storage import HEARD_WITHIN
from hub.storage._group import Group, Seen, wanted
from hub.storage._jetstream_api import MAX_BATCH, PATIENCE, ApiError, Stored, Stream
from hub.storage._jetstream_entries import Subjects, time_of
from hub.storage._jetstream_follow import Follower, newest
from hub.storage._jetstream_groups import Groups
from hub.storage._jetstream_marks import Marks
from hub.storage._jetstream_reads import Reads
from hub.storage._jetstream_removal import ERASED_AT_ONCE, Removal
from hub.storage._jetstream_setup import START_TIME, prepare
from hub.storage._jetstream_view import View
from hub.storage._jetstream_wire import NoAnswer, Wire, shown
from hub.storage._tails import Tails
from hub.storage._writer import Outcome, Request, Writer

BEAT = 1.0
"""Seconds between two proofs that the cluster acknowledges and that this replica has all of it."""
APPEND_TIME = 5.0
"""Seconds that a group may take to be acknowledged, with all that is tried again."""
FEW = 8
"""Appends of one entry that are stored one by one rather than as one batch."""
_LATE = 0.2
"""Seconds after which an entry that should have come is asked for."""
_READ_AGAIN = 0.2

log = structlog.get_logger(__name__)


class JetStreamLog:
    """The `Log` in a stream."""

    def __init__(self, wire: Wire, streams: tuple[Stream, Stream], epoch: int, settings: Settings) -> None:
        """Use `open`."""
        self._wire = wire
        self._stream, marks = streams
        self._epoch = epoch
        self._settings = settings
        self._subjects = Subjects(self._stream.name)
        self._view = View(round(settings.dedupe_window * 1e6))
        self._marks = Marks(marks)
        self._reads = Reads(self._stream, self._subjects, self._view, self._marks)
        self._groups = Groups(self._stream, self._subjects, self._catch_up)
        self._removal = Removal(self._stream, self._subjects, self._view, self._marks, self._reads)
        self._tails = Tails(0, self._read_for_tails)
        self._work = Writer(self, MAX_BATCH)
        self._heard = 0.0
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Open the log in the cluster that the settings name; an empty one is made.

        Raises:
            StartError: it cannot be reached, is not as it must be, or does not answer in time.
        """
        wire = await Wire.connect(settings)
        try:
            stream, marks, epoch = await prepare(wire, settings)
        except BaseException:
            await wire.close()
            raise
        opened = cls(wire, (stream, marks), epoch, settings)
        try:
            async with asyncio.timeout(None) as patience:
                await opened._begin(patience)
        except (TimeoutError, NoAnswer, ApiError, StorageUnavailable) as error:
            await opened.close()
            raise StartError(f"NATS at {shown(settings)} does not answer: {error}") from None
        except BaseException:
            await opened.close()
            raise
        return opened

    async def _begin(self, patience: asyncio.Timeout) -> None:
        """Learn what there is; from then on follow. It may take long only while entries of the dedupe window come."""
        patience.reschedule(self._loop.time() + START_TIME)
        self._spawn(self._marks.run())
        await self._marks.reached(await self._answered(self._marks.beat))
        self._marks.announced = 0  # what was said before may be of a tail that the cluster has lost
        last = await self._answered(self._stream.last)
        await self._take_states()
        start = await self._start_of_window(last)
        for gone in self._marks.gone():
            if gone.id_hash:
                self._view.ids.add(gone.id_hash, Seen(gone.position, gone.time, gone.digest))
        self._view.advance(start - 1)
        self._spawn(Follower(self._stream, start - 1, self._take).run())
        while self._view.last < last:
            reached = self._view.last
            with suppress(TimeoutError):
                async with asyncio.timeout(START_TIME / 2):
                    await self._catch_up(last)
            if self._view.last > reached:
                patience.reschedule(self._loop.time() + START_TIME)
        self._tails.publish((), self._view.last)
        await self._hear()
        self._spawn(self._keep_hearing())
        self._spawn(self._removal.run())

    async def _answered(self, question: Callable[[], Awaitable[int]]) -> int:
        """Ask until there is an answer: a stream that was just made, or has no leader yet, gives none."""
        while True:
            try:
                return await question()
            except (NoAnswer, ApiError) as error:
                log.debug("the cluster does not answer yet", error=str(error))
                await asyncio.sleep(_READ_AGAIN)

    async def _take_states(self) -> None:
        """The newest state of each key: from some replica of the stream, and what that did not have yet."""
        states = await newest(self._stream, self._subjects.states)
        reached = max((stored.position for stored in states), default=0)
        while (stored := await self._stream.get(seq=reached + 1, next_by_subj=self._subjects.states)) is not None:
            states.append(stored)
            reached = stored.position
        for stored in states:
            self._view.take_state(self._subjects.entry(stored))
        self._view.forget(self._marks.extent.forgotten)

    async def _start_of_window(self, last: int) -> int:
        """The position of the first event whose id is still known."""
        newest_entry = await self._stream.get(last_by_subj=f"{self._stream.name}.>")
        times = [self._marks.extent.last_time, *(gone.time for gone in self._marks.gone())]
        if newest_entry is not None:
            times.append(time_of(newest_entry))
        self._view.last_time = max(times)
        return await self._reads.first_event_since(self._view.last_time - self._view.window, last)

    # Following: what others append, and whether that is all.

    def _take(self, batch: list[Stored]) -> None:
        """What the stream delivers; what this replica appended itself it knows already."""
        fresh = [self._subjects.entry(stored) for stored in batch if stored.position > self._view.last]
        self._publish(fresh)

    def _publish(self, entries: list[Entry]) -> None:
        new = self._view.take_in(entries)
        if new:
            self._tails.publish(new, self._view.last)

    async def _catch_up(self, position: int) -> None:
        """Wait until everything up to a position is in the view; the last of it may have been removed meanwhile.

        Only of a server that has as much is it believed that there is nothing: one that led once may not know it yet.
        """
        while self._view.last < position:
            try:
                async with asyncio.timeout(_LATE):
                    await self._view.reached(position)
            except TimeoutError:
                if await self._stream.last() < position:
                    continue
                following = await self._stream.get(seq=self._view.last + 1, next_by_subj=">")
                if following is None or following.position > position:
                    self._view.advance(position)

    def is_current(self) -> bool:
        """See `Log.is_current`."""
        return self._loop.time() - self._heard < HEARD_WITHIN

    @property
    def failed(self) -> bool:
        """See `Log.failed`. A cluster comes back by itself."""
        return False

    async def _hear(self) -> None:
        """Have the cluster acknowledge something, and see that nothing appended before that is missing here."""
        began = self._loop.time()
        mark = await self._marks.beat(self._view.last)
        async with asyncio.timeout(PATIENCE):
            await self._marks.reached(mark)
            last = await self._stream.last()
            if last < self._marks.announced:
                raise NoAnswer(f"a server that ends at {last}, before {self._marks.announced}, no longer leads")
            await self._catch_up(last)
        self._view.forget(self._marks.extent.forgotten)
        self._heard = max(self._heard, began)

    async def _keep_hearing(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            try:
                await self._hear()
            except (NoAnswer, ApiError, TimeoutError) as error:
                log.debug("the cluster is silent", error=str(error))

    # Appending.

    async def append(self, entries: Sequence[Entry], expect: Expect | None = None) -> list[Appended]:
        """See `Log.append`."""
        if not entries and not expect:
            return []
        if len(entries) > MAX_BATCH:
            raise ValueError(f"{len(entries)} entries in one append: the seam allows {MAX_BATCH}")
        return await self._work.append(entries, expect)

    async def write(self, requests: list[Request]) -> list[Outcome]:
        """See `Store.write`.

        The server stages a batch in files, which takes longer than to store a few events one by one.
        """
        if len(requests) <= FEW and all(len(request.entries) == 1 for request in requests):
            return [outcome for request in requests for outcome in await self._write([request])]
        return await self._write(requests)

    async def _write(self, requests: list[Request]) -> list[Outcome]:
        deadline = self._loop.time() + APPEND_TIME
        while self.is_current():
            group = self._view.group(*wanted((request.entries, request.expect) for request in requests))
            outcomes = [_add(group, request) for request in requests]
            if not group.entries or await self._groups.store(group, deadline):
                self._publish(group.entries)
                if group.superseded():
                    self._spawn(self._groups.tidy(group))
                return outcomes
        raise StorageUnavailable

    async def undo(self, error: Exception) -> Exception:
        """See `Store.undo`. There is nothing half done: a batch is stored whole or not at all."""
        if isinstance(error, NoAnswer | ApiError | TimeoutError):
            return StorageFull() if isinstance(error, ApiError) and error.is_full else StorageUnavailable()
        return type(error)() if isinstance(error, StorageUnavailable | StorageFull) else error

    async def settle(self) -> None:
        """See `Store.settle`."""

    # Removing: see `Removal`. In line with the appends, so that it sees those that came before it.

    async def trim(self, before: int, limit: int) -> int:
        """See `Log.trim`."""
        return await self._work.run(partial(self._removal.trim, before, limit))

    async def erase(self, positions: Sequence[int]) -> None:
        """See `Log.erase`. A cancelled call may have erased some of them."""
        for start in range(0, len(positions), ERASED_AT_ONCE):
            await self._work.run(partial(self._removal.erase, positions[start : start + ERASED_AT_ONCE]))

    # Reading: see `Reads`.

    async def read(self, after: int, limit: int, kinds: frozenset[Kind] | None = None) -> Page:
        """See `Log.read`."""
        with self._answers():
            return await self._reads.read(after, limit, kinds)

    async def history(self, before: int, limit: int, key_prefix: str = "") -> Page:
        """See `Log.history`."""
        with self._answers():
            return await self._reads.history(before, limit, key_prefix)

    async def position_at(self, time: int) -> int:
        """See `Log.position_at`."""
        with self._answers():
            return await self._reads.position_at(time)

    async def snapshot(self) -> tuple[list[Entry], int]:
        """See `Log.snapshot`. From memory."""
        with self._answers():
            await asyncio.sleep(0)  # whoever asks again and again lets others have a turn
            entries = sorted(self._view.heads.values(), key=lambda entry: entry.position)
            return entries, self._view.last

    async def bounds(self) -> Bounds:
        """See `Log.bounds`. As this replica knows it: what others appended a moment ago may lie behind `last`."""
        return Bounds(self._epoch, self._marks.extent.first, self._view.last)

    async def newest(self) -> int:
        """See `Log.newest`. As the leader has it."""
        with self._answers():
            return await self._stream.last()

    async def tail(self, after: int) -> AsyncIterator[Sequence[Entry]]:
        """See `Log.tail`."""
        async with aclosing(cast("Any", self._tails.follow(after))) as batches:
            async for batch in batches:
                yield batch

    async def _read_for_tails(self, after: int, limit: int) -> Page:
        """A page, however long the cluster is silent."""
        while True:
            try:
                return await self.read(after, limit)
            except StorageUnavailable:
                if self._closed:
                    raise
                await asyncio.sleep(_READ_AGAIN)

    @contextmanager
    def _answers(self) -> Iterator[None]:
        if self._closed:
            raise StorageUnavailable
        try:
            yield
        except (NoAnswer, ApiError) as error:
            raise StorageUnavailable from error

    async def secret(self) -> bytes:
        """See `Log.secret`. Kept in the cluster, so that every replica has the same."""
        if self._settings.secret is not None:
            return hashlib.sha256(self._settings.secret.get_secret_value().encode()).digest()
        with self._answers():
            return await self._marks.secret()

    # The end.

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.remove(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a part of the store has ended", exc_info=error)

    async def close(self) -> None:
        """See `Log.close`. The last to wait for it may be cancelled: it goes on."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="jetstream log close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            await self._work.close()
        finally:
            self._closed = True
            self._tails.close()
            while tasks := list(self._tasks):
                for task in tasks:
                    task.cancel()  # again and again: a wait that ends at the same moment swallows it
                await asyncio.wait(tasks, timeout=_LATE)
            await self._wire.close()


def _add(group: Group, request: Request) -> Outcome:
    """A request that conflicts fails alone: the others of its group go on."""
    try:
        return group.add(request.entries, request.expect)
    except (Conflict, EventIdConflict) as error:
        return error
