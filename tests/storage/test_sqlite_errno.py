"""The meaning of each errno of a write: refused for now, or nothing more until a restart. See `faults.MEANINGS`."""

import errno
import resource
import sqlite3
from pathlib import Path

import pytest

from hub.storage.sqlite.faults import MEANINGS, Meaning, meaning_of, probe
from hub.storage.sqlite.log import SqliteLog
from tests.storage.test_sqlite_faults import run_faults
from tests.support.stores import event, read_all, settings_for

SAID = {
    Meaning.FULL: "STORAGE_FULL failed=False",
    Meaning.BUSY: "STORAGE_UNAVAILABLE failed=False",
    Meaning.FAILED: "STORAGE_UNAVAILABLE failed=True",
}


@pytest.mark.parametrize("number", sorted(MEANINGS), ids=lambda number: errno.errorcode[number])
async def test_each_failed_write_has_its_meaning(number: int, shim: Path, tmp_path: Path) -> None:
    """Nothing is acknowledged, reads continue; after a full or busy disk the next append works."""
    data = tmp_path / "data"
    said = run_faults(shim, data, f"write {number} /data/hub")
    meant = SAID[MEANINGS[number]]
    after = meant if MEANINGS[number] is Meaning.FAILED else "stored failed=False"
    known = "read before" if MEANINGS[number] is Meaning.FAILED else "read before,after"
    assert said == ["stored failed=False", meant, meant, after, known]
    assert not (data / "hub.probe").exists()
    log = await SqliteLog.open(settings_for(data))
    await log.append([event("later")])
    assert "later" in [entry.id for entry in await read_all(log)]
    await log.close()


def test_a_file_at_its_size_limit_is_detected(tmp_path: Path) -> None:
    """The probe writes where the store's own file ends: a limit on the size of files shows there alone."""
    database = tmp_path / "hub.db"
    database.write_bytes(bytes(1 << 20))
    assert probe(database) == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        assert probe(database) == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["hub.db"]


def test_a_shortage_of_memory_is_temporary(tmp_path: Path) -> None:
    """SQLite's own words for it are no errno: they count as ENOMEM does."""
    error = sqlite3.OperationalError("out of memory")
    for code in (sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR_NOMEM):
        error.sqlite_errorcode = code
        assert meaning_of(error, tmp_path / "hub.db")[0] is Meaning.BUSY
