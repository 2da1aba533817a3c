"""Secrets from files: each setting has a twin that names one; a file that others can read is refused."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from hub import config, secret_files
from hub.errors import StartError
from tests.support.hubs import RunningHub
from tests.support.processes import run_hub, serving

SECRET = "0123456789abcdef0123456789abcdef and more"
KEY = "tkt_bot_AbCdEfGhIjKl_0123456789abcdefghijABCDEFGHIJKLMN"


def laid(path: Path, text: str = SECRET, mode: int = 0o600) -> Path:
    """A file with a text, of a mode."""
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("name", config.SECRETS)
def test_every_secret_can_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """By variable and in the settings file; blanks, a line break and a byte order mark around it do not count."""
    file = laid(tmp_path / "secret", f"\ufeff{SECRET}\r\n")
    assert getattr(config.load({f"{name}_file": str(file)}), name).get_secret_value() == SECRET
    monkeypatch.setenv(f"HUB_{name.upper()}_FILE", str(file))
    assert getattr(config.load(), name).get_secret_value() == SECRET
    monkeypatch.setenv(f"HUB_{name.upper()}", SECRET)
    with pytest.raises(StartError, match=f"{name} and {name}_file are both set"):
        config.load()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "must contain only the secret, on one line"),
        ("\n", "must contain only the secret, on one line"),
        (f"{SECRET}\n{SECRET}", "must contain only the secret, on one line"),
        ("too short", "must have at least 32 characters"),
        (None, "No such file or directory"),
    ],
)
async def test_an_invalid_secret_file_ends_the_start(tmp_path: Path, content: str | None, complaint: str) -> None:
    """With what is wrong with it; nothing is made."""
    if content is not None:
        laid(tmp_path / "file", content)
    ended = await run_hub("serve", cwd=tmp_path, HUB_SECRET_FILE="file")
    assert complaint in ended.complaint
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["HUB_SECRETS_FILE", "HUB_ADMIN_KEYS_FILE", "HUB_ANYTHING_FILE"])
async def test_an_unknown_file_variable_is_refused(tmp_path: Path, name: str) -> None:
    """A hub that ignored it would make a secret of its own; the complaint says which names there are."""
    for command in (("serve",), ("init",), ("emit", "ticket_closed", "--guild", "1")):
        ended = await run_hub(*command, cwd=tmp_path, **{name: "file"})
        assert ended.complaint.startswith(f"unknown variable {name}: files are named by HUB_ADMIN_KEY_FILE")
    assert list(tmp_path.iterdir()) == []


async def test_the_hub_takes_its_secret_from_a_file(tmp_path: Path) -> None:
    """It is the same one as in the variable, and none is kept beside the store."""
    laid(tmp_path / "file")
    assert (await run_hub("init", cwd=tmp_path, HUB_SECRET_FILE="file")).code == 0
    assert not (tmp_path / "data" / "secret").exists()
    async with serving(cwd=tmp_path, HUB_SECRET=SECRET) as hub:
        assert (await hub.stop()).code == 0


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o640, 0o660, 0o602, 0o601])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """Of an ordinary user, also where it is the group that can; the complaint says what to do."""
    file = laid(tmp_path / "secret", mode=mode)
    owned_by(monkeypatch, 1000)
    with pytest.raises(StartError, match=f"mode 0{mode:o}.: chmod 600 {file}"):
        secret_files.read_secret(file, "secret_file")


@pytest.mark.parametrize(("mode", "accepted"), [(0o640, True), (0o440, True), (0o400, True), (0o644, False)])
def test_a_file_of_root_may_be_readable_by_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, mode: int, accepted: bool
) -> None:
    """That is how systemd and Kubernetes hand secrets to a service; others must not read it."""
    file = laid(tmp_path / "secret", mode=mode)
    owned_by(monkeypatch, 0)
    if accepted:
        assert secret_files.read_secret(file, "secret_file") == SECRET
    else:
        with pytest.raises(StartError, match="others can read it"):
            secret_files.read_secret(file, "secret_file")


def owned_by(monkeypatch: pytest.MonkeyPatch, user: int) -> None:
    """Have every file belong to a user: a test cannot give files away unless it runs as root."""
    real = Path.stat

    def fake(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = list(real(path, follow_symlinks=follow_symlinks))
        found[stat.ST_UID] = user
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", fake)


@pytest.mark.parametrize("name", ["tls_key", "nats_tls_key", "nats_credentials", "nats_password_file", "secret_file"])
def test_every_setting_that_names_a_secret_is_checked(tmp_path: Path, name: str) -> None:
    """Private keys and credentials are secrets, too."""
    file = laid(tmp_path / "file", mode=0o644)
    others = {"tls_key": "tls_certificate", "nats_tls_key": "nats_tls_certificate"}
    flags = {name: str(file)} | ({others[name]: str(file)} if name in others else {})
    with pytest.raises(StartError, match=f"{name}: {file} contains a secret, and others can read it"):
        config.load(flags)
    file.chmod(0o600)
    assert config.load(flags)


@pytest.mark.parametrize("line", [f'secret = "{SECRET}"', 'nats_token = "t"', 'storage = "nats://u:p@h:1"'])
def test_a_settings_file_with_a_secret_is_checked(tmp_path: Path, line: str) -> None:
    """One without a secret may be read by everyone."""
    file = laid(tmp_path / "hub.toml", line, 0o644)
    with pytest.raises(StartError, match=r"settings file: .* others can read it"):
        config.load(file=file)
    assert config.load(file=laid(tmp_path / "open.toml", "max_streams = 3", 0o644)).max_streams == 3


async def test_the_stores_own_secret_is_checked(tmp_path: Path) -> None:
    """A start with a secret file that others can read says so, and serves nothing."""
    assert (await run_hub("init", cwd=tmp_path)).code == 0
    (tmp_path / "data" / "secret").chmod(0o644)
    assert "others can read it (mode 0644): chmod 600" in (await run_hub("serve", cwd=tmp_path)).complaint


async def test_every_key_file_variable_that_a_command_names_works(hub: RunningHub, tmp_path: Path) -> None:
    """Without a key a command names a variable for a file; with that variable it runs."""
    keys = {("top", "--once"): hub.admin.key, ("emit", "ticket_closed", "--guild", "41"): hub.bot.key}
    for words, key in keys.items():
        asking = await run_hub(*words, "--address", hub.address, cwd=tmp_path)
        variable = asking.complaint.split()[-1]
        file = laid(tmp_path / variable, key)
        ended = await run_hub(*words, "--address", hub.address, cwd=tmp_path, **{variable: str(file)})
        assert (ended.code, ended.err) == (0, "")


async def test_callers_take_their_key_from_a_file(hub: RunningHub, tmp_path: Path) -> None:
    """By flag and by variable; both at once, and a file that others can read, are refused."""
    words = ("emit", "ticket_closed", "--guild", "41", "--address", hub.address)
    file = laid(tmp_path / "key", f"\ufeff{hub.bot.key}\n")
    emitted = await run_hub(*words, cwd=tmp_path, HUB_BOT_KEY_FILE=str(file))
    assert emitted.code == 0, emitted.err
    both = await run_hub(*words, cwd=tmp_path, HUB_BOT_KEY_FILE=str(file), HUB_BOT_KEY=KEY)
    assert both.complaint == "HUB_BOT_KEY and HUB_BOT_KEY_FILE are both set: set one of them"
    file.chmod(0o644)
    for flags, variables in ((("--key-file", str(file)), {}), ((), {"HUB_BOT_KEY_FILE": str(file)})):
        refused = await run_hub(*words, *flags, cwd=tmp_path, **variables)
        assert "others can read it" in refused.complaint
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o644)
    writing = asyncio.create_task(asyncio.to_thread(pipe.write_text, hub.bot.key))
    assert (await run_hub(*words, "--key-file", str(pipe), cwd=tmp_path)).code == 0
    await writing
