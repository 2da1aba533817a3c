"""What stands in deploy/: the unit with its notify socket, the sample settings, the image's recipe."""

import asyncio
import configparser
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tickets.hub.v1 import directory_service_pb2

from hub.cli.config_command import sample_file
from tests.operations.prometheus import ROOT
from tests.support.processes import serving

DEPLOY = ROOT / "deploy"
PATIENCE = 30.0


def unit() -> configparser.SectionProxy:
    """The [Service] section; of a key that stands twice the last one."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    parser.read(DEPLOY / "hub.service")
    return parser["Service"]


class NotifySocket:
    """The socket of a supervisor."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0)

    async def told(self, word: str) -> None:
        """Wait until a message says this; fails where none does."""
        async with asyncio.timeout(PATIENCE):
            while word not in (await asyncio.get_running_loop().sock_recv(self._socket, 4096)).decode().split("\n"):
                pass

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


async def test_the_systemd_unit_starts_the_hub_and_is_notified(tmp_path: Path) -> None:
    """ExecStart's words start it; READY, WATCHDOG and STOPPING come over the notify socket."""
    service = unit()
    assert service["Type"] == "notify"
    _, command, *words = shlex.split(service["ExecStart"])
    assert command == "serve"
    (tmp_path / "hub.toml").write_text(sample_file())
    words = [word.replace("/etc/hub/hub.toml", "hub.toml") for word in words]
    supervisor = NotifySocket(tmp_path / "notify")
    variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    async with serving(*words, cwd=tmp_path, **variables) as hub:
        for word in ("READY=1", "WATCHDOG=1", "WATCHDOG=1"):
            await supervisor.told(word)
        stopping = asyncio.create_task(hub.stop())
        await supervisor.told("STOPPING=1")
        assert (await stopping).code == 0
    supervisor.close()


@pytest.mark.parametrize("listens", [True, False])
async def test_the_hub_works_without_a_listening_supervisor(tmp_path: Path, listens: bool) -> None:  # noqa: FBT001  pytest
    """Its socket is full, or gone: the hub serves on."""
    supervisor = NotifySocket(tmp_path / "notify") if listens else None
    variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000"}
    async with serving(cwd=tmp_path, **variables) as hub:
        keys = await hub.first_keys()
        admin = hub.caller(keys["HUB_ADMIN_KEY"])
        for _ in range(20):  # a thousand messages a second by now, of which the kernel keeps ten
            await admin.call("DirectoryService/ListScopes", directory_service_pb2.ListScopesRequest())
            await asyncio.sleep(0.01)
        assert (await hub.stop()).code == 0
    if supervisor is not None:
        supervisor.close()


def test_the_unit_keeps_the_hub_in_its_sandbox() -> None:
    """What it may write is its state directory; it gains no privilege."""
    service = unit()
    expected = {"ProtectSystem": "strict", "NoNewPrivileges": "yes", "StateDirectoryMode": "0700", "UMask": "0077"}
    assert expected.items() <= dict(service).items()
    assert service["CapabilityBoundingSet"] == ""
    assert service["User"] != "root"


def test_systemd_accepts_the_unit() -> None:
    """Where systemd is installed it scores the unit as well sandboxed."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not installed")
    command = [program, "security", "--offline=true", "--threshold=30", str(DEPLOY / "hub.service")]
    scored = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603  ours
    assert scored.returncode == 0, scored.stdout[-1000:]


def test_the_sample_settings_are_fresh() -> None:
    """Else run `make metrics-page`."""
    assert (DEPLOY / "hub.toml").read_text() == sample_file() + "\n"


def test_hadolint_accepts_the_containerfile() -> None:
    """The recipe, as hadolint reads it."""
    command = [str(Path(sys.executable).parent / "hadolint"), str(DEPLOY / "Containerfile")]
    linted = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603  ours
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_containerfile_copies_existing_files_and_is_not_root() -> None:
    """Each COPY names what is there; the hub runs as a user of its own; `hub healthcheck` asks its health."""
    recipe = (DEPLOY / "Containerfile").read_text()
    for words in re.findall(r"^COPY (?!--from)(.+)$", recipe, re.MULTILINE):
        *sources, _ = words.split()
        assert all((ROOT / source).exists() for source in sources), words
    assert re.search(r"^USER (?!root|0\b)", recipe, re.MULTILINE)
    assert 'HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["hub", "healthcheck"]' in recipe
    assert "--require-hashes" in recipe
