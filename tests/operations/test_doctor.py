"""`hub doctor` finds what is wrong with a machine, settings and a store, and says what to do."""

import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hub.cli.machine_checks import clock, file_system
from tests.support.certificates import certify
from tests.support.nats_servers import shared
from tests.support.processes import COMMAND, Ended, run, run_hub, serving
from tests.support.small_disk import on_small_disk

FREE = {"HUB_LISTEN": "127.0.0.1:0", "HUB_HTTP_LISTEN": "127.0.0.1:0"}


class Report:
    """What came out: the findings by their checks, and the exit status."""

    def __init__(self, ended: Ended) -> None:
        assert ended.err == ""
        self.code = ended.code
        self.found = {line[9:23].strip(): (line[:8].strip(), line[24:]) for line in ended.out.splitlines()}

    def level(self, check: str) -> str:
        """One of "ok", "warning" and "problem"."""
        return self.found[check][0]

    def text(self, check: str) -> str:
        """What it says, and what to do."""
        return self.found[check][1]


async def doctor(directory: Path, **variables: str) -> Report:
    """The report on the hub of a directory."""
    return Report(await run_hub("doctor", cwd=directory, **(FREE | variables)))


async def made(directory: Path) -> Path:
    """The database of a new store."""
    assert (await run_hub("init", cwd=directory)).code == 0
    return directory / "data" / "hub.db"


def change(database: Path, *statements: str) -> None:
    """Change a database behind the hub's back."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def test_doctor_finds_no_problem_in_a_healthy_hub(tmp_path: Path) -> None:
    """While it runs and before, everything is ok or a piece of advice, and nothing is left in its directory."""
    await made(tmp_path)
    assert (await run_hub("backup", "one.bak", cwd=tmp_path)).code == 0
    before = names(tmp_path)
    stopped = await doctor(tmp_path)
    assert stopped.code == 0
    assert {level for check, (level, _) in stopped.found.items() if check != "clock"} == {"ok"}
    assert set(stopped.found) >= {"data directory", "disk", "backup", "clock", "listen", "http_listen", "certificate"}
    assert set(stopped.found) >= {"sqlite", "pragmas", "store", "format", "secret", "integrity", "newest entry"}
    assert names(tmp_path) == before
    async with serving(cwd=tmp_path, HUB_HTTP_LISTEN="127.0.0.1:0") as hub:
        addresses = [f"127.0.0.1:{port}" for port in (hub.port, hub.log[-1]["http_port"])]
        running = await doctor(tmp_path, HUB_LISTEN=addresses[0], HUB_HTTP_LISTEN=addresses[1])
        assert running.code == 0
        assert running.text("listen") == f"{addresses[0]}, where the running hub ({holder(tmp_path)}) answers"
        assert running.text("http_listen") == f"{addresses[1]} says: ok"
        elsewhere = await doctor(tmp_path, HUB_LISTEN="127.0.0.1:1")
        assert (elsewhere.code, elsewhere.level("listen")) == (1, "problem")
        assert (await hub.stop()).code == 0


def names(directory: Path) -> set[str]:
    """What lies in the data directory, beside what SQLite makes and removes."""
    return {file.name for file in (directory / "data").iterdir()} - {"hub.db-wal", "hub.db-shm"}


def holder(directory: Path) -> str:
    """What the hub of a directory wrote into its lock."""
    return (directory / "data" / "hub.lock").read_text().strip()


async def test_doctor_without_a_store_creates_nothing(tmp_path: Path) -> None:
    """It says how to make a store, and makes neither that nor the directory."""
    found = await doctor(tmp_path)
    assert found.code == 0
    assert [found.level(check) for check in ("data directory", "store")] == ["warning", "warning"]
    assert "'hub init'" in found.text("store")
    assert not (tmp_path / "data").exists()


def foreign(database: Path) -> None:
    """A database of another program."""
    database.unlink(missing_ok=True)
    change(database, "PRAGMA application_id = 252006674", "CREATE TABLE artists (name TEXT)")


def garbage(database: Path) -> None:
    """A file that is no database."""
    database.write_bytes(b"garbage" * 1_000)


def newer(database: Path) -> None:
    """A store of a newer hub."""
    change(database, "PRAGMA user_version = 99", "UPDATE meta SET value = 99 WHERE name LIKE 'min_%'")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (foreign, "belongs to another program: set HUB_DATA_DIR to a directory of the hub's own"),
        (garbage, "file is not a database; nothing is served until it is restored"),
        (newer, "has format 99 and needs a hub that knows format 99"),
    ],
)
async def test_doctor_reports_a_foreign_or_newer_store(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    """Of another product, of none, of a newer hub: doctor says so, and does not look into it."""
    spoil(await made(tmp_path))
    found = await doctor(tmp_path)
    assert (found.code, found.level("store")) == (1, "problem")
    assert words in found.text("store")
    assert "integrity" not in found.found


async def test_doctor_reports_damaged_state_and_a_wrong_secret(tmp_path: Path) -> None:
    """Both would refuse a start; the damage is named by its position."""
    database = await made(tmp_path)
    change(database, "UPDATE entries SET body = x'7b7d' WHERE position = 1")
    (tmp_path / "data" / "secret").write_text("0" * 64)
    found = await doctor(tmp_path)
    assert (found.code, found.level("secret"), found.level("integrity")) == (1, "problem", "problem")
    assert "the state at position 1 does not match its checksum" in found.text("integrity")
    assert "restore the secret file" in found.text("secret")


async def test_a_store_of_an_older_format_is_upgraded_by_the_next_start(tmp_path: Path) -> None:
    """That is advice, as the copy beside it needs room."""
    database = await made(tmp_path)
    change(
        database, "PRAGMA user_version = 1", "DELETE FROM meta WHERE name IN ('min_reader', 'min_writer', 'checksum')"
    )
    found = await doctor(tmp_path)
    assert found.found["format"][0] == "warning"
    assert found.text("format").startswith("1: the next start upgrades it to 3")


async def test_doctor_reports_a_clock_behind_the_newest_entry(tmp_path: Path) -> None:
    """It says how far the clock is behind the newest entry."""
    database = await made(tmp_path)
    change(database, "UPDATE entries SET time = time + 7230000000 WHERE position = (SELECT max(position) FROM entries)")
    found = await doctor(tmp_path)
    assert found.level("newest entry") == "warning"
    assert found.text("newest entry").startswith("2:00:")


async def test_doctor_reports_ports_in_use(tmp_path: Path) -> None:
    """It names each, with what to do, while no hub has the directory."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        found = await doctor(tmp_path, HUB_LISTEN=address, HUB_HTTP_LISTEN=address, HUB_DIRECTORY_LISTEN=address)
    assert found.code == 1
    assert [found.level(name) for name in ("listen", "http_listen", "directory")] == ["problem"] * 3
    assert found.text("listen") == (
        f"cannot listen on {address}: address already in use: stop what has it, or name another address"
    )
    off = await doctor(tmp_path, HUB_HTTP_LISTEN="off")
    assert off.text("http_listen") == "off: no metrics and no probes"


@pytest.mark.parametrize(
    ("begins", "ends", "level", "words"),
    [
        (timedelta(days=-2), timedelta(days=90), "ok", "ends "),
        (timedelta(days=-2), timedelta(days=3), "warning", "renew it, then send SIGHUP"),
        (timedelta(days=-2), timedelta(days=-1), "problem", "renew it, then send SIGHUP"),
        (timedelta(days=2), timedelta(days=90), "problem", "is not valid before"),
    ],
)
async def test_doctor_reports_the_dates_of_certificates(
    tmp_path: Path, begins: timedelta, ends: timedelta, level: str, words: str
) -> None:
    """A certificate that is valid, expires soon, has expired, is not yet valid."""
    certificate = certify("hub", begins=begins, ends=ends)
    (tmp_path / "hub.pem").write_bytes(certificate.pem)
    (tmp_path / "hub.key").touch(0o600)
    (tmp_path / "hub.key").write_bytes(certificate.key_pem)
    found = await doctor(tmp_path, HUB_TLS_CERTIFICATE="hub.pem", HUB_TLS_KEY="hub.key")
    assert found.level("certificate") == level
    assert words in found.text("certificate")
    assert found.code == (level == "problem")


async def test_doctor_reports_invalid_certificate_files(tmp_path: Path) -> None:
    """The file is named."""
    (tmp_path / "hub.pem").write_text("garbage")
    (tmp_path / "hub.key").touch(0o600)
    found = await doctor(tmp_path, HUB_TLS_CERTIFICATE="hub.pem", HUB_TLS_KEY="hub.key")
    assert (found.code, found.text("certificate")) == (1, "TLS: hub.pem contains no certificate in PEM form")


async def test_doctor_reports_a_certificate_that_grpc_rejects(tmp_path: Path) -> None:
    """A start would fail with the same text."""
    made = certify("hub", curve=ec.SECP256K1())
    (tmp_path / "hub.pem").write_bytes(made.pem)
    (tmp_path / "hub.key").touch(0o600)
    (tmp_path / "hub.key").write_bytes(made.key_pem)
    files = {"HUB_TLS_CERTIFICATE": "hub.pem", "HUB_TLS_KEY": "hub.key"}
    ended = await run_hub("doctor", cwd=tmp_path, **FREE, **files, PYTHONUNBUFFERED="1")
    assert ended.code == 1
    assert "problem  certificate    hub.pem: gRPC takes neither the certificate nor its key" in ended.out


async def test_doctor_reports_a_full_disk(tmp_path: Path) -> None:
    """It says what is free, and what that means."""
    (tmp_path / "data").mkdir()
    found = Report(await run([*on_small_disk(8, 4), *COMMAND, "doctor"], tmp_path, FREE))
    assert (found.code, found.level("disk")) == (1, "problem")
    assert found.text("disk") == "4.0 MiB of 8.0 MiB free: free space: emits are refused with STORAGE_FULL"


async def test_doctor_reports_a_directory_that_others_may_read(tmp_path: Path) -> None:
    """With the mode, and the command that repairs it."""
    await made(tmp_path)
    (tmp_path / "data").chmod(0o755)
    found = await doctor(tmp_path)
    assert (found.code, found.level("data directory")) == (0, "warning")
    assert found.text("data directory").endswith(f"(mode 0755): chmod 700 {tmp_path / 'data'}")
    file = await doctor(tmp_path, HUB_DATA_DIR=str(tmp_path / "data" / "hub.db"))
    assert (file.code, file.level("data directory")) == (1, "problem")


def test_the_file_system_is_that_of_the_nearest_mount_point(tmp_path: Path) -> None:
    """A directory lies on what is mounted nearest above it."""
    mounts = [("/", "ext4"), (str(tmp_path), "nfs4"), (f"{tmp_path}/da", "tmpfs")]
    assert file_system(tmp_path / "data", mounts) == "nfs4"
    assert file_system(Path("/"), mounts) == "ext4"


@pytest.mark.parametrize(("kernel", "level"), [(0, "ok"), (5, "warning"), (-1, "ok")])
def test_doctor_reports_an_unsynchronised_clock(kernel: int, level: str) -> None:
    """The kernel says whether it is synchronised; an unknown state is no problem."""
    assert clock(0, kernel).level == level


async def test_doctor_changes_nothing_in_a_cluster(tmp_path: Path) -> None:
    """It names streams that are missing and makes none; a cluster that is not there is a problem."""
    variables = {"HUB_STORAGE": shared().url, "HUB_NATS_STREAM": "DOCTOR"}
    for _ in range(2):
        found = await doctor(tmp_path, **variables)
        assert found.text("store").startswith("stream DOCTOR is not there yet")
        assert found.code == 0
    away = await doctor(tmp_path, HUB_STORAGE="nats://127.0.0.1:1")
    assert (away.code, away.level("store")) == (1, "problem")
    assert "cannot be reached" in away.text("store")


async def test_doctor_takes_backups_only_with_verify(tmp_path: Path) -> None:
    """To name one without it is a misunderstanding, and refused."""
    ended = await run_hub("doctor", "--backup", "one.bak", cwd=tmp_path)
    assert ended.complaint == "--backup needs --verify"
