"""The embedded store on a failing machine: full disks, I/O errors, kill -9, foreign readers of the file."""

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from hub.errors import StorageFull, StorageUnavailable
from hub.model import Entry, Kind
from hub.storage import followers as _tails
from hub.storage import group_commit as _writer
from hub.storage.sqlite import store as sqlite
from hub.storage.sqlite.log import SqliteLog
from tests.support.stores import event, read_all, settings_for, state

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    """A log on an empty store."""
    log = await SqliteLog.open(settings_for(tmp_path / "data"))
    try:
        yield log
    finally:
        await log.close()


# the disk


async def set_page_limit(log: SqliteLog, pages: int) -> None:
    """Let the database grow by so many pages, then be as full as a disk is."""
    ((now,),) = await log._store.write_connection.execute_fetchall("PRAGMA page_count")
    await log._store.write_connection.execute_fetchall(f"PRAGMA max_page_count = {now + pages if pages else 2**30}")


async def test_a_full_disk_refuses_the_whole_group_until_there_is_room(log: SqliteLog) -> None:
    """STORAGE_FULL to each caller, nothing stored, reads continue; with room the next append works."""
    await log.append([event("before")])
    await set_page_limit(log, 2)
    big = [log.append([event(f"{n}", bytes(20_000)), event(f"{n}+")]) for n in range(5)]
    outcomes = await asyncio.gather(*big, return_exceptions=True)
    assert {type(o) for o in outcomes} == {StorageFull}
    assert [e.id for e in await read_all(log)] == ["before"]
    assert not log.failed
    await set_page_limit(log, 0)
    assert [r.position for r in await log.append([event("0", bytes(20_000)), event("0+")])] == [2, 3]
    assert [e.id for e in await read_all(log)] == ["before", "0", "0+"]


async def test_a_disk_full_at_any_point_stores_nothing_of_the_request(log: SqliteLog) -> None:
    """Room for one page more each time: among the entries, among the ids, at the end, it is all or nothing."""
    refused = 0
    for pages in range(1, 25):
        await set_page_limit(log, pages)
        before = (await log.bounds()).last
        try:
            await log.append([event(f"{pages}-{n}".ljust(64, "."), bytes(300)) for n in range(100)])
        except StorageFull:
            refused += 1
            await set_page_limit(log, 0)
            assert len(await read_all(log)) == before
            assert not (await log.append([event(f"{pages}-0".ljust(64, "."), b"other")]))[0].duplicate
    assert 3 < refused < 24


async def test_a_full_disk_refuses_trim(log: SqliteLog) -> None:
    """With STORAGE_FULL, like an append."""
    await log.append([event(f"{n}", bytes(1_000)) for n in range(100)])
    await set_page_limit(log, 1)
    with pytest.raises(StorageFull):
        await log.append([event("x", bytes(50_000))])
    assert await log.trim(50, 100) == 50


def run_faults(shim: Path, directory: Path, file: str) -> list[str]:
    """What a process tells in which syncing `file` begins to fail between two appends."""
    flag = directory.with_name("flag")
    done = subprocess.run(  # noqa: S603  our own program
        [sys.executable, SUPPORT / "storage_child.py", "faults", directory, flag, file],
        env={**os.environ, "LD_PRELOAD": str(shim), "FAIL_FLAG": str(flag)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.splitlines()


async def test_after_a_failed_fsync_nothing_is_acknowledged(shim: Path, tmp_path: Path) -> None:
    """Neither this append nor a later one, although syncing works again; reads continue; a restart helps."""
    unavailable = "STORAGE_UNAVAILABLE failed=True"
    said = run_faults(shim, tmp_path / "data", "hub.db-wal")
    assert said == ["stored failed=False", unavailable, unavailable, unavailable, "read before"]
    log = await SqliteLog.open(settings_for(tmp_path / "data"))
    ids = [e.id for e in await read_all(log)]
    assert ids in (["before"], ["before", "while"])  # the one that was not acknowledged may be there
    await log.append([event("later")])
    await log.close()


async def test_a_failed_fsync_of_a_checkpoint_stops_the_log(shim: Path, tmp_path: Path) -> None:
    """What was acknowledged before it stays, what comes after is refused, though SQLite would hide the error."""
    unavailable = "STORAGE_UNAVAILABLE failed=True"
    said = run_faults(shim, tmp_path / "data", "hub.db")
    assert said[0] == "stored failed=False"
    assert said[1].startswith("stored")  # the checkpoint comes after the answer
    assert said[2:] == [unavailable, unavailable, "read before,while"]
    log = await SqliteLog.open(settings_for(tmp_path / "data"))
    assert [e.id for e in await read_all(log)] == ["before", "while"]
    await log.close()


# kill -9


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Each acknowledged id is there after each kill; both entries of a call are there or none; one position an id."""
    acknowledged: set[str] = set()
    for round_ in range(6):
        child = subprocess.Popen(  # noqa: ASYNC220, S603  our own program; the test waits for its lines anyway
            [sys.executable, SUPPORT / "storage_child.py", "append", tmp_path, f"{round_}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(30 + 97 * round_)]
        child.send_signal(signal.SIGKILL)
        lines += child.communicate()[0].splitlines(keepends=True)
        acknowledged |= {id_ for line in lines if line.endswith("\n") for id_ in line.split()}
        log = await SqliteLog.open(settings_for(tmp_path))
        ids = [e.id for e in await read_all(log)]
        await log.close()
        assert acknowledged <= set(ids)
        assert len(ids) == len(set(ids))
        assert {id_[:-2] for id_ in ids if id_.endswith("a")} == {id_[:-2] for id_ in ids if id_.endswith("b")}


# erasing


async def test_erased_bytes_are_in_no_file(tmp_path: Path, log: SqliteLog) -> None:
    """Neither in the database nor in the WAL, for short bodies and for those on pages of their own."""
    needle = b"the user wants this gone"
    await log.append([event("a", needle), event("b", needle * 2_000), event("c", b"kept")])
    await log.append([event(f"{n}", needle) for n in range(500)])
    assert any(needle in path.read_bytes() for path in (tmp_path / "data").iterdir())
    await log.erase([1, 2, *range(4, 504)])
    assert not any(needle in path.read_bytes() for path in (tmp_path / "data").iterdir())
    assert [e.body for e in await read_all(log, 2, kinds=frozenset([Kind.EVENT]))] == [b"kept"]


async def test_erase_is_not_done_while_a_reader_holds_the_old_bytes(tmp_path: Path, log: SqliteLog) -> None:
    """A reader from outside keeps the WAL from being cut: erase does not claim to be done; once it is gone, it is."""
    await log.append([event("a", b"needle")])
    await log._store.write_connection.execute_fetchall("PRAGMA busy_timeout = 1")
    outside = sqlite3.connect(tmp_path / "data" / "hub.db", isolation_level=None)
    try:
        outside.execute("BEGIN")
        outside.execute("SELECT * FROM entries").fetchall()
        with pytest.raises(StorageUnavailable):
            await log.erase([1])
        assert not log.failed
    finally:
        outside.close()
    await log.erase([1])
    assert not any(b"needle" in path.read_bytes() for path in (tmp_path / "data").iterdir())


# groups and tails


async def test_an_entry_that_cannot_be_stored_fails_alone(log: SqliteLog) -> None:
    """A number that SQLite cannot hold is its caller's fault: those beside it are stored."""
    outcomes = await asyncio.gather(
        log.append([event("a")]),
        log.append([event("bad", guild_id=2**70)]),
        log.append([event("b")]),
        return_exceptions=True,
    )
    assert [type(o) for o in outcomes] == [list, OverflowError, list]
    assert [e.id for e in await read_all(log)] == ["a", "b"]
    assert not log.failed


async def batches_of(log: SqliteLog, calls: list[list[Entry]]) -> list[Sequence[Entry]]:
    """What a tail gets, a batch for each group, when these calls are made side by side on an empty log."""
    tail = cast("AsyncGenerator[Sequence[Entry], None]", log.tail(0))
    first = asyncio.create_task(anext(tail))
    await log.append([event("first")])
    await first
    await asyncio.gather(*(log.append(call) for call in calls))
    batches: list[Sequence[Entry]] = []
    while not batches or batches[-1][-1].position < (await log.bounds()).last:
        batches.append(await anext(tail))
    await tail.aclose()
    return batches


async def test_a_group_is_bounded_by_entries(log: SqliteLog) -> None:
    """A backlog is stored in several groups."""
    calls = [[event(f"{n}-{m}") for m in range(100)] for n in range(60)]
    batches = await batches_of(log, calls)
    assert max(map(len, batches)) <= _writer.MAX_GROUP_ENTRIES
    assert [e.position for batch in batches for e in batch] == list(range(2, 6_002))


async def test_a_group_is_bounded_by_bytes(log: SqliteLog) -> None:
    """Large bodies make for smaller groups."""
    batches = await batches_of(log, [[event(f"{n}", bytes(1_000_000))] for n in range(6)])
    assert 1 < max(map(len, batches)) <= _writer.MAX_GROUP_BYTES // 1_000_000


async def test_an_unread_tail_uses_bounded_memory(log: SqliteLog) -> None:
    """What waits for a slow reader never exceeds the bound by more than one batch."""
    tail = cast("AsyncGenerator[Sequence[Entry], None]", log.tail(0))
    waiting = asyncio.create_task(anext(tail))
    await log.append([event("first")])
    await waiting
    (follower,) = log._followers._followers
    largest = 0
    for n in range(30):
        await log.append([event(f"{n}", bytes(1_000_000))])
        largest = max(largest, follower.size)
    assert 0 < largest <= _tails.MAX_WAITING_BYTES
    assert follower.behind
    await tail.aclose()
    assert not log._followers._followers


async def test_ids_past_their_window_are_removed(tmp_path: Path) -> None:
    """Ids past their window are removed, step by step, while new ones come."""
    log = await SqliteLog.open(settings_for(tmp_path, dedupe_window=1))
    for second in range(100):
        await log.append([event(f"{second}-{n}", time=second * 500_000) for n in range(100)])
    ((kept,),) = await log._store.write_connection.execute_fetchall(
        "SELECT (SELECT count(*) FROM seen_0) + (SELECT count(*) FROM seen_1)"
    )
    await log.close()
    assert kept <= 1_200


async def test_the_wal_is_checkpointed(log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not grow with what was ever written."""
    monkeypatch.setattr(sqlite, "WAL_PAGES", 100)
    for n in range(100):
        await log.append([event(f"{n}-{m}", bytes(1_000)) for m in range(100)])
    assert (tmp_path / "data" / "hub.db-wal").stat().st_size < 4_000_000
    assert (tmp_path / "data" / "hub.db").stat().st_size > 9_000_000


async def test_removals_are_checkpointed(log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that was off for long removes everything while nothing new arrives."""
    for n in range(100):
        await log.append([event(f"{n}-{m}", bytes(1_000)) for m in range(100)])
    await log.erase([], flush=True)  # empties the WAL
    monkeypatch.setattr(sqlite, "WAL_PAGES", 100)
    for n in range(50):
        await log.trim(10_001, 100)
        await log.erase(range(9_901 - 100 * n, 10_001 - 100 * n), flush=False)
    assert (tmp_path / "data" / "hub.db-wal").stat().st_size < 4_000_000


async def test_on_a_full_disk_the_room_of_the_wal_is_reused(log: SqliteLog, tmp_path: Path) -> None:
    """The WAL cannot grow, but its content fits into the database: after a checkpoint its room is used again."""
    await log.append([event(f"{n}", bytes(1_000)) for n in range(100)])
    for n in range(100):
        await log.append([state("cursor/a/b", b"%d" % n)])
    size = (tmp_path / "data" / "hub.db-wal").stat().st_size
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        with pytest.raises(StorageFull):
            await log.append([event("refused", bytes(100_000))])
        assert await log.trim(101, 50) == 51
        await log.append([event("stored")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert [entry.id for entry in await read_all(log, 200)] == ["stored"]


async def test_the_reader_sees_the_newest_acknowledged_state(log: SqliteLog) -> None:
    """The reader connection sees what the writer has acknowledged, at once."""
    for n in range(50):
        (result,) = await log.append([state("k", b"%d" % n)])
        page = await log.read(result.position - 1, 1)
        assert page.entries == (Entry(Kind.STATE, 1_000, b"%d" % n, key="k", position=result.position),)
