"""Standard descriptors that are full, closed or unread: the hub serves on, and no key is lost."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from tickets.hub.v1 import admin_service_pb2, directory_service_pb2

from hub import logs
from hub.logs import BackgroundFile
from tests.support.calls import fails
from tests.support.hubs import REGISTRATION, Caller, scope_requests
from tests.support.processes import COMMAND, PATIENCE, run_hub, serving

HUB = " ".join(COMMAND)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A small pipe: where to read, and where to write."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    try:
        yield reader, writer
    finally:
        for descriptor in (reader, writer):
            with suppress(OSError):
                os.close(descriptor)


def fill(reader: int, writer: int) -> None:
    """Write into a pipe until it takes nothing more; the flag that this needs is taken back."""
    del reader  # it is open, so that the pipe is not broken
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    fcntl.fcntl(writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    fcntl.fcntl(writer, fcntl.F_SETFL, flags)


async def listening(port: int) -> grpc.aio.Channel:
    """A channel to a hub that does not say when it serves."""
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    async with asyncio.timeout(PATIENCE):
        await channel.channel_ready()
    return channel


async def test_an_unread_log_does_not_stop_the_hub(tmp_path: Path, unused_port: int) -> None:
    """With standard error on a full pipe the hub starts, refuses, serves, and obeys SIGTERM."""
    key = (await run_hub("init", cwd=tmp_path)).keys["HUB_BOT_KEY"]
    with pipe() as (reader, writer):
        fill(reader, writer)
        command = [*COMMAND, "serve", "--listen", f"127.0.0.1:{unused_port}"]
        hub = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stderr=writer)
        try:
            channel = await listening(unused_port)
            for known in ("", "x", key):
                request = directory_service_pb2.ListScopesRequest()
                asked = Caller(channel, known).call("DirectoryService/ListScopes", request)
                if known == key:
                    assert (await asked).scopes
                else:
                    assert (await fails(asked)).code() is grpc.StatusCode.UNAUTHENTICATED
            hub.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                assert await hub.wait() == 0
            await channel.close()
        finally:
            if hub.returncode is None:
                hub.kill()


@pytest.fixture
def unused_port() -> int:
    """A port of loopback that is free now."""
    import socket  # noqa: PLC0415  here alone

    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_log_lines_beyond_the_queue_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer never waits; lost lines are counted, and reported once the log is read again."""
    with pipe() as (reader, writer):
        fill(reader, writer)
        file = BackgroundFile(writer, max_waiting=1_000)
        monkeypatch.setattr(sys, "stderr", file)
        logs.configure("info", "json")
        for number in range(50):
            file.write(f"{number:049}\n")
        assert file.dropped == 30
        read = b""
        while b"log lines were dropped" not in read:
            read += os.read(reader, 4096)
        assert b'"lines": 30' in read
        assert [int(line) for line in read.lstrip(b"x").splitlines()[:20]] == list(range(20))
        assert file.finish(PATIENCE)


def test_a_failing_log_descriptor_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk under the log loses lines and nothing else: with room again the next one is written."""
    log, full = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT), os.open("/dev/full", os.O_WRONLY)
    target = os.dup(full)
    file = BackgroundFile(target)
    monkeypatch.setattr(sys, "stderr", file)
    logs.configure("info", "json")
    structlog.get_logger().info("lost")
    while not file.dropped:
        os.sched_yield()
    os.dup2(log, target)
    structlog.get_logger().info("kept")
    assert file.finish(PATIENCE)
    written = (tmp_path / "log").read_text()
    assert ("kept" in written, "lost" in written, '"lines": 1' in written) == (True, False, True)
    for descriptor in (log, full, target):
        os.close(descriptor)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import asyncio; asyncio.get_running_loop().call_exception_handler({'message': 'of asyncio'})", "of asyncio"),
        ("import logging; logging.getLogger('nats').error('of a library')", "of a library"),
        ("import warnings; warnings.warn('a warning')", "a warning"),
        (
            "import threading as t; a = t.Thread(target=int, args=('of a thread',)); a.start(); a.join()",
            "of a thread",
        ),
        ("import sys; print('printed', file=sys.stderr)", "printed"),
        ("import click; click.echo('echoed', err=True)", "echoed"),
    ],
)
def test_everything_on_standard_error_goes_through_the_queue(tmp_path: Path, source: str, found: str) -> None:
    """Libraries, warnings, threads that fail: on the event loop none of them writes to the descriptor itself."""
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, os, threading\n"
        "from hub import logs\n"
        "written = os.write\n"
        "def write(descriptor, data):\n"
        "    assert threading.current_thread().name == 'log'\n"
        "    return written(descriptor, data)\n"
        "os.write = write\n"
        "async def main():\n"
        f"    {source}\n"
        "with logs.in_background():\n"
        "    logs.configure('info', 'json')\n"
        "    asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=PATIENCE, check=True)  # noqa: S603  ourselves
    assert found in ended.stderr


def test_keys_in_tracebacks_are_cut(capfd: pytest.CaptureFixture[str]) -> None:
    """What a library prints is no line of ours, and shows no key either."""
    with logs.in_background():
        sys.stderr.write("ValueError: tkt_bot_AbCdEfGhIjKl_0123456789abcdefghijABCDEFGHIJ0123\n")
    assert capfd.readouterr().err == "ValueError: tkt_bot_AbCdEfGhIjKl_…\n"


EMIT = "emit ticket_created --guild 81384788765712384 creator_user_id=53908232506183680"
COMMANDS = ["serve --listen 127.0.0.1:0", "init"]
UNWRITABLE = [("> /dev/full", "No space left on device"), (">&-", "closed"), ("| true", "")]


def shell(command: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command line in a shell that tells the status of the first command of a pipe."""
    text = f"set -o pipefail; {command}"
    return subprocess.run(  # noqa: S603  ourselves
        ["/bin/bash", "-c", text], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("where", "why"), UNWRITABLE)
async def test_first_keys_that_cannot_be_printed_are_not_made(
    tmp_path: Path, command: str, where: str, why: str
) -> None:
    """A first start that cannot print its keys ends in one line, and the next start prints two."""
    ended = shell(f"{HUB} {command} {where}", tmp_path)
    [line] = ended.stderr.splitlines()
    assert (ended.returncode, line[:21], line[-17:]) == (2, "hub: standard output ", ": no key was made")
    assert why in line
    assert list((await run_hub("init", cwd=tmp_path)).keys) == ["HUB_ADMIN_KEY", "HUB_BOT_KEY"]


@pytest.mark.parametrize(("where", "why"), UNWRITABLE)
async def test_create_key_makes_no_key_that_it_cannot_print(tmp_path: Path, where: str, why: str) -> None:
    """`hub create-key` that cannot print its key ends in one line and leaves the store as it was."""
    await run_hub("init", cwd=tmp_path)
    ended = shell(f"{HUB} create-key --role admin {where}", tmp_path)
    [line] = ended.stderr.splitlines()
    assert (ended.returncode, why in line) == (2, True)
    exported = await run_hub("export", "log.export", cwd=tmp_path)
    assert exported.out.startswith("log.export: 2 entries")


async def test_a_full_standard_output_ends_the_start(tmp_path: Path) -> None:
    """The pipe is not read: the start fails after a while, instead of waiting with keys that cannot be printed."""
    with pipe() as (reader, writer):
        fill(reader, writer)
        command = [*COMMAND, "init"]
        hub = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE)
        _, err = await hub.communicate()
    assert (hub.returncode, err) == (2, b"hub: standard output is full and not being read: no key was made\n")


@pytest.mark.parametrize("command", ["backup b", "export b"])
async def test_a_command_that_cannot_print_ends_in_one_line(tmp_path: Path, command: str) -> None:
    """A command that has done its work and cannot say so ends in one line, not in a traceback."""
    await run_hub("init", cwd=tmp_path)
    ended = shell(f"{HUB} {command} > /dev/full", tmp_path)
    assert (ended.returncode, ended.stderr) == (2, "hub: standard output cannot be written: No space left on device\n")
    assert (tmp_path / "b").is_file()


@pytest.mark.parametrize("command", [EMIT, "tail --from earliest"])
async def test_tail_and_emit_that_cannot_print_end_in_one_line(tmp_path: Path, command: str) -> None:
    """`hub emit` and `hub tail` onto a full disk end in one line that says so, not in a traceback."""
    async with serving(cwd=tmp_path) as hub:
        keys = await hub.first_keys()
        caller = hub.caller(keys["HUB_ADMIN_KEY"])
        fields: dict[str, Any] = REGISTRATION | {"scopes": scope_requests("TICKET_CREATED")}
        request = admin_service_pb2.RegisterIntegrationRequest(**fields)
        reply = await caller.call("AdminService/RegisterIntegration", request)
        address = f"--address 127.0.0.1:{hub.port}"
        variables = f"HUB_BOT_KEY={keys['HUB_BOT_KEY']} HUB_KEY={reply.key.secret}"
        await asyncio.to_thread(shell, f"{variables} {HUB} {EMIT} {address}", tmp_path)
        ended = await asyncio.to_thread(shell, f"{variables} {HUB} {command} {address} > /dev/full", tmp_path)
    assert ended.returncode != 0
    assert "hub: standard output cannot be written: No space left on device" in ended.stderr.splitlines()
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-", "<&-"])
async def test_closed_standard_descriptors_are_not_reused(tmp_path: Path, closed: str) -> None:
    """A file of the store never gets the number of a standard descriptor: what is written there would damage it."""
    await run_hub("init", cwd=tmp_path)
    ended = shell(f"timeout --signal=TERM 3 {HUB} serve --listen 127.0.0.1:0 {closed}", tmp_path)
    assert ended.returncode == 124  # it served until it was stopped
    assert (tmp_path / "data" / "hub.lock").read_text().startswith("pid ")
    assert "Traceback" not in ended.stderr
