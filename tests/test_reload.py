"""SIGHUP: a running hub takes a new certificate and another log level, and never dies of it."""

import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.certificates import Certified, certify
from tests.support.processes import Serving, serving

SETTINGS = 'tls_certificate = "hub.pem"\ntls_key = "hub.key"\nlog_level = "{level}"\n'


def write_files(directory: Path, made: Certified, *, level: str = "info", more: str = "") -> None:
    """A certificate, its key, and the settings that name them."""
    (directory / "hub.pem").write_bytes(made.pem)
    (directory / "hub.key").touch(0o600)
    (directory / "hub.key").write_bytes(made.key_pem)
    (directory / "hub.toml").write_text(SETTINGS.format(level=level) + more)


def shown_by(hub: Serving) -> bytes:
    """The certificate that a new connection gets, as DER."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", hub.port), timeout=10))


def der(made: Certified) -> bytes:
    """A certificate in the form in which it is compared."""
    return made.certificate.public_bytes(Encoding.DER)


async def test_a_new_certificate_needs_no_restart(tmp_path: Path) -> None:
    """After SIGHUP new connections get the new certificate; a file that is wrong changes nothing and is logged."""
    first, second = certify("first"), certify("second")
    write_files(tmp_path, first)
    async with serving("--config", "hub.toml", cwd=tmp_path) as hub:
        assert shown_by(hub) == der(first)
        write_files(tmp_path, second)
        hub.process.send_signal(signal.SIGHUP)
        await hub.heard("reloaded")
        assert shown_by(hub) == der(second)
        assert shown_by(hub) == der(second)
        (tmp_path / "hub.key").write_bytes(first.key_pem)
        hub.process.send_signal(signal.SIGHUP)
        assert "is not the key of the certificate" in (await hub.heard("not reloaded"))["problem"]
        assert shown_by(hub) == der(second)
        assert (await hub.stop()).code == 0


async def test_the_log_level_needs_no_restart(tmp_path: Path) -> None:
    """After SIGHUP the level of the settings file holds; settings that need a restart are named, and a wrong file."""
    write_files(tmp_path, certify("hub"))
    async with serving("--config", "hub.toml", cwd=tmp_path) as hub:
        write_files(tmp_path, certify("hub"), more="max_streams = 7\n")
        hub.process.send_signal(signal.SIGHUP)
        assert (await hub.heard("changed settings need a restart"))["settings"] == ["max_streams"]
        (tmp_path / "hub.toml").write_text('log_level = "loud"\n')
        hub.process.send_signal(signal.SIGHUP)
        assert (await hub.heard("not reloaded"))["problem"].startswith("log_level: must be")
        write_files(tmp_path, certify("hub"), level="warning", more="max_streams = 7\n")
        hub.process.send_signal(signal.SIGHUP)
        await hub.heard("changed settings need a restart")
        ended = await hub.stop()
        assert (ended.code, "stopped" in ended.err) == (0, False)


@pytest.mark.parametrize("count", [1, 20])
async def test_a_hub_without_tls_survives_sighup(tmp_path: Path, count: int) -> None:
    """With nothing to read again the signal is answered with a line; many of them are as good as one."""
    async with serving(cwd=tmp_path) as hub:
        for _ in range(count):
            hub.process.send_signal(signal.SIGHUP)
        assert (await hub.heard("reloaded"))["tls"] is False
        assert (await hub.stop()).code == 0


def test_sighup_does_not_end_a_start(tmp_path: Path) -> None:
    """From the first moment on: a terminal that is closed, or a supervisor in a hurry, ends nothing."""
    code = (
        "import os, signal, sys\n"
        "from hub.cli import main, options\n"
        "read = options.read_settings\n"
        "def read_settings(*given):\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    return read(*given)\n"
        "options.read_settings = read_settings\n"
        "main(['serve', '--storage', 'nowhere'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False, timeout=30)  # noqa: S603  ourselves
    assert ended.returncode == 2
