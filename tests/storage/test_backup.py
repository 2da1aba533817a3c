"""Backup and restore of the embedded store: content, refusals, and interruptions."""

import asyncio
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from hub.archive.backup import back_up, restore
from hub.config import Settings
from hub.errors import EventIdConflict, StartError
from hub.model import Entry, Kind
from hub.storage.sqlite.data_directory import DataDirectory
from hub.storage.sqlite.log import SqliteLog

SUPPORT = Path(__file__).parents[1] / "support"
SECRET = "the secret of this hub, long enough to be one"


def settings(directory: Path, **values: str) -> Settings:
    """The settings of a hub in a directory."""
    return Settings.model_validate({"data_dir": directory} | values)


def event(id_: str, body: bytes = b"body", time: int = 1_000) -> Entry:
    """An event."""
    return Entry(Kind.EVENT, time, body, id=id_, event_type=10, guild_id=7)


def state(key: str, body: bytes, time: int = 1_000) -> Entry:
    """A state entry."""
    return Entry(Kind.STATE, time, body, key=key)


async def open_log(directory: Path, **values: str) -> SqliteLog:
    """The log in a directory."""
    return await SqliteLog.open(settings(directory, **values))


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    """A log with two events and a state, open."""
    log = await open_log(tmp_path / "data")
    await log.append([event("a"), state("integration/x", b"{}"), event("b")])
    yield log
    await log.close()


@pytest.fixture
async def backup(log: SqliteLog, tmp_path: Path) -> Path:
    """A backup of it, made while it is open."""
    assert not log.failed
    back_up(settings(tmp_path / "data"), tmp_path / "x.bak")
    return tmp_path / "x.bak"


def foreign(file: Path) -> None:
    """Make another program's database."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE t (a)")


# What is carried.


async def test_a_restore_has_the_whole_log(log: SqliteLog, tmp_path: Path) -> None:
    """Entries, marks, history, the secret: all as it was when the backup was made beside the open log."""
    await log.append([state("integration/x", b"[1]"), state("cursor/x/default", b"{}"), event("c", time=5_000)])
    await log.erase([1])
    await log.trim(3, 10)
    before = (await log.read(0, 100), await log.snapshot(), await log.history(100, 100), (await log.secrets())[0])
    first, last = (bounds := await log.bounds()).first, bounds.last
    made = back_up(settings(tmp_path / "data"), tmp_path / "x.bak")
    await log.append([event("too late")])
    restored = restore(settings(tmp_path / "new"), tmp_path / "x.bak")
    again = await open_log(tmp_path / "new")
    try:
        assert (await again.read(0, 100), await again.snapshot(), await again.history(100, 100)) == before[:3]
        assert (await again.secrets())[0] == before[3]
        assert ((await again.bounds()).first, (await again.bounds()).last) == (first, last)
    finally:
        await again.close()
    assert restored == made
    assert (made.entries, made.last_time) == (len(before[0].entries), 5_000)


async def test_each_restore_begins_an_epoch(backup: Path, log: SqliteLog, tmp_path: Path) -> None:
    """The restored log has another epoch than the one it is of, and than another restore of the same file."""
    epochs = {(await log.bounds()).epoch}
    for name in ("one", "two"):
        restore(settings(tmp_path / name), backup)
        again = await open_log(tmp_path / name)
        epochs.add((await again.bounds()).epoch)
        await again.close()
    assert len(epochs) == 3


async def test_known_ids_stay_known(backup: Path, tmp_path: Path) -> None:
    """An event from before the backup is a duplicate with its first position and time; other content is a conflict."""
    restore(settings(tmp_path / "new"), backup)
    again = await open_log(tmp_path / "new")
    try:
        [known] = await again.append([event("b", time=9_000)])
        assert (known.position, known.time, known.duplicate) == (3, 1_000, True)
        with pytest.raises(EventIdConflict):
            await again.append([event("a", b"other")])
    finally:
        await again.close()


async def test_positions_and_times_continue_after_a_restore(log: SqliteLog, tmp_path: Path) -> None:
    """Positions and times of newest entries that were trimmed away are not used again after a restore."""
    await log.append([event("c", time=7_000)])
    await log.trim(5, 10)
    assert (await log.read(2, 10)).entries == ()
    back_up(settings(tmp_path / "data"), tmp_path / "x.bak")
    restore(settings(tmp_path / "new"), tmp_path / "x.bak")
    again = await open_log(tmp_path / "new")
    try:
        [appended] = await again.append([event("d", time=2_000)])
        assert (appended.position, appended.time) == (5, 7_000)
        assert (await again.bounds()).first == 5
    finally:
        await again.close()


async def test_acknowledged_entries_are_in_the_backup(tmp_path: Path) -> None:
    """Of a store that another process appends to all the while each backup holds what was acknowledged before it."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        SUPPORT / "storage_child.py",
        "append",
        tmp_path / "data",
        "x",
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    acknowledged: list[str] = []
    counts = []
    try:
        for number in range(5):
            while len(acknowledged) < 400 * (number + 1):
                acknowledged += (await child.stdout.readline()).decode().split()
            file, directory = tmp_path / f"{number}.bak", tmp_path / f"{number}"
            await asyncio.to_thread(back_up, settings(tmp_path / "data"), file)
            await asyncio.to_thread(restore, settings(directory), file)
            log = await open_log(directory)
            last = (await log.bounds()).last
            entries = (await log.read(0, 1_000_000)).entries
            await log.close()
            assert set(acknowledged) <= {entry.id for entry in entries}
            assert [entry.position for entry in entries] == list(range(1, last + 1))
            counts.append(last)
    finally:
        child.kill()
        await child.communicate()
    assert counts == sorted(set(counts))


async def test_a_store_that_was_killed_can_be_backed_up(tmp_path: Path) -> None:
    """What lies in the write-ahead log alone is in the backup, also where no hub runs."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        SUPPORT / "storage_child.py",
        "append",
        tmp_path / "data",
        "x",
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    acknowledged = [id_ for _ in range(50) for id_ in (await child.stdout.readline()).decode().split()]
    child.kill()
    out, _ = await child.communicate()
    acknowledged += [id_ for line in out.decode().splitlines() for id_ in line.split()]
    back_up(settings(tmp_path / "data"), tmp_path / "x.bak")
    restore(settings(tmp_path / "new"), tmp_path / "x.bak")
    for directory in ("data", "new"):
        log = await open_log(tmp_path / directory)
        ids = {entry.id for entry in (await log.read(0, 1_000_000)).entries}
        await log.close()
        assert set(acknowledged) <= ids


# The file.


async def test_the_backup_is_readable_by_its_owner_only(backup: Path, tmp_path: Path) -> None:
    """The backup is one file with mode 0600, whatever the umask; so are the files that a restore makes, in a 0700."""
    assert backup.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "x.bak"]
    umask = os.umask(0)
    try:
        restore(settings(tmp_path / "new"), backup)
    finally:
        os.umask(umask)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert modes == dict.fromkeys(("hub.db", "hub.lock", "secret"), 0o600)


async def test_a_restore_moves_the_secret_into_its_file(backup: Path, log: SqliteLog, tmp_path: Path) -> None:
    """The backup holds the secret; the restored database does not, it lies in its file alone."""
    secret = (await log.secrets())[0]
    restore(settings(tmp_path / "new"), backup)
    assert secret in backup.read_bytes()
    assert secret not in (tmp_path / "new" / "hub.db").read_bytes()


async def test_nothing_is_overwritten(backup: Path, tmp_path: Path) -> None:
    """A backup into a file that exists is refused and leaves it as it was, a dangling link too."""
    before = backup.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for file in (backup, tmp_path / "link"):
        with pytest.raises(StartError, match="exists already"):
            back_up(settings(tmp_path / "data"), file)
    assert backup.read_bytes() == before
    assert not (tmp_path / "nowhere").exists()


async def test_a_file_created_during_the_backup_is_kept(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another program takes the name meanwhile, its file stays and the backup is removed."""
    del log
    link = os.link

    def late(source: Path, target: Path) -> None:
        target.write_text("theirs")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(StartError, match="exists already"):
        back_up(settings(tmp_path / "data"), tmp_path / "x.bak")
    assert {path.name: path.is_file() and path.read_text() for path in tmp_path.iterdir()} == {
        "data": False,
        "x.bak": "theirs",
    }


async def test_a_file_system_without_hard_links_works(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where files cannot have a second name, the backup is renamed, and is one."""
    del log

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    back_up(settings(tmp_path / "data"), tmp_path / "x.bak")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "x.bak"]
    restore(settings(tmp_path / "new"), tmp_path / "x.bak")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "there is no store in"),
        (b"", "there is no store in"),
        (b"not a database" * 99, "not a database"),
        ("another program's", "belongs to another program"),
    ],
)
def test_without_a_store_there_is_no_backup(content: bytes | str | None, complaint: str, tmp_path: Path) -> None:
    """The error says so, and nothing is created."""
    (tmp_path / "data").mkdir()
    if isinstance(content, str):
        foreign(tmp_path / "data" / "hub.db")
    elif content is not None:
        (tmp_path / "data" / "hub.db").write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StartError, match=complaint):
        back_up(settings(tmp_path / "data"), tmp_path / "x.bak")
    assert sorted(tmp_path.rglob("*")) == before


async def test_a_missing_target_directory_is_reported(log: SqliteLog, tmp_path: Path) -> None:
    """In one line."""
    del log
    with pytest.raises(StartError, match="No such file or directory"):
        back_up(settings(tmp_path / "data"), tmp_path / "nowhere" / "x.bak")


def test_a_backup_of_jetstream_is_refused_with_an_alternative(tmp_path: Path) -> None:
    """For JetStream both commands say plainly that they are not for it, and what is; its password they do not say."""
    other = settings(tmp_path / "data", storage="nats://hub:password@127.0.0.1:4222")
    for work, instead in ((back_up, "nats stream backup"), (restore, "nats stream restore")):
        with pytest.raises(StartError, match=f"SQLite store only: .* '{instead}'") as caught:
            work(other, tmp_path / "x.bak")
        assert "password" not in str(caught.value)


async def test_a_damaged_store_is_not_backed_up(log: SqliteLog, tmp_path: Path) -> None:
    """An index that lacks an entry is found before the backup says that it is done."""
    await log.close()
    with sqlite3.connect(tmp_path / "data" / "hub.db") as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, '<> ', '= ') WHERE name = 'state_by_key'")
    connection.close()
    with pytest.raises(StartError, match=r"damaged|malformed"):
        back_up(settings(tmp_path / "data"), tmp_path / "x.bak")
    assert not list(tmp_path.glob("x.bak*"))


# The secret.


async def test_a_secret_of_the_settings_is_not_in_the_backup(tmp_path: Path) -> None:
    """With HUB_SECRET the backup holds none and says so; a restore needs the same one, and makes no file of it."""
    log = await open_log(tmp_path / "data", secret=SECRET)
    await log.append([event("a")])
    secret = (await log.secrets())[0]
    await log.close()
    made = back_up(settings(tmp_path / "data", secret=SECRET), tmp_path / "x.bak")
    assert made.secret == b""
    assert secret not in (tmp_path / "x.bak").read_bytes()
    for values, complaint in (
        ({}, "set HUB_SECRET to its value at that time"),
        ({"secret": SECRET + "!"}, "does not match this backup"),
    ):
        with pytest.raises(StartError, match=complaint):
            restore(settings(tmp_path / "new", **values), tmp_path / "x.bak")
        assert not (tmp_path / "new").exists()
    restore(settings(tmp_path / "new", secret=SECRET), tmp_path / "x.bak")
    assert not (tmp_path / "new" / "secret").exists()
    log = await open_log(tmp_path / "new", secret=SECRET)
    assert (await log.bounds()).last == 1
    await log.close()


@pytest.mark.parametrize("text", [None, "00" * 32, "nonsense"])
async def test_a_backup_needs_the_secret_of_the_store(log: SqliteLog, tmp_path: Path, text: str | None) -> None:
    """A backup whose secret is nowhere would open with no key: it is refused, nothing is left."""
    del log
    file = tmp_path / "data" / "secret"
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(StartError, match="does not contain the secret of this store: set HUB_SECRET"):
        back_up(settings(tmp_path / "data", secret=SECRET), tmp_path / "x.bak")
    assert not list(tmp_path.glob("x.bak*"))


async def test_a_restore_warns_of_an_unneeded_secret(backup: Path, tmp_path: Path) -> None:
    """A hub with this HUB_SECRET would not start on the restored store."""
    with pytest.raises(StartError, match="unset it, the backup has its own"):
        restore(settings(tmp_path / "new", secret=SECRET), backup)
    assert not (tmp_path / "new").exists()


# What a restore refuses.


async def refused(file: Path, directory: Path, complaint: str) -> None:
    """A restore is refused, and leaves nothing but perhaps a lock."""
    with pytest.raises(StartError, match=complaint):
        restore(settings(directory), file)
    assert {path.name for path in directory.glob("*")} <= {"hub.lock"}


async def test_files_that_are_not_backups_are_refused(backup: Path, log: SqliteLog, tmp_path: Path) -> None:
    """A missing file, a directory, a text, another database, the store itself: none of them becomes a store."""
    await log.close()
    new = tmp_path / "new"
    (tmp_path / "text").write_text("no database " * 1_000)
    (tmp_path / "empty").touch()
    foreign(tmp_path / "other")
    for name in ("missing", "data"):
        await refused(tmp_path / name, new, "there is no file")
    await refused(tmp_path / "text", new, "file is not a database")
    for name in ("empty", "other", "data/hub.db"):
        await refused(tmp_path / name, new, "is not a backup, or is truncated")
    restore(settings(new), backup)


async def test_a_truncated_backup_is_refused(backup: Path, tmp_path: Path) -> None:
    """Wherever a copy of it ends before the whole does, it is refused."""
    size = backup.stat().st_size
    cut = tmp_path / "cut"
    for length in (*range(0, size, 4_096), 50, 100, 5_000, size - 1):
        shutil.copy(backup, cut)
        os.truncate(cut, length)
        await refused(cut, tmp_path / "new", "is not a backup|malformed|not a database|damaged")


async def test_a_flipped_bit_in_a_backup_is_detected(log: SqliteLog, tmp_path: Path) -> None:
    """One bit that fell over in an entry, an id or the secret is found, though SQLite does not mind it."""
    await log.append([event("needle-in-id", b"needle-in-body"), state("integration/y", b"needle-in-state")])
    back_up(settings(tmp_path / "data"), tmp_path / "x.bak")
    whole = (tmp_path / "x.bak").read_bytes()
    other = tmp_path / "other"
    places = [whole.index(b"needle-in-" + what) for what in (b"body", b"state", b"id")] + [
        whole.rindex(b"needle-in-id")
    ]
    places.append(whole.index((await log.secrets())[0]))
    assert len(set(places)) == 5
    for place in places:
        other.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        await refused(other, tmp_path / "new", "damaged|malformed")


async def test_a_backup_of_an_unknown_version_is_refused(backup: Path, tmp_path: Path) -> None:
    """A schema that this hub does not know is named, with what to do."""
    with sqlite3.connect(backup) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("UPDATE meta SET value = 99 WHERE name = 'min_writer'")
    connection.close()
    await refused(
        backup,
        tmp_path / "new",
        "has format 99 and needs a hub that knows format 99; this hub, version .*, knows format 3: run",
    )


async def test_a_restore_into_a_directory_with_files_is_refused(backup: Path, tmp_path: Path) -> None:
    """Whatever lies in the directory is named and stays as it was, be it one file; a free lock is nothing."""
    new = tmp_path / "new"
    new.mkdir()
    (new / "notes").write_text("mine")
    with pytest.raises(StartError, match=r"is not empty \(it has notes\)"):
        restore(settings(new), backup)
    assert [path.name for path in new.iterdir()] == ["notes"]
    (new / "notes").rename(new / "hub.lock")
    restore(settings(new), backup)


async def test_files_created_during_a_restore_are_kept(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that appear between the check and the lock are found, and stay."""
    hold = DataDirectory.open

    def late(path: Path) -> DataDirectory:
        path.mkdir()
        (path / "secret").write_text("theirs")
        return hold(path)

    monkeypatch.setattr(DataDirectory, "open", late)
    with pytest.raises(StartError, match=r"is not empty \(it has secret\)"):
        restore(settings(tmp_path / "new"), backup)
    assert (tmp_path / "new" / "secret").read_text() == "theirs"


async def test_a_restore_into_a_directory_in_use_is_refused(backup: Path, log: SqliteLog, tmp_path: Path) -> None:
    """The directory of a running hub is refused; so is one whose hub is just starting, by the name of its process."""
    last = (await log.bounds()).last
    with pytest.raises(StartError, match=r"is not empty \(it has hub.db\)"):
        restore(settings(tmp_path / "data"), backup)
    assert [entry.position for entry in (await log.read(0, 10)).entries] == list(range(1, last + 1))
    for name in ("hub.db", "hub.db-wal", "hub.db-shm", "secret"):
        (tmp_path / "data" / name).unlink()
    with pytest.raises(StartError, match=f"in use by another hub .pid {os.getpid()} "):
        restore(settings(tmp_path / "data"), backup)


async def test_a_backup_copied_into_place_is_refused(backup: Path, tmp_path: Path) -> None:
    """Without `hub restore` old cursors would silently skip events: no hub starts on the bare file."""
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(backup, new / "hub.db")
    shutil.copy(tmp_path / "data" / "secret", new)
    with pytest.raises(StartError, match="is a backup: 'hub restore' makes a store of it"):
        await open_log(new)


# Where it is cut off.


def run(*words: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python; of the HUB_ variables it sees none."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
    return subprocess.run(  # noqa: S603  our own programs
        [sys.executable, *words], cwd=cwd, env=inherited | variables, capture_output=True, text=True, check=False
    )


async def test_a_full_disk_leaves_neither_backup_nor_restore(log: SqliteLog, tmp_path: Path) -> None:
    """Where there is no room a backup is one line and nothing else; so is a restore, and its directory stays empty."""
    await log.append([event(f"{n}", bytes(1_000)) for n in range(1_000)])
    back_up(settings(tmp_path / "data"), tmp_path / "x.bak")
    limit = f"import resource; resource.setrlimit({resource.RLIMIT_FSIZE}, (500_000, 500_000))"
    for words in (("backup", "y.bak"), ("restore", "x.bak", "--data-dir", "new")):
        done = run("-c", f"{limit}; from hub.cli import main; main()", *words, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr[:5], done.stderr.count("\n")) == (2, "", "hub: ", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "new", "x.bak"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["hub.lock"]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (".part", ("backup", "y.bak")),
        ("outside", ("backup", "outside/y.bak")),
        ("new/hub.db", ("restore", "x.bak", "--data-dir", "new")),
        ("new/secret.new", ("restore", "x.bak", "--data-dir", "new")),
        ("new/hub.db-journal", ("restore", "x.bak", "--data-dir", "new")),
    ],
)
async def test_a_failed_sync_takes_everything_back(
    backup: Path, shim: Path, tmp_path: Path, file: str, words: tuple[str, ...]
) -> None:
    """A disk that fails at any of the files, or at the directory, is an error, and what was made is taken back."""
    del backup
    (tmp_path / "outside").mkdir()
    before = sorted(path for path in tmp_path.rglob("*") if "data" not in path.parts)
    flag = tmp_path.with_name("flag")
    flag.write_text(file)
    done = run("-m", "hub", *words, cwd=tmp_path, LD_PRELOAD=str(shim), FAIL_FLAG=str(flag))
    assert (done.returncode, done.stdout, done.stderr[:5], done.stderr.count("\n")) == (2, "", "hub: ", 1)
    left = {path.name for path in tmp_path.rglob("*") if "data" not in path.parts and path not in before}
    assert left <= {"new", "hub.lock"}


def cut_off(what: str, source: Path) -> list[str]:
    """What `killed_backup.py` tells."""
    done = run(SUPPORT / "killed_backup.py", what, source, cwd=source.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(600)
async def test_a_killed_backup_leaves_no_partial_file(log: SqliteLog, tmp_path: Path) -> None:
    """Killed before its lines, and at random moments: what a restore takes of what is left is whole."""
    await log.append([event(f"{n}", bytes(1_000)) for n in range(200)])
    told = cut_off("backup", tmp_path / "data")
    assert {line for line in told if not line.startswith("lines ")} == {
        ".bak whole, 203",
        ".part whole, 203",
        ".part refused",
    }
    assert [int(line.split()[1]) for line in told if line.startswith("lines ")] > [40]
    await log.append([event("it goes on")])


@pytest.mark.timeout(600)
async def test_a_killed_restore_leaves_no_partial_store(log: SqliteLog, tmp_path: Path) -> None:
    """Killed before its lines, and at random moments: a hub finds all, or nothing, or does not start."""
    await log.append([event(f"{n}", bytes(1_000)) for n in range(200)])
    epoch = (await log.bounds()).epoch
    back_up(settings(tmp_path / "data"), tmp_path / "x.bak")
    told = [line for line in cut_off("restore", tmp_path / "x.bak") if line.startswith("restored ")]
    assert {line.split(", epoch")[0] for line in told} == {
        "restored nothing",
        "restored refused",
        "restored whole, 203",
    }
    assert not [line for line in told if line.endswith(f"epoch {epoch}")]
