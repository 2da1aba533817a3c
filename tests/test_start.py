"""Starts that must fail: each ends in one line and status 2, without a traceback, and leaves nothing behind."""

import asyncio
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tickets.hub.v1 import directory_service_pb2

from hub import app, config
from hub.clock import Clock
from hub.control import transactions as changes
from hub.model import Role
from tests.support.processes import COMMAND, ended_of, run, run_hub, serving, starting

SECRET = "the secret of this hub, long enough to be one"
UNPRIVILEGED = 65534
AS_NOBODY = f"""
import os, sys
import hub.app, hub.storage.sqlite.log
from hub.cli import main
if os.getuid() == 0:  # root may write everywhere
    os.setgroups([]); os.setgid({UNPRIVILEGED}); os.setuid({UNPRIVILEGED})
main(sys.argv[1:], prog_name="hub")
"""


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of loopback that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('lisen = "127.0.0.1:0"', 'unknown setting "lisen"; did you mean "listen"?'),
        ("[hub]\nmax_streams = 3", 'unknown setting "hub"'),
        ('max_streams = "many"', "max_streams: "),
        ("max_streams = 0", "max_streams: "),
        ('log_level = "loud"', "log_level: "),
        ("listen = 50051", "listen: must be text"),
        ('data_dir = "a\\u0000b"', "data_dir: must be a path"),
        ('storage = "nats://h\\u0000:1"', "storage: must name servers"),
        ('listen = "127.0.0.1:99999"', "listen: must be host:port"),
        ("max_streams = ", "settings file "),
        ("\xff", "settings file "),
    ],
)
async def test_a_wrong_settings_file_is_reported(tmp_path: Path, text: str, complaint: str) -> None:
    """An unknown key, a value of the wrong type or out of bounds, and invalid TOML are named."""
    file = tmp_path / "hub.toml"
    file.write_bytes(text.encode("latin-1"))
    assert (await run_hub("serve", "--config", "hub.toml", cwd=tmp_path)).complaint.startswith(complaint)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("name", "why"), [("missing.toml", "No such file or directory"), (".", "Is a directory")])
async def test_an_unreadable_settings_file_is_reported(tmp_path: Path, name: str, why: str) -> None:
    """A missing file, or a directory, ends the start with its name and the reason."""
    assert (await run_hub("serve", cwd=tmp_path, HUB_CONFIG=name)).complaint == f"settings file {name}: {why}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("HUB_LISTN", "127.0.0.1:1", 'unknown setting "HUB_LISTN"; did you mean "HUB_LISTEN"?'),
        ("HUB_MAX_STREAM", "7", 'unknown setting "HUB_MAX_STREAM"; did you mean "HUB_MAX_STREAMS"?'),
        ("HUB_MAX_STREAMS", "seven", "max_streams: must be a whole number"),
        ("HUB_MAX_FRAME_BYTES", "1MB", "max_frame_bytes: must be a whole number of bytes"),
        ("HUB_RETENTION", "1", "retention: must be at least 60 seconds"),
        ("HUB_RETENTION", "inf", "retention: must be a number of seconds"),
        ("HUB_KEY_OVERLAP", "1e9", "key_overlap: must be at most 604800 seconds"),
        ("HUB_WRITE_DEADLINE", "0", "write_deadline: must be more than 0 seconds"),
        ("HUB_LOG_LEVEL", "loud", "log_level: must be 'debug', 'info', 'warning' or 'error'"),
        ("HUB_INSECURE", "perhaps", "insecure: must be true or false"),
        ("HUB_LISTEN", "", "listen: must be host:port"),
        ("HUB_LISTEN", "0.0.0.0:0", "listen: '0.0.0.0:0' is not loopback: "),
        ("HUB_LISTEN", "example.org:50051", "listen: 'example.org:50051' is not loopback: "),
        ("HUB_LISTEN", "[::]:0", "listen: '[::]:0' is not loopback: "),
        ("HUB_STORAGE", "postgres://x", "storage: unknown backend 'postgres://x': "),
        ("HUB_STORAGE", "nats://", "storage: must name servers as host:port"),
        ("HUB_STORAGE", "nats://,", "storage: must name servers as host:port"),
        ("HUB_STORAGE", "nats://127.0.0.1:1,", "storage: must name servers as host:port"),
        ("HUB_STORAGE", "nats://:4222", "storage: must name servers as host:port"),
        ("HUB_STORAGE", "tls://h:port", "storage: must name servers as host:port"),
        ("HUB_STORAGE", "nats://h:99999", "storage: must name servers as host:port"),
        ("HUB_STORAGE", "nats://127.0.0.1:1:2", "storage: must name servers as host:port"),
        ("HUB_DATA_DIR", "", "data_dir: must be a path"),
        ("HUB_TLS_KEY", "", "tls_key: must be a path"),
        ("HUB_TLS_KEY", "key.pem", "tls_certificate and tls_key go together: set both"),
        ("HUB_TLS_CLIENT_CA", "ca.pem", "tls_client_ca needs tls_certificate and tls_key"),
    ],
)
async def test_a_wrong_variable_is_reported(tmp_path: Path, name: str, value: str, complaint: str) -> None:
    """A misspelt variable is answered with the name that was meant; a wrong value, or plaintext for all, is refused."""
    assert (await run([*COMMAND, "serve"], tmp_path, {name: value})).complaint.startswith(complaint)
    assert list(tmp_path.iterdir()) == []


async def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    """A secret that could be guessed is refused, without being repeated."""
    complaint = (await run_hub("serve", cwd=tmp_path, HUB_SECRET="hunter2hunter2")).complaint
    assert complaint.startswith("secret: must have at least 32 characters")
    assert "hunter2" not in complaint


async def test_every_wrong_setting_has_its_line(tmp_path: Path) -> None:
    """Two wrong settings are reported together, each on its own line."""
    ended = await run_hub("serve", cwd=tmp_path, HUB_MAX_STREAMS="x", HUB_RETENTION="x")
    assert (ended.code, ended.out) == (2, "")
    assert [line.split(":")[:2] for line in ended.err.splitlines()] == [["hub", " max_streams"], ["hub", " retention"]]


async def test_a_wrong_secret_is_refused(tmp_path: Path) -> None:
    """A store is not opened with another secret than its own, nor with none; with that one its keys still work."""
    key = (await run_hub("init", cwd=tmp_path, HUB_SECRET=SECRET)).keys["HUB_ADMIN_KEY"]
    wrong = (await run_hub("serve", cwd=tmp_path, HUB_SECRET=SECRET[::-1])).complaint
    assert "does not match the store" in wrong
    assert SECRET[::-1] not in wrong
    assert "secret file" in (await run_hub("serve", cwd=tmp_path)).complaint
    async with serving(cwd=tmp_path, HUB_SECRET=SECRET) as hub:
        await hub.caller(key).call("DirectoryService/ListScopes", directory_service_pb2.ListScopesRequest())


async def test_a_password_in_an_invalid_url_is_not_printed(tmp_path: Path) -> None:
    """An invalid URL is refused without being repeated, as it may hold a password."""
    ended = await run_hub("serve", cwd=tmp_path, HUB_STORAGE="nats://hub:hunter://2@nats-1:4222")
    assert ended.complaint.startswith("storage: must name servers")
    assert "hunter" not in ended.complaint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_start_that_waits_for_its_store_can_be_stopped(tmp_path: Path, number: signal.Signals) -> None:
    """While the cluster does not answer, the hub can be stopped at once, with status 0."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        variables = {"HUB_STORAGE": f"nats://127.0.0.1:{silent.getsockname()[1]}"}
        async with starting("serve", cwd=tmp_path, **variables) as process:
            connection, _ = await asyncio.to_thread(silent.accept)
            process.send_signal(number)
            ended = await ended_of(process)
            connection.close()
    assert (ended.code, ended.out, ended.err) == (0, "", "")


async def test_the_first_keys_survive_a_cancelled_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stop while the first keys are being stored, the start still knows them: they are made only once."""
    begun = asyncio.Event()

    async def initialise(*parts: Any) -> dict[Role, str] | None:  # noqa: ANN401  whatever the real one takes
        begun.set()
        return await changes.initialise(*parts)

    monkeypatch.setattr(app, "initialise", initialise)
    settings = config.load({"data_dir": tmp_path / "data", "listen": "127.0.0.1:0"})
    hub = app.Hub(settings, Clock())
    starting = asyncio.ensure_future(hub.begin())
    await begun.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert set(hub.first_keys or {}) == {Role.ADMIN, Role.BOT}
    again = await app.Hub.start(settings)
    assert again.first_keys is None
    await again.stop()


async def test_a_port_in_use_is_reported(tmp_path: Path, taken_port: int) -> None:
    """The error names the port; the first keys are not used up by a start that could not print them."""
    address = f"127.0.0.1:{taken_port}"
    assert address in (await run_hub("serve", "--listen", address, cwd=tmp_path)).complaint
    async with serving(cwd=tmp_path) as hub:
        assert list(await hub.first_keys()) == ["HUB_ADMIN_KEY", "HUB_BOT_KEY"]


async def test_invalid_tls_files_are_reported(tmp_path: Path) -> None:
    """TLS files that are missing or hold something else are named as such, and nothing is served in plaintext."""
    tls = ("--tls-certificate", "c.pem", "--tls-key", "k.pem")
    assert (await run_hub("serve", *tls, cwd=tmp_path)).complaint == "k.pem: No such file or directory"
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        (tmp_path / name).chmod(0o600)
    assert (await run_hub("serve", *tls, cwd=tmp_path)).complaint.startswith("TLS: ")


async def test_a_data_directory_in_use_is_refused(tmp_path: Path) -> None:
    """A second hub on the directory is refused with the name of the first, which continues."""
    async with serving(cwd=tmp_path) as hub:
        key = (await hub.first_keys())["HUB_ADMIN_KEY"]
        complaint = (await run_hub("serve", "--listen", "127.0.0.1:0", cwd=tmp_path)).complaint
        assert f"in use by another hub (pid {hub.process.pid} " in complaint
        await hub.caller(key).call("DirectoryService/ListScopes", directory_service_pb2.ListScopesRequest())


async def test_a_data_directory_without_write_permission_is_reported(tmp_path: Path) -> None:
    """A hub that may not write where its data is to lie says so, and leaves nothing there."""
    data = tmp_path / "data"
    data.mkdir(mode=0o555)
    for parent in (tmp_path, *tmp_path.parents[:2]):  # pytest's own directories are for their owner alone
        if parent.stat().st_uid == os.getuid():
            parent.chmod(0o755)
    ended = await run([sys.executable, "-c", AS_NOBODY, "serve"], tmp_path)
    assert ended.complaint == f"data directory {data}: Permission denied"
    assert list(data.iterdir()) == []


async def test_a_data_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    """A path that cannot be a directory is refused, and the file in its place is left as it is."""
    (tmp_path / "data").write_text("mine")
    assert (await run_hub("serve", cwd=tmp_path)).complaint == f"data directory {tmp_path}/data is not a directory"
    below = (await run_hub("serve", "--data-dir", "data/below", cwd=tmp_path)).complaint
    assert below.startswith(f"data directory {tmp_path}/data/below")
    assert (tmp_path / "data").read_text() == "mine"


@pytest.mark.parametrize("content", [b"no database at all " * 100, b"SQLite format 3\0" + bytes(84)])
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file that is no database in the place of ours is refused and not touched."""
    file = tmp_path / "data" / "hub.db"
    file.parent.mkdir()
    file.write_bytes(content)
    for secret in ({}, {"HUB_SECRET": SECRET}):
        assert str(file.parent) in (await run([*COMMAND, "serve"], tmp_path, secret)).complaint
    assert file.read_bytes() == content


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """Another program's database is refused, named, and not written to."""
    file = tmp_path / "data" / "hub.db"
    file.parent.mkdir()
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    content = file.read_bytes()
    complaint = (await run_hub("serve", cwd=tmp_path, HUB_SECRET=SECRET)).complaint
    assert "belongs to another program" in complaint
    assert file.read_bytes() == content
