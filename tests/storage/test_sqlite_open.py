"""Opening the embedded store: what it creates, and what it refuses, in one line that says what to do."""

import asyncio
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiosqlite
import pytest

from hub.errors import StartError
from hub.model import Entry, Kind
from hub.storage import open_storage
from hub.storage.levels import FORMAT
from hub.storage.sqlite.connection import configure_writer
from hub.storage.sqlite.log import SqliteLog
from hub.storage.sqlite.opening import require_sqlite
from hub.storage.sqlite.schema import APPLICATION_ID
from tests.support.stores import settings_for

CHILD = Path(__file__).parents[1] / "support" / "storage_child.py"


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


async def refusal(directory: Path, secret: str | None = None) -> str:
    """Why the store in a directory is not opened: one line."""
    try:
        log = await SqliteLog.open(settings_for(directory, secret=secret))
    except StartError as refused:
        text = str(refused)
        assert "\n" not in text
        return text
    await log.close()  # its threads would keep the tests from ending
    pytest.fail("it was opened")


@pytest.fixture
async def made(tmp_path: Path) -> Path:
    """A directory with a store in it, closed."""
    directory = tmp_path / "data"
    log = await SqliteLog.open(settings_for(directory))
    await log.append([Entry(Kind.EVENT, 1, b"kept", id="kept")])
    await log.close()
    return directory


async def test_new_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    """The directory is 0700, every file in it 0600, whatever the umask."""
    before = os.umask(0)
    try:
        log = await SqliteLog.open(settings_for(tmp_path / "a" / "data"))
        await log.append([Entry(Kind.EVENT, 1, b"x")])
        files = {path.name: mode(path) for path in (tmp_path / "a" / "data").iterdir()}
        await log.close()
    finally:
        os.umask(before)
    assert mode(tmp_path / "a" / "data") == 0o700
    assert files == dict.fromkeys(["hub.db", "hub.db-wal", "hub.db-shm", "hub.lock", "secret"], 0o600)


async def test_open_storage_opens_sqlite(tmp_path: Path) -> None:
    """The default storage is this one; another name is refused."""
    log = await open_storage(settings_for(tmp_path))
    await log.close()
    assert isinstance(log, SqliteLog)
    with pytest.raises(StartError):
        await open_storage(settings_for(tmp_path, storage="punched-cards"))


async def test_the_writer_uses_wal_and_full_sync(tmp_path: Path) -> None:
    """The connection that writes has WAL, synchronous=FULL and secure_delete; the other cannot write."""
    log = await SqliteLog.open(settings_for(tmp_path))
    try:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("secure_delete", 1)):
            assert await log._store.write_connection.rows(f"PRAGMA {pragma}") == [(value,)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await log._reads._connection.execute("DELETE FROM entries")
    finally:
        await log.close()


async def test_a_database_that_cannot_use_wal_is_refused() -> None:
    """A database that stays in another journal mode than WAL would lose what was acknowledged."""
    async with aiosqlite.connect(":memory:") as connection:
        with pytest.raises(StartError, match="journal_mode=WAL"):
            await configure_writer(connection)


async def test_a_second_hub_is_refused_with_the_holder(tmp_path: Path) -> None:
    """Another process holds the directory: its pid and host are named; once it ends the directory is free."""
    child = subprocess.Popen(  # noqa: ASYNC220, S603  our own program; the test waits for its line anyway
        [sys.executable, CHILD, "hold", tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        text = await refusal(tmp_path)
        assert f"pid {child.pid} on {socket.gethostname()}" in text
        child.communicate("end\n")
        log = await SqliteLog.open(settings_for(tmp_path))
        await log.close()
    finally:
        child.kill()
        child.communicate()


async def test_the_same_process_cannot_open_it_twice(made: Path) -> None:
    """The lock also holds within a process, and close() releases it."""
    log = await SqliteLog.open(settings_for(made))
    assert f"pid {os.getpid()} on" in await refusal(made)
    await log.close()
    await (await SqliteLog.open(settings_for(made))).close()


async def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """The data directory is a file, or lies below one."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        assert str(tmp_path / "file") in await refusal(path)


@pytest.fixture
def no_rights() -> Iterator[None]:
    """Without the rights of root while the test runs: root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def unwritable() -> Iterator[Path]:
    """A directory that may be looked into and not written to, as pytest's own may not be."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "data").mkdir()
        directory.chmod(0o755)
        (directory / "data").chmod(0o555)
        yield directory / "data"
        (directory / "data").chmod(0o755)


@pytest.mark.usefixtures("no_rights")
async def test_a_directory_without_write_permission_is_refused(unwritable: Path) -> None:
    """The directory cannot be written to, or cannot be made."""
    assert "Permission denied" in await refusal(unwritable)
    assert "Permission denied" in await refusal(unwritable / "deeper")


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Nothing is made of it, and nothing is written to it."""
    (tmp_path / "hub.db").write_bytes(b"these are my memoirs" * 100)
    (tmp_path / "secret").write_text("0" * 64)
    (tmp_path / "secret").chmod(0o600)
    assert "not a database" in await refusal(tmp_path)
    assert (tmp_path / "hub.db").read_bytes() == b"these are my memoirs" * 100


async def test_a_damaged_database_is_refused(made: Path) -> None:
    """Garbage behind the header."""
    content = bytearray((made / "hub.db").read_bytes())
    content[100:] = os.urandom(len(content) - 100)
    (made / "hub.db").write_bytes(content)
    assert "database" in await refusal(made)


async def test_a_database_without_its_metadata_is_refused(made: Path) -> None:
    """What the store keeps about itself is missing or of a wrong kind."""
    for statement in ("UPDATE meta SET value = 'x' WHERE name = 'first'", "DELETE FROM meta"):
        change(made, statement)
        assert "damaged" in await refusal(made)


def change(directory: Path, *statements: str) -> None:
    """Do something to the database behind the hub's back."""
    connection = sqlite3.connect(directory / "hub.db", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


async def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    """By its application id, or because it has tables and none."""
    (tmp_path / "secret").write_text("0" * 64)
    (tmp_path / "secret").chmod(0o600)
    change(tmp_path, "CREATE TABLE bookmarks (url)")
    assert "another program" in await refusal(tmp_path)
    change(tmp_path, "PRAGMA application_id = 77")
    assert "another program" in await refusal(tmp_path)
    connection = sqlite3.connect(tmp_path / "hub.db")
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("bookmarks",)]
    assert connection.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
    connection.close()


async def test_another_schema_version_is_refused(made: Path) -> None:
    """A store of a newer hub is not touched; the versions are named."""
    change(made, "PRAGMA user_version = 99", "UPDATE meta SET value = 99 WHERE name = 'min_writer'")
    text = await refusal(made)
    assert "format 99" in text
    assert f"format {FORMAT}:" in text


async def test_an_interrupted_first_start_is_repeated(tmp_path: Path) -> None:
    """An empty database file beside a secret is a store that was never made: it is made now, with that secret."""
    (tmp_path / "hub.db").touch()
    (tmp_path / "secret").write_text("ab" * 32 + "\n")
    (tmp_path / "secret").chmod(0o600)
    log = await SqliteLog.open(settings_for(tmp_path))
    assert (await log.secrets())[0] == bytes.fromhex("ab" * 32)
    await log.close()


async def test_a_secret_that_does_not_fit_is_refused(made: Path) -> None:
    """Another, a missing or an invalid secret, in the settings or the file: the keys of the store would be lost."""
    assert "does not match" in await refusal(made, "y" * 32)
    original = (made / "secret").read_text()
    (made / "secret").write_text("0" * 64)
    assert "does not match" in await refusal(made)
    (made / "secret").write_text("short")
    assert "64 hexadecimal digits" in await refusal(made)
    (made / "secret").unlink()
    assert "is missing" in await refusal(made)
    assert not (made / "secret").exists()
    (made / "secret").write_text(original)
    (made / "secret").chmod(0o600)
    await (await SqliteLog.open(settings_for(made))).close()


async def test_a_refused_open_releases_lock_and_files(made: Path) -> None:
    """Once the cause is repaired the store can be opened."""
    change(made, "PRAGMA application_id = 99")
    await refusal(made)
    change(made, f"PRAGMA application_id = {APPLICATION_ID}")
    log = await SqliteLog.open(settings_for(made))
    assert [e.id for e in (await log.read(0, 10)).entries] == ["kept"]
    await log.close()


async def test_a_cancelled_open_releases_the_directory(made: Path) -> None:
    """Wherever opening is cancelled, until it is through: the directory can be opened afterwards."""
    half_open = []
    steps = 0
    while True:
        task = asyncio.create_task(SqliteLog.open(settings_for(made)))
        for _ in range(steps):
            await asyncio.sleep(0)
        half_open.append(steps > 0 and not task.done())
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, SqliteLog):
            await outcome.close()
            break
        assert isinstance(outcome, asyncio.CancelledError)
        steps = steps + 1 if steps < 12 else steps * 2
    assert any(half_open)
    log = await SqliteLog.open(settings_for(made))
    await log.close()


@pytest.mark.parametrize("version", [(3, 34, 1), (3, 7, 0)])
def test_an_sqlite_that_is_too_old_is_refused(version: tuple[int, int, int]) -> None:
    """The line names both versions. Versions with the WAL fault, up to 3.51.2, are not refused: see ADR 0013."""
    with pytest.raises(StartError, match=rf"SQLite {'[.]'.join(map(str, version))}, the hub needs 3[.]35[.]0 or newer"):
        require_sqlite(version)
    require_sqlite((3, 51, 2))
    require_sqlite(sqlite3.sqlite_version_info)
