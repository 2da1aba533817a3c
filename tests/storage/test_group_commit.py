"""The committer: whatever its store does, each caller gets an answer and the next one is served."""

import asyncio
import threading
from pathlib import Path

import pytest

from hub.errors import StorageUnavailable
from hub.model import Appended
from hub.storage.group_commit import GroupCommitter, Outcome, Request
from tests.support.stores import SqliteStore, event, read_all


class Faulty:
    """A store that fails in a given way at its first commit."""

    def __init__(self, *steps: str) -> None:
        self.failed = False
        self._steps = set(steps)

    async def commit(self, requests: list[Request]) -> list[Outcome]:
        """Store nothing, and say that all is stored."""
        self._fail("commit")
        return [[Appended(1, 1)] for _ in requests]

    async def rollback(self) -> None:
        """There is nothing to undo."""

    async def as_hub_error(self, error: Exception) -> Exception:
        """Judge an error, which may fail."""
        self._fail("as_hub_error")
        return StorageUnavailable() if isinstance(error, OSError) else error

    async def after_commit(self) -> None:
        """Fail, if told to."""
        self._fail("after_commit")

    def _fail(self, step: str) -> None:
        if step in self._steps:
            self._steps.remove(step)
            raise OSError(step) if step == "commit" else RuntimeError("can't start new thread")


@pytest.mark.parametrize("steps", [("commit",), ("commit", "as_hub_error"), ("after_commit",)], ids="+".join)
async def test_no_error_ends_the_committer(steps: tuple[str, ...]) -> None:
    """A caller learns that its entries may not be stored, and those that come after it are served."""
    committer = GroupCommitter(Faulty(*steps))
    async with asyncio.timeout(5):
        if "commit" in steps:
            with pytest.raises(StorageUnavailable):
                await committer.append([event("a")], None)
        assert await committer.append([event("b")], None)
        assert await committer.append([event("c")], None)
        await committer.close()


async def test_appends_of_cancelled_callers_leave_the_queue(tmp_path: Path) -> None:
    """While the disk does not answer, callers with a deadline retry again and again: their entries are dropped."""
    store, disk = SqliteStore(tmp_path), threading.Event()
    log = await store.open()
    stuck = asyncio.create_task(log._store.write_connection.run(lambda _: disk.wait()))
    first = asyncio.create_task(log.append([event("first")]))
    await asyncio.sleep(0)
    for _ in range(5):
        late = [asyncio.create_task(log.append([event(f"late{number}")])) for number in range(10)]
        late.append(asyncio.create_task(log.erase([1])))  # type: ignore[arg-type]  # it returns nothing
        await asyncio.sleep(0)
        for one in late:
            one.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    last = asyncio.create_task(log.append([event("last")]))
    await asyncio.sleep(0)
    waiting = len(log._committer._queue)
    disk.set()
    assert waiting == 1
    await asyncio.gather(stuck, first, last)
    assert [entry.id for entry in await read_all(log)] == ["first", "last"]
    await store.close()
