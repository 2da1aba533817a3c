"""Group commit: one task stores the appends of many callers in as few transactions as possible.

Each caller waits for its own future, so that cancelling a caller does not touch the transaction.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from hub import metrics
from hub.errors import Conflict, EventIdConflict, StorageFull, StorageUnavailable
from hub.model import Appended, Entry, Expect
from hub.storage import MAX_APPEND

MAX_GROUP_ENTRIES = 2_000
MAX_GROUP_BYTES = 4 * 1024 * 1024

log = structlog.get_logger(__name__)

T = TypeVar("T")
Outcome = list[Appended] | Conflict | EventIdConflict | StorageFull | StorageUnavailable


@dataclass(slots=True, eq=False)
class Request:
    """Entries to append together, and the future that their caller awaits.

    Attributes:
        size: bytes of the bodies.
        independent: whether an id that conflicts refuses only its own entry.
    """

    entries: tuple[Entry, ...]
    expect: Expect | None
    size: int
    done: asyncio.Future[list[Appended]]
    independent: bool = False


@dataclass(slots=True, eq=False)
class _Job:
    """A transaction that is not an append."""

    work: Callable[[], Awaitable[Any]]
    done: asyncio.Future[Any]


class Store(Protocol):
    """The part of a backend that stores groups. Only the committer calls it, one method at a time."""

    @property
    def failed(self) -> bool:
        """Whether the store has failed: from then on every request is refused."""
        ...

    async def commit(self, requests: list[Request]) -> list[Outcome]:
        """Store a group durably in one transaction. A request that conflicts fails alone."""
        ...

    async def rollback(self) -> None:
        """Undo what a failed transaction left behind."""
        ...

    async def as_hub_error(self, error: Exception) -> Exception:
        """The error that callers get for an error of the store; `error` itself if the request caused it."""
        ...

    async def after_commit(self) -> None:
        """Do the work that can wait until the callers of a transaction have their answers."""
        ...


class GroupCommitter:
    """The task that commits, and its queue. Admission bounds the queue, see `Feed`."""

    def __init__(self, store: Store, max_entries: int = MAX_GROUP_ENTRIES) -> None:
        """Start the task; groups have at most `max_entries` entries."""
        self._store = store
        self._max_entries = max_entries
        self._queue: OrderedDict[Request | _Job, None] = OrderedDict()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="group commit")

    async def append(
        self, entries: Sequence[Entry], expect: Expect | None, *, independent: bool = False
    ) -> list[Appended]:
        """Store entries, in one transaction with whatever else waits."""
        if len(entries) > MAX_APPEND:
            raise ValueError(f"{len(entries)} entries in one append: at most {MAX_APPEND} are allowed")
        request = new_request(entries, expect, independent=independent)
        return await self._done(request, request.done)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run another transaction in its turn; returns its result."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        return await self._done(_Job(work, done), done)

    async def close(self) -> None:
        """Refuse new work, and wait for the work that was submitted."""
        self._closing = True
        self._wake.set()
        await self._task

    async def _done(self, work: Request | _Job, done: asyncio.Future[T]) -> T:
        """Submit work, and wait for it; a cancelled caller takes back what has not begun."""
        if self._store.failed or self._closing:
            raise StorageUnavailable
        self._queue[work] = None
        self._wake.set()
        try:
            return await done
        finally:
            self._queue.pop(work, None)  # while the store is slow, callers that give up come again and again

    async def _run(self) -> None:
        try:
            while self._queue or not self._closing:
                await self._run_next()
        finally:  # however the task ends, no caller waits forever
            self._closing = True
            for work in self._queue:
                _refuse(work.done, StorageUnavailable())

    async def _run_next(self) -> None:
        if not self._queue:
            self._wake.clear()
            await self._wake.wait()
        elif isinstance(head := self._head, _Job):
            del self._queue[head]
            await self._run_job(head)
        else:
            group = self._take_group()
            if group:  # the callers of the others were cancelled
                await self._commit(group)

    @property
    def _head(self) -> Request | _Job:
        return next(iter(self._queue))

    def _take_group(self) -> list[Request]:
        """The requests at the head of the queue that fit into one transaction, without those of cancelled callers."""
        group: list[Request] = []
        entries = size = 0
        while self._queue and isinstance(head := self._head, Request):
            entries, size = entries + len(head.entries), size + head.size
            if group and (entries > self._max_entries or size > MAX_GROUP_BYTES):
                break
            del self._queue[head]
            if not head.done.cancelled():
                group.append(head)
        return group

    async def _run_job(self, job: _Job) -> None:
        if self._store.failed:
            _refuse(job.done, StorageUnavailable())
        if job.done.done():
            return
        try:
            result = await job.work()
        except Exception as error:  # noqa: BLE001  whatever it is, the caller gets it and the task goes on
            _refuse(job.done, await self._rolled_back(error))
        else:
            _answer(job.done, result)
            await self._after_commit()

    async def _commit(self, requests: list[Request]) -> None:
        """Store a group and answer its callers; no other task runs between the commit and the last answer."""
        if self._store.failed:  # since these requests were submitted
            for request in requests:
                _refuse(request.done, StorageUnavailable())
            return
        try:
            began = metrics.now()
            outcomes = await self._store.commit(requests)
        except Exception as error:  # noqa: BLE001  whatever it is, the callers get it and the task goes on
            metrics.COMMIT_FAILURES.add()
            await self._refuse_group(requests, error)
            return
        metrics.COMMITS.add(metrics.now() - began)
        metrics.GROUPS.add(sum(len(request.entries) for request in requests))
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, list):
                _answer(request.done, outcome)
            else:
                _refuse(request.done, outcome)
        await self._after_commit()

    async def _after_commit(self) -> None:
        try:
            await self._store.after_commit()
        except Exception:
            log.exception("the work after a commit failed")

    async def _refuse_group(self, requests: list[Request], error: Exception) -> None:
        failure = await self._rolled_back(error)
        if failure is error and len(requests) > 1:  # one request is at fault: the others can be stored alone
            for request in requests:
                await self._commit([request])
        else:
            for request in requests:
                _refuse(request.done, failure)

    async def _rolled_back(self, error: Exception) -> Exception:
        """Roll back after an error; returns the error for the callers."""
        try:
            await self._store.rollback()
        except Exception as second:  # noqa: BLE001  it says more about the store than the first one
            error = second
        try:
            return await self._store.as_hub_error(error)
        except Exception:  # whatever it is, the callers get an answer and the task goes on
            log.exception("an error of the store could not be classified")
            return StorageUnavailable()


def new_request(entries: Sequence[Entry], expect: Expect | None, *, independent: bool = False) -> Request:
    """A request of the running task."""
    done: asyncio.Future[list[Appended]] = asyncio.get_running_loop().create_future()
    return Request(tuple(entries), expect, sum(len(entry.body) for entry in entries), done, independent)


def _answer(done: asyncio.Future[Any], result: object) -> None:
    if not done.done():
        done.set_result(result)


def _refuse(done: asyncio.Future[Any], error: Exception) -> None:
    """Give each caller its own exception: one object raised in many tasks would collect their tracebacks."""
    if not done.done():
        done.set_exception(type(error)() if isinstance(error, StorageFull | StorageUnavailable) else error)
