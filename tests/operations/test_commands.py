"""What operators type: `hub top`, `hub healthcheck`, `hub config`."""

import asyncio
import json
import tomllib
from pathlib import Path
from typing import Any

import click
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import admin_service_pb2
from tickets.hub.v1.hub_status_pb2 import HubStatus, ReaderStatus

from hub.cli import COMMANDS, main
from hub.cli.config_command import MASKED, sample_file
from hub.cli.top import page_text
from hub.config import Settings
from tests.support.certificates import certify
from tests.support.hubs import REGISTRATION, scope_requests
from tests.support.nats_servers import free_port
from tests.support.processes import Serving, run_hub, serving, starting

TOKEN = "0123456789abcdef0123"


async def registered(hub: Serving, admin_key: str, name: str) -> str:
    """A new integration with a stream that is open; returns its id."""
    fields: dict[str, Any] = REGISTRATION | {"scopes": scope_requests("TICKET_CREATED"), "display_name": name}
    request = admin_service_pb2.RegisterIntegrationRequest(**fields)
    reply = await hub.caller(admin_key).call("AdminService/RegisterIntegration", request)
    caller = hub.caller(reply.key.secret)
    await caller.subscribe(subscription_id="main")
    return str(reply.integration.integration_id)


async def test_top_prints_one_page_and_lines_of_json(tmp_path: Path) -> None:
    """With an admin's key from the environment; the reader is listed by its names."""
    async with serving(cwd=tmp_path) as hub:
        keys = await hub.first_keys()
        integration_id = await registered(hub, keys["HUB_ADMIN_KEY"], "Statistics")
        words = ("top", "--once", "--address", f"127.0.0.1:{hub.port}")
        shown = await run_hub(*words, cwd=tmp_path, HUB_ADMIN_KEY=keys["HUB_ADMIN_KEY"])
        assert (shown.code, shown.err) == (0, "")
        assert "sqlite, current" in shown.out
        assert integration_id in shown.out
        lines = await run_hub(*words, "--json", cwd=tmp_path, HUB_ADMIN_KEY=keys["HUB_ADMIN_KEY"])
        [reader] = json.loads(lines.out)["readers"]
        assert (reader["integration_id"], reader["subscription_id"]) == (integration_id, "main")
        refused = await run_hub(*words, cwd=tmp_path, HUB_ADMIN_KEY=keys["HUB_BOT_KEY"])
        assert (refused.code, refused.out) == (1, "")
        assert "ROLE_NOT_ALLOWED" in refused.err


async def test_top_without_a_hub_exits_with_status_1(tmp_path: Path) -> None:
    """With one line and status 1."""
    key = "tkt_admin_UUHtlkRN8G9w_UBUh7SXHiwBPBbWWzjJwfHi4jd3y0OdDm5"
    ended = await run_hub("top", "--address", "127.0.0.1:1", cwd=tmp_path, HUB_ADMIN_KEY=key)
    assert ended.code == 1
    assert "UNAVAILABLE" in ended.err


def test_names_cannot_control_the_terminal() -> None:
    """Escapes and markup in what others wrote are shown as text."""
    evil = "\x1b[2J[red]x[/red]\u202e"
    reader = ReaderStatus(integration_id="a", integration_name=evil, subscription_id=evil)
    shown = page_text(HubStatus(readers=[reader], replica=evil))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[red]" in shown


def test_top_shows_endpoints_and_which_of_them_fails() -> None:
    """How many are in which state; among the readers, since when one of them fails."""
    one = ReaderStatus(integration_id="a", endpoint_id="audit", failing_since=Timestamp(seconds=1_900_000_000))
    two = ReaderStatus(integration_id="a", endpoint_id="stats")
    shown = page_text(HubStatus(readers=[one, two], endpoints={"FAILING": 1, "ACTIVE": 4, "PAUSED": 0}))
    lines = {line.split()[0]: line for line in shown.splitlines() if line}
    assert lines["endpoints"].split(maxsplit=1)[1].strip() == "4 ACTIVE, 1 FAILING"
    [failing] = [line for line in shown.splitlines() if "endpoint audit" in line]
    assert "FAILING since 2030-03-17T17:46:40Z" in failing
    [well] = [line for line in shown.splitlines() if "endpoint stats" in line]
    assert "delivers" in well


async def test_healthcheck_reports_by_its_exit_status(tmp_path: Path) -> None:
    """0 while the hub serves, 1 without an answer, 2 if http_listen is off; TLS needs no name."""
    async with serving(cwd=tmp_path, HUB_HTTP_LISTEN="127.0.0.1:0") as hub:
        address = f"127.0.0.1:{hub.log[-1]['http_port']}"
        for words in (("healthcheck",), ("healthcheck", "--live")):
            well = await run_hub(*words, cwd=tmp_path, HUB_HTTP_LISTEN=address)
            assert (well.code, well.out, well.err) == (0, "ok\n", "")
    away = await run_hub("healthcheck", cwd=tmp_path, HUB_HTTP_LISTEN=address)
    assert (away.code, away.out[: len("no answer")]) == (1, "no answer")
    off = await run_hub("healthcheck", cwd=tmp_path, HUB_HTTP_LISTEN="off")
    assert off.complaint == "http_listen is off: a health check needs it"


OF_SERVING = {
    "HUB_LISTEN": "0.0.0.0:50051",  # without TLS
    "HUB_DIRECTORY_LISTEN": "nowhere",
    "HUB_TLS_CLIENT_CA": "missing.pem",
    "HUB_METRICS_TOKEN_FILE": "missing",
    "HUB_WEBHOOK_PORTS": "none",
}
"""Settings of which each is wrong, and which only a hub that serves uses."""


async def test_commands_that_serve_nothing_need_no_settings_for_serving(tmp_path: Path) -> None:
    """An image sets HUB_LISTEN for its hub: `hub init` in it needs no certificate."""
    there, new = {"HUB_HTTP_LISTEN": f"127.0.0.1:{free_port()}"}, {"HUB_DATA_DIR": "new"}
    steps: dict[tuple[str, ...], tuple[int, dict[str, str]]] = {
        ("init",): (0, {}),
        ("create-key", "--role", "bot"): (0, {}),
        ("rotate-secret",): (0, {}),
        ("backup", "hub.backup"): (0, {}),
        ("export", "hub.export"): (0, {}),
        ("restore", "hub.backup", "--data-dir", "restored"): (0, {}),
        ("import", "hub.export", "--data-dir", "imported"): (0, {}),
        ("doctor", "--verify"): (0, {}),
        ("healthcheck",): (1, there),  # nobody serves there: it has asked
        ("config",): (2, {}),
        ("doctor",): (2, {}),
        ("serve",): (2, new),
    }
    loading = {name for name in COMMANDS if takes_settings(name)}
    assert {words[0] for words in steps} == loading
    for words, (code, more) in steps.items():
        ended = await run_hub(*words, cwd=tmp_path, **OF_SERVING | more)
        assert ended.code == code, (words, ended.err)
        assert ("metrics_token_file: missing" in ended.err) == (code == 2), words
    assert not (tmp_path / "new").exists()


def takes_settings(name: str) -> bool:
    """Whether a command reads the settings."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return any(parameter.name == "config_file" for parameter in command.params)


async def test_healthcheck_uses_tls_although_its_files_are_unreadable(tmp_path: Path) -> None:
    """Also where the hub asks for a certificate; files of garbage change nothing where it does not."""
    made = certify("hub")
    for name, data in (("hub.pem", made.pem), ("hub.key", made.key_pem), ("ca.pem", made.pem)):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_bytes(data)
    files = {"HUB_TLS_CERTIFICATE": "hub.pem", "HUB_TLS_KEY": "hub.key"}
    async with serving(cwd=tmp_path, HUB_HTTP_LISTEN="127.0.0.1:0", **files, HUB_TLS_CLIENT_CA="ca.pem") as hub:
        asked_at = files | {"HUB_HTTP_LISTEN": f"127.0.0.1:{hub.log[-1]['http_port']}"}
        assert (await run_hub("healthcheck", cwd=tmp_path, **asked_at)).out == "ok\n"
    async with serving(cwd=tmp_path, HUB_HTTP_LISTEN="127.0.0.1:0", **files) as hub:
        asked_at = files | {"HUB_HTTP_LISTEN": f"127.0.0.1:{hub.log[-1]['http_port']}"}
        for become in (b"garbage", None):
            for name in ("hub.pem", "hub.key"):
                (tmp_path / name).write_bytes(become) if become else (tmp_path / name).unlink()
            ended = await run_hub("healthcheck", cwd=tmp_path, **asked_at)
            assert (ended.code, ended.out, ended.err) == (0, "ok\n", "")


async def test_config_shows_the_source_of_each_setting(tmp_path: Path) -> None:
    """Flag, variable, file, default; secrets are masked; what is wrong is refused as `hub serve` refuses it."""
    (tmp_path / "hub.toml").write_text("retention = 7200.0\nmax_streams = 7\n")
    words = ("config", "--config", "hub.toml", "--max-streams", "9")
    shown = await run_hub(*words, cwd=tmp_path, HUB_METRICS_TOKEN=TOKEN, HUB_LOG_LEVEL="error")
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert "max_streams = 9  # flag" in lines
    assert "retention = 7200.0  # hub.toml" in lines
    assert 'log_level = "error"  # HUB_LOG_LEVEL' in lines
    assert f'metrics_token = "{MASKED}"  # HUB_METRICS_TOKEN' in lines
    assert 'data_dir = "data"  # default' in lines
    assert TOKEN not in shown.out
    assert tomllib.loads(shown.out)["max_streams"] == 9
    wrong = await run_hub("config", "--max-streams", "0", cwd=tmp_path)
    assert wrong.complaint == "max_streams: must be at least 1"


async def test_config_names_the_file_of_a_secret(tmp_path: Path) -> None:
    """The secret is masked, whether a variable or the settings file names its file."""
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "hub.toml").write_text('metrics_token_file = "token"\n')
    of_file = await run_hub("config", "--config", "hub.toml", cwd=tmp_path)
    of_variable = await run_hub("config", cwd=tmp_path, HUB_METRICS_TOKEN_FILE="token")
    for shown, source in ((of_file, "hub.toml"), (of_variable, "HUB_METRICS_TOKEN_FILE")):
        lines = shown.out.splitlines()
        assert f'metrics_token = "{MASKED}"  # metrics_token_file' in lines
        assert f'metrics_token_file = "token"  # {source}' in lines
        assert TOKEN not in shown.out


async def test_the_sample_file_has_every_setting(tmp_path: Path) -> None:
    """With its default: used as it is, it changes nothing."""
    sample = sample_file()
    for name in Settings.model_fields:
        assert f"\n# {name} = " in sample
    defaults = [line[2:] for line in sample.splitlines() if " = " in line and not line.endswith('""')]
    (tmp_path / "hub.toml").write_text("\n".join(line for line in defaults if line.split(" = ")[0].isidentifier()))
    shown = await run_hub("config", "--config", "hub.toml", cwd=tmp_path)
    plain = await run_hub("config", cwd=tmp_path)
    assert shown.out.replace("# hub.toml", "# default") == plain.out


async def test_top_runs_until_a_signal(tmp_path: Path) -> None:
    """`hub top --json` prints a line a second until it is stopped."""
    async with serving(cwd=tmp_path) as hub:
        key = (await hub.first_keys())["HUB_ADMIN_KEY"]
        words = ("top", "--json", "--interval", "1", "--address", f"127.0.0.1:{hub.port}")
        async with starting(*words, cwd=tmp_path, HUB_ADMIN_KEY=key) as process, asyncio.timeout(30):
            assert process.stdout is not None
            for _ in range(2):
                assert json.loads(await process.stdout.readline())["version"]
            process.terminate()
            assert await process.wait() == 0
