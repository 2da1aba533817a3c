"""The command line as separate processes: what is printed, and how a hub stops."""

import asyncio
import re
import signal
import sys
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from tickets.hub.v1 import admin_service_pb2, directory_service_pb2

from hub import config
from hub.app import where
from hub.cli import COMMANDS, main
from hub.config import version
from tests.support.calls import reason_of
from tests.support.hubs import REGISTRATION, Subscriber, scope_requests
from tests.support.processes import COMMAND, Serving, run, run_hub, serving

KEY = re.compile(r"tkt_(admin|bot)_[0-9A-Za-z]{12}_[0-9A-Za-z]{34}")


async def works(hub: Serving, key: str) -> bool:
    """Whether a key opens the hub."""
    try:
        await hub.caller(key).call("DirectoryService/ListScopes", directory_service_pb2.ListScopesRequest())
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return False
        raise
    return True


async def subscribed(hub: Serving, admin_key: str) -> Subscriber:
    """A stream of a new integration, open."""
    fields: dict[str, Any] = REGISTRATION | {"scopes": scope_requests("TICKET_CREATED")}
    request = admin_service_pb2.RegisterIntegrationRequest(**fields)
    reply = await hub.caller(admin_key).call("AdminService/RegisterIntegration", request)
    return await hub.caller(reply.key.secret).subscribe()


async def test_the_first_keys_are_printed_once(tmp_path: Path) -> None:
    """The first start prints two keys that open the hub, each alone on its line; the second start prints nothing."""
    async with serving(cwd=tmp_path) as hub:
        keys = await hub.first_keys()
        assert list(keys) == ["HUB_ADMIN_KEY", "HUB_BOT_KEY"]
        assert [KEY.fullmatch(key).group(1) for key in keys.values() if KEY.fullmatch(key)] == ["admin", "bot"]  # type: ignore[union-attr]  # it matched
        assert [await works(hub, key) for key in keys.values()] == [True, True]
        assert (await hub.stop()).out == ""
    async with serving(cwd=tmp_path) as again:
        assert [await works(again, key) for key in keys.values()] == [True, True]
        assert (await again.stop()).out == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_hub_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """Told to stop, it says goodbye on every stream, ends it with DRAINING, and exits with code 0 and no traceback."""
    async with serving(cwd=tmp_path) as hub:
        stream = await subscribed(hub, (await hub.first_keys())["HUB_ADMIN_KEY"])
        ended, ending = await asyncio.gather(hub.stop(number), stream.ending())
        assert (ended.code, ended.out) == (0, "")
        assert "Traceback" not in ended.err
        assert stream.frames[-1].goodbye.reconnect
        assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


async def test_a_signal_during_the_start_is_obeyed(tmp_path: Path) -> None:
    """A hub that is stopped the moment it serves, before any call, ends with code 0."""
    async with serving(cwd=tmp_path) as hub:
        ended = await hub.stop()
        assert (ended.code, "Traceback" in ended.err) == (0, False)


async def test_init_makes_the_keys_and_serves_nothing(tmp_path: Path) -> None:
    """`hub init` prints the first keys and ends; the hub started after it prints none and takes them."""
    keys = (await run_hub("init", cwd=tmp_path)).keys
    assert list(keys) == ["HUB_ADMIN_KEY", "HUB_BOT_KEY"]
    async with serving(cwd=tmp_path) as hub:
        assert [await works(hub, key) for key in keys.values()] == [True, True]
        assert (await hub.stop()).out == ""


async def test_init_again_changes_nothing(tmp_path: Path) -> None:
    """On a store that has its keys `hub init` makes none, and says what would."""
    keys = (await run_hub("init", cwd=tmp_path)).keys
    again = await run_hub("init", cwd=tmp_path)
    assert (again.code, again.out) == (0, "")
    assert "hub create-key" in again.err
    async with serving(cwd=tmp_path) as hub:
        assert await works(hub, keys["HUB_ADMIN_KEY"])


@pytest.mark.parametrize("role", ["admin", "bot"])
async def test_create_key_makes_a_key_while_the_hub_is_stopped(tmp_path: Path, role: str) -> None:
    """The new key works, earlier ones still do, and the change is audited."""
    keys = (await run_hub("init", cwd=tmp_path)).keys
    made = (await run_hub("create-key", "--role", role, "--name", "the spare one", cwd=tmp_path)).keys
    assert list(made) == [f"HUB_{role.upper()}_KEY"]
    [key] = made.values()
    assert key.startswith(f"tkt_{role}_")
    async with serving(cwd=tmp_path) as hub:
        assert [await works(hub, one) for one in (key, *keys.values())] == [True] * 3
        admin = hub.caller(keys["HUB_ADMIN_KEY"])
        held = await admin.call("AdminService/ListKeys", admin_service_pb2.ListKeysRequest())
        assert [one.display_name for one in held.keys] == ["the spare one", "first admin key", "first bot key"]
        audit = await admin.call(
            "AdminService/ListAuditEntries", admin_service_pb2.ListAuditEntriesRequest(page_size=1)
        )
        assert [(one.reason, one.actor.role) for one in audit.entries] == [("hub create-key", 0)]


async def test_create_key_is_refused_while_the_hub_runs(tmp_path: Path) -> None:
    """Beside a running hub `hub create-key` refuses, names the process that holds the store, and harms nothing."""
    async with serving(cwd=tmp_path) as hub:
        keys = await hub.first_keys()
        refused = (await run_hub("create-key", "--role", "admin", cwd=tmp_path)).complaint
        assert f"pid {hub.process.pid} " in refused
        assert await works(hub, keys["HUB_ADMIN_KEY"])


async def test_create_key_needs_a_store(tmp_path: Path) -> None:
    """In a directory without a store it makes none, says where it looked, and the first keys are still to be made."""
    complaint = (await run_hub("create-key", "--role", "admin", cwd=tmp_path)).complaint
    assert complaint == f"there is no store in {tmp_path}/data: set HUB_DATA_DIR to the directory of the hub"
    assert list(tmp_path.iterdir()) == []
    assert list((await run_hub("init", cwd=tmp_path)).keys) == ["HUB_ADMIN_KEY", "HUB_BOT_KEY"]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("", "is required"), ("a" * 81, "80 characters"), ("\x1b[2J", "control characters"), ("\udcff", "must be UTF-8")],
)
async def test_create_key_checks_the_name(tmp_path: Path, name: str, complaint: str) -> None:
    """By the rules of CreateServiceKey, because admins read it in lists of keys."""
    ended = await run_hub("create-key", "--role", "admin", "--name", name, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert complaint in ended.err.splitlines()[-1]


async def test_a_path_that_is_not_utf8_can_be_printed(tmp_path: Path) -> None:
    """Linux allows any bytes in names; a setting that names such a file is shown with escapes."""
    ended = await run_hub("config", "--data-dir", "d\udcff", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert 'data_dir = "d\\udcff"  # flag' in ended.out


@pytest.mark.parametrize(
    "words", [["create-key"], ["create-key", "--role", "integration"], ["serve", "--nonsense"], ["no"]]
)
async def test_a_wrong_command_line_is_refused(tmp_path: Path, words: list[str]) -> None:
    """An unknown flag or command is named, with status 2 and no traceback, and nothing is created."""
    ended = await run_hub(*words, cwd=tmp_path)
    assert (ended.code, ended.out, "Traceback" in ended.err) == (2, "", False)
    assert "\nError: " in ended.err
    assert list(tmp_path.iterdir()) == []


async def test_help_lists_every_setting(tmp_path: Path) -> None:
    """`hub serve --help` lists the flags, with what they take and their variables; secrets have variables alone."""
    ended = await run_hub("serve", "--help", cwd=tmp_path)
    assert ended.code == 0
    for flag in (
        *("--listen HOST:PORT", "--data-dir DIRECTORY", "--retention SECONDS", "--max-frame-bytes BYTES"),
        *("--tls-key FILE", "--log-level debug|info|warning|error", "--max-streams NUMBER", "--insecure"),
    ):
        assert flag in ended.out
    assert "$HUB_RETENTION]" in ended.out
    assert "--secret " not in ended.out
    assert "--secret-file FILE" in ended.out
    assert "HUB_SECRET, HUB_NATS_PASSWORD, HUB_NATS_TOKEN" in " ".join(ended.out.split())


async def test_help_lists_every_command_and_the_version(tmp_path: Path) -> None:
    """`hub --help` says of each command what it does, in a sentence that is not cut; `hub --version` is one line."""
    ended = await run_hub("--help", cwd=tmp_path)
    commands = ended.out.partition("Commands:\n")[2].splitlines()
    assert len(commands) == len(COMMANDS)
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)
    assert (await run_hub("--version", cwd=tmp_path)).out == f"hub {version()}\n"


async def test_the_log_says_which_hub_this_is(tmp_path: Path) -> None:
    """The line `serving` has the version and the place of the data."""
    async with serving(cwd=tmp_path) as hub:
        line = hub.log[-1]
    assert (line["event"], line["version"], line["data_dir"]) == ("serving", version(), f"{tmp_path}/data")


def test_the_log_names_a_cluster_without_its_password() -> None:
    """The line has the servers and the stream, without the credentials."""
    said = where(config.load({"storage": "nats://hub:hunter2@nats-1:4222,hub:hunter2@nats-2:4222"}))
    assert said == {"storage": "nats://nats-1:4222,nats-2:4222", "nats_stream": "TICKETS_HUB"}


async def test_flags_override_variables_override_the_file_override_defaults(tmp_path: Path) -> None:
    """One setting is given in four places: the nearest to the command line applies."""
    file = tmp_path / "hub.toml"
    file.write_text('data_dir = "from-file"\n')
    flag, named = ("--data-dir", "from-flag"), ("--config", str(file))
    cases = {
        "from-flag": run_hub("init", *named, *flag, cwd=tmp_path, HUB_DATA_DIR="from-variable"),
        "from-variable": run_hub("init", *named, cwd=tmp_path, HUB_DATA_DIR="from-variable"),
        "from-file": run_hub("init", *named, cwd=tmp_path),
        "data": run_hub("init", cwd=tmp_path),
    }
    for made, running in cases.items():
        there = {path.name for path in tmp_path.iterdir()}
        assert list((await running).keys) == ["HUB_ADMIN_KEY", "HUB_BOT_KEY"]
        assert {path.name for path in tmp_path.iterdir()} - there == {made}


async def test_the_settings_file_can_be_named_by_a_variable(tmp_path: Path) -> None:
    """HUB_CONFIG names the file where no flag does."""
    (tmp_path / "hub.toml").write_text('data_dir = "elsewhere"\n')
    assert (await run_hub("init", cwd=tmp_path, HUB_CONFIG="hub.toml")).code == 0
    assert (tmp_path / "elsewhere" / "hub.db").is_file()


async def test_unrelated_variables_are_ignored(tmp_path: Path) -> None:
    """Variables that callers export, or that Kubernetes sets for a service "hub", are neither settings nor mistakes."""
    others = {"HUB_ADMIN_KEY": "x", "HUB_BOT_KEY": "x", "HUB_KEY": "x", "HUB_PORT": "tcp://10.0.0.1:50051"}
    kubernetes = {"HUB_SERVICE_HOST": "10.0.0.1", "HUB_SERVICE_PORT": "50051", "HUB_PORT_50051_TCP_ADDR": "10.0.0.1"}
    assert list((await run([*COMMAND, "init"], tmp_path, others | kubernetes)).keys) == ["HUB_ADMIN_KEY", "HUB_BOT_KEY"]


def test_every_command_of_the_table_exists() -> None:
    """The table of commands names modules and functions that exist; the help lists what can be run."""
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    assert {name: command and command.name for name, command in found.items()} == {name: name for name in COMMANDS}
    assert main.get_command(context, "nothing") is None


async def test_a_health_check_loads_no_more_than_it_needs(tmp_path: Path) -> None:
    """A container runs it every few seconds: neither gRPC nor a store is imported for it."""
    program = (
        "import sys, hub.cli.healthcheck; print(sorted({'grpc', 'aiosqlite', 'protovalidate'} & set(sys.modules)))"
    )
    ended = await run([sys.executable, "-c", program], cwd=tmp_path)
    assert ended.out == "[]\n"
