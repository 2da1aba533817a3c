"""SIGHUP: a running hub reloads its certificate and log level, and never ends from it."""

import asyncio
import json
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from structlog.testing import capture_logs

from hub.cli.serve import _reload_on_signal
from hub.config import Settings
from tests.support.certificates import Certified, certify
from tests.support.hubs import RunningHub, until
from tests.support.processes import PATIENCE, Serving, run_hub, serving

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


async def said_after_signal(hub: Serving) -> str:
    """Reload; returns the problem, or "" if there is none."""
    hub.process.send_signal(signal.SIGHUP)
    assert hub.process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while "reloaded" not in (line := json.loads(await hub.process.stderr.readline()))["event"]:
            hub.log.append(line)
    return str(line.get("problem", ""))


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.BrainpoolP256R1()], ids=lambda curve: str(curve.name))
async def test_a_certificate_that_grpc_rejects_is_not_reported_as_loaded(
    tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    """GRPC silently keeps the former one, and the hub would log "reloaded" until that one has expired."""
    first = certify("first")
    write_files(tmp_path, first)
    async with serving("--config", "hub.toml", cwd=tmp_path, PYTHONUNBUFFERED="1") as hub:
        write_files(tmp_path, certify("second", curve=curve))
        assert "gRPC takes neither the certificate nor its key" in await said_after_signal(hub)
        assert shown_by(hub) == der(first)
        assert (await hub.stop()).code == 0


async def test_a_certificate_with_an_unknown_curve_does_not_end_reloading(tmp_path: Path) -> None:
    """The next signal, with valid files, is answered."""
    first, second = certify("first"), certify("second")
    write_files(tmp_path, first)
    p256, unknown = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030106")
    strange = ssl.DER_cert_to_PEM_cert(der(certify("strange")).replace(p256, unknown)).encode()
    async with serving("--config", "hub.toml", cwd=tmp_path) as hub:
        (tmp_path / "hub.pem").write_bytes(strange + first.pem)
        assert "must begin with the hub's own certificate" in await said_after_signal(hub)
        write_files(tmp_path, second)
        assert await said_after_signal(hub) == ""
        assert shown_by(hub) == der(second)
        assert (await hub.stop()).code == 0


@pytest.mark.parametrize("count", ["9" * 5_000, "[" * 10_000])
async def test_settings_that_crash_the_parser_are_reported(tmp_path: Path, count: str) -> None:
    """A number with too many digits, or lists nested too deeply: at the start, and at a reload."""
    write_files(tmp_path, certify("hub"))
    async with serving("--config", "hub.toml", cwd=tmp_path) as hub:
        (tmp_path / "hub.toml").write_text(f"max_streams = {count}")
        assert (await said_after_signal(hub)).startswith("settings file hub.toml: ")
        assert (await run_hub("config", "--config", "hub.toml", cwd=tmp_path)).complaint.startswith(
            "settings file hub.toml: "
        )
        assert (await hub.stop()).code == 0


async def test_an_internal_error_does_not_end_reloading(hub: RunningHub) -> None:
    """It is logged, and the next signal is answered."""

    def read() -> Settings:
        raise RuntimeError("a fault")

    signalled = asyncio.Event()
    with capture_logs() as lines:
        reloading = asyncio.create_task(_reload_on_signal(hub.hub, hub.settings, read, signalled))
        for count in (1, 2):
            signalled.set()
            await until(lambda: len(lines) == count or reloading.done())  # noqa: B023  it is awaited at once
        reloading.cancel()
    assert [(line["event"], line["problem"]) for line in lines] == [("not reloaded", "a fault of the hub")] * 2


async def test_all_listeners_get_the_new_certificate_or_none(tmp_path: Path) -> None:
    """A key that is too short for the HTTP listener is no certificate of gRPC's either."""
    first = certify("first")
    write_files(tmp_path, first)
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505  that is what is wrong with it
    async with serving("--config", "hub.toml", cwd=tmp_path, HUB_HTTP_LISTEN="127.0.0.1:0") as hub:
        (tmp_path / "hub.pem").write_bytes(self_signed(key).public_bytes(Encoding.PEM))
        (tmp_path / "hub.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        assert "cannot be used for http_listen" in await said_after_signal(hub)
        assert shown_by(hub) == der(first)
        assert (await hub.stop()).code == 0


def self_signed(key: rsa.RSAPrivateKey) -> x509.Certificate:
    """A certificate of the key, like `certify` makes of others."""
    made = certify("short").certificate
    return (
        x509.CertificateBuilder(made.subject, made.subject, key.public_key(), made.serial_number)
        .not_valid_before(made.not_valid_before_utc)
        .not_valid_after(made.not_valid_after_utc)
        .sign(key, SHA256())
    )


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
