"""The one task that writes a log: what waits for it, in order, and who waits for that.

Lives here: the queue, groups and their bounds, answers. Must not know how anything is stored. Callers wait for futures
of their own, so that a cancelled caller never reaches into a transaction.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from hub.errors import Conflict, EventIdConflict, StorageFull, StorageUnavailable
from hub.model import Appended, Entry, Expect

MAX_GROUP_ENTRIES = 2_000
MAX_GROUP_BYTES = 4 * 1024 * 1024

T = TypeVar("T")
Outcome = list[Appended] | Conflict | EventIdConflict


@dataclass(slots=True)
class Request:
    """Entries to append together, and where their caller waits. `size`: bytes of the bodies."""

    entries: tuple[Entry, ...]
    expect: Expect | None
    size: int
    done: asyncio.Future[list[Appended]]


@dataclass(slots=True)
class _Job:
    """Another piece of work: a transaction of its own."""

    work: Callable[[], Awaitable[Any]]
    done: asyncio.Future[Any]


class Store(Protocol):
    """What the task needs of a store. It alone calls these, one at a time."""

    async def write(self, requests: list[Request]) -> list[Outcome]:
        """Make a group durable as one transaction; a request that conflicts fails alone."""
        ...

    async def undo(self, error: Exception) -> Exception:
        """Take back what an error left half done; returns what callers get: `error` itself where one is at fault."""
        ...

    async def settle(self) -> None:
        """Do what can wait until a group's callers have their answers."""
        ...


class Writer:
    """The task and its queue, which is as long as admission lets it be.

    Attributes:
        failed: set by the store once nothing may be written any more; everything is refused from then on.
    """

    def __init__(self, store: Store, max_entries: int = MAX_GROUP_ENTRIES) -> None:
        """Begin to write to a store, in groups of up to so many entries."""
        self.failed = False
        self._max_entries = max_entries
        self._store = store
        self._queue: deque[Request | _Job] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="log writer")

    async def append(self, entries: Sequence[Entry], expect: Expect | None) -> list[Appended]:
        """Have entries stored, together with whatever else waits."""
        done: asyncio.Future[list[Appended]] = asyncio.get_running_loop().create_future()
        self._submit(Request(tuple(entries), expect, sum(len(entry.body) for entry in entries), done))
        return await done

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Have a transaction of another kind run when its turn comes; returns what it returns."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._submit(_Job(work, done))
        return await done

    async def close(self) -> None:
        """Refuse what comes from now on, and wait until what was begun is done."""
        self._closing = True
        self._wake.set()
        await self._task

    def _submit(self, work: Request | _Job) -> None:
        if self.failed or self._closing:
            raise StorageUnavailable
        self._queue.append(work)
        self._wake.set()

    async def _run(self) -> None:
        try:
            while self._queue or not self._closing:
                await self._run_next()
        finally:  # however it ends, nobody waits for it in vain
            self._closing = True
            for work in self._queue:
                _refuse(work.done, StorageUnavailable())

    async def _run_next(self) -> None:
        if not self._queue:
            self._wake.clear()
            await self._wake.wait()
        elif isinstance(head := self._queue[0], _Job):
            self._queue.popleft()
            await self._run_job(head)
        else:
            await self._run_group(self._take_group())

    def _take_group(self) -> list[Request]:
        """The requests at the head of the queue, as many as one transaction may hold; those given up are left out."""
        group: list[Request] = []
        entries = size = 0
        while self._queue and isinstance(head := self._queue[0], Request):
            entries, size = entries + len(head.entries), size + head.size
            if group and (entries > self._max_entries or size > MAX_GROUP_BYTES):
                break
            self._queue.popleft()
            if not head.done.cancelled():
                group.append(head)
        return group

    async def _run_job(self, job: _Job) -> None:
        if self.failed:
            _refuse(job.done, StorageUnavailable())
        if job.done.done():
            return
        try:
            result = await job.work()
        except Exception as error:  # noqa: BLE001  whatever it is, its caller gets it and the writer lives on
            _refuse(job.done, await self._store.undo(error))
        else:
            _answer(job.done, result)

    async def _run_group(self, requests: list[Request]) -> None:
        """Store a group and answer its callers; between COMMIT and the last answer nobody else runs."""
        try:
            if self.failed:
                raise StorageUnavailable  # noqa: TRY301  it failed while these waited
            outcomes = await self._store.write(requests)
        except Exception as error:  # noqa: BLE001  whatever it is, its callers get it and the writer lives on
            await self._refuse_group(requests, error)
            return
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, list):
                _answer(request.done, outcome)
            else:
                _refuse(request.done, outcome)
        await self._store.settle()

    async def _refuse_group(self, requests: list[Request], error: Exception) -> None:
        failure = await self._store.undo(error)
        if failure is error and len(requests) > 1:  # one of them cannot be stored: the others can, alone
            for request in requests:
                await self._run_group([request])
        else:
            for request in requests:
                _refuse(request.done, failure)


def _answer(done: asyncio.Future[Any], result: object) -> None:
    if not done.done():
        done.set_result(result)


def _refuse(done: asyncio.Future[Any], error: Exception) -> None:
    """Each caller gets an exception of its own: one object raised in many tasks would collect their tracebacks."""
    if not done.done():
        done.set_exception(type(error)() if isinstance(error, StorageFull | StorageUnavailable) else error)
