"""Stores of every released format: a newer hub opens and upgrades them without a change of meaning."""

import json
import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest

from hub.archive.backup import restore
from hub.errors import StartError
from hub.storage import levels
from hub.storage.levels import FORMAT, Levels
from hub.storage.sqlite import upgrade as upgrade_module
from hub.storage.sqlite.log import SqliteLog
from tests.support.migrations import meaning
from tests.support.stores import event, read_all, settings_for

DATA = Path(__file__).parents[1] / "data"
FORMATS = pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("format-*")))


def laid(name: str, directory: Path) -> Path:
    """A data directory with a store of that format."""
    directory.mkdir()
    for file in ("hub.db", "secret"):
        shutil.copyfile(DATA / name / file, directory / file)
        (directory / file).chmod(0o600)
    return directory


async def meaning_of(directory: Path) -> object:
    """What a store means, as plain JSON."""
    log = await SqliteLog.open(settings_for(directory))
    try:
        return json.loads(msgspec.json.encode(await meaning(log)))
    finally:
        await log.close()


def expected(name: str) -> object:
    """What a released store means."""
    return json.loads((DATA / name / "meaning.json").read_text())


@FORMATS
async def test_a_store_of_a_released_format_is_read_correctly(name: str, tmp_path: Path) -> None:
    """Opened, upgraded and opened again; new entries follow, and every entry fits its checksum."""
    directory = laid(name, tmp_path / "data")
    for _ in range(2):
        assert await meaning_of(directory) == expected(name)
    log = await SqliteLog.open(settings_for(directory))
    before = (await log.bounds()).last
    [appended] = await log.append([event("new")])
    assert appended.position == before + 1
    assert [entry.id for entry in await read_all(log, before)] == ["new"]
    assert log.damaged == 0
    await log.close()


async def test_the_store_is_backed_up_before_an_upgrade(tmp_path: Path) -> None:
    """The backup, for its owner alone, is restored by this hub to what the store meant; an older hub could, too."""
    directory = laid("format-1", tmp_path / "data")
    await meaning_of(directory)
    backup = directory / "hub-format-1.backup"
    assert backup.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(backup) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()
    restore(settings_for(tmp_path / "new"), backup)
    said = await meaning_of(tmp_path / "new")
    assert isinstance(said, list)
    assert said[0] == expected("format-1")[0]  # type: ignore[index]  # a list


@FORMATS
async def test_a_released_backup_is_restored(name: str, tmp_path: Path) -> None:
    """What every integration may see is the same; its cursors are of another epoch."""
    restore(settings_for(tmp_path / "new"), DATA / name / "backup")
    said = await meaning_of(tmp_path / "new")
    assert isinstance(said, list)
    assert said[0] == expected(name)[0]  # type: ignore[index]  # a list


async def test_a_failed_upgrade_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is begun again at the next start, and replaces its backup."""
    directory = laid("format-1", tmp_path / "data")

    def fail(connection: sqlite3.Connection) -> None:
        upgrade_module._add_checksums(connection)
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setitem(upgrade_module._STEPS, 1, fail)
        with pytest.raises(StartError, match="disk I/O error"):
            await SqliteLog.open(settings_for(directory))
    with sqlite3.connect(directory / "hub.db") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert len(connection.execute("PRAGMA table_info(entries)").fetchall()) == 8
    connection.close()
    assert await meaning_of(directory) == expected("format-1")


async def test_a_store_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    """The sentence names both formats; nothing is changed. A newer format that is safe for this hub is opened."""
    directory = laid("format-1", tmp_path / "data")
    await meaning_of(directory)
    connection = sqlite3.connect(directory / "hub.db", isolation_level=None)
    connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    assert await meaning_of(directory) == expected("format-1")
    connection.execute("UPDATE meta SET value = ? WHERE name = 'min_writer'", (FORMAT + 1,))
    connection.close()
    content = (directory / "hub.db").read_bytes()
    with pytest.raises(StartError, match=f"format {FORMAT + 1} and needs .* format {FORMAT + 1}; .* format {FORMAT}:"):
        await SqliteLog.open(settings_for(directory))
    assert (directory / "hub.db").read_bytes() == content


def test_a_store_may_be_readable_but_not_writable() -> None:
    """A store that older hubs may read but not write opens for reading alone."""
    newer = Levels(FORMAT + 1, min_reader=FORMAT, min_writer=FORMAT + 1)
    levels.require("store", newer, to_write=False)
    with pytest.raises(StartError, match="store has format"):
        levels.require("store", newer)
