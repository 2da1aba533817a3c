"""TLS, client certificates, and no plaintext beyond loopback."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from hub import app, config
from hub.api.tls import Certificates, read_files
from hub.app import Hub
from hub.clock import Clock
from hub.errors import StartError
from tests.support.calls import ask, fails
from tests.support.certificates import Certified, certify
from tests.support.hubs import Caller, StartHub, log_to_memory, until


class Files(NamedTuple):
    """An authority, the hub's certificate by it, and the settings that name the files."""

    authority: Certified
    settings: dict[str, Any]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """PEM files as an admin would have them."""
    authority = certify("authority")
    hub = certify("hub", authority)
    contents = {"tls_certificate": hub.pem, "tls_key": hub.key_pem, "tls_client_ca": authority.pem}
    settings = {name: tmp_path / f"{name}.pem" for name in contents}
    for name, path in settings.items():
        path.write_bytes(contents[name])
        path.chmod(0o600)
    return Files(authority, settings)


async def reached(address: str, key: str, credentials: grpc.ChannelCredentials | None) -> bool:
    """Whether a caller gets through to the hub; None: in plaintext."""
    make: Any = grpc.aio.insecure_channel if credentials is None else grpc.aio.secure_channel
    async with make(address, *([] if credentials is None else [credentials])) as channel:
        asked = ask(Caller(channel, key), "DirectoryService/ListScopes")
        if credentials is not None:
            try:
                return len((await asked).scopes) > 0
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  it may also get through
                return False
        assert (await fails(asked)).code() is grpc.StatusCode.UNAVAILABLE
        return False


async def test_a_hub_with_a_certificate_speaks_only_tls(start_hub: StartHub, files: Files) -> None:
    """A client that trusts the authority connects; one that does not, or speaks plaintext, is refused."""
    hub = await start_hub(**files.settings | {"tls_client_ca": None})
    key = hub.bot.key
    assert await reached(hub.address, key, grpc.ssl_channel_credentials(files.authority.pem))
    assert not await reached(hub.address, key, grpc.ssl_channel_credentials(certify("another").pem))
    assert not await reached(hub.address, key, None)


async def test_with_a_client_authority_clients_need_a_certificate(start_hub: StartHub, files: Files) -> None:
    """Only clients with a certificate of the authority connect; they need a key as well."""
    hub = await start_hub(**files.settings)

    def shown(client: Certified | None) -> grpc.ChannelCredentials:
        pair = (client.key_pem, client.pem) if client else (None, None)
        return grpc.ssl_channel_credentials(files.authority.pem, *pair)

    assert await reached(hub.address, hub.bot.key, shown(certify("client", files.authority)))
    assert not await reached(hub.address, hub.bot.key, shown(certify("client", certify("another"))))
    assert not await reached(hub.address, hub.bot.key, shown(None))
    async with grpc.aio.secure_channel(hub.address, shown(certify("client", files.authority))) as channel:
        error = await fails(ask(Caller(channel, ""), "DirectoryService/ListScopes"))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "[::]:50051", "192.0.2.1:50051", "hub.example:50051"])
def test_plaintext_on_other_addresses_than_loopback_is_refused(address: str, files: Files) -> None:
    """An address that others can reach needs a certificate, or an explicit setting."""
    with pytest.raises(StartError, match="--insecure"):
        config.load({"listen": address})
    assert not config.load({"listen": address, "insecure": True}).is_loopback
    assert not config.load({"listen": address, **files.settings}).is_loopback


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"])
def test_plaintext_on_loopback_is_allowed(address: str) -> None:
    """Loopback needs neither."""
    assert config.load({"listen": address}).is_loopback


@pytest.mark.parametrize("address", ["127.0.0.1.example:1", "localhost.example:1", "127.1:1", "[::ffff:8.8.8.8]:1"])
def test_names_that_only_begin_like_loopback_are_not_loopback(address: str) -> None:
    """For example 127.0.0.1.example."""
    with pytest.raises(StartError, match="--insecure"):
        config.load({"listen": address})


@pytest.mark.parametrize(
    "change",
    [{"tls_key": None}, {"tls_certificate": None}, {"tls_certificate": None, "tls_key": None}],
    ids=["no key", "no certificate", "authority alone"],
)
def test_an_incomplete_tls_configuration_is_refused(files: Files, change: dict[str, None]) -> None:
    """Certificate, key and authority go together."""
    with pytest.raises(StartError, match="tls_"):
        config.load(files.settings | change)


async def test_a_certificate_that_cannot_be_read_is_named(files: Files, tmp_path: Path) -> None:
    """The error names a missing file, and nothing stays open."""
    flags = files.settings | {"tls_key": tmp_path / "gone.pem", "data_dir": tmp_path / "data", "listen": "127.0.0.1:0"}
    with pytest.raises(StartError, match=r"gone\.pem"):
        await Hub.start(config.load(flags))
    hub = await Hub.start(config.load({"data_dir": tmp_path / "data", "listen": "127.0.0.1:0"}))
    await hub.stop()


@pytest.mark.parametrize("name", ["tls_certificate", "tls_key", "tls_client_ca"])
async def test_a_file_that_is_no_certificate_is_refused(files: Files, tmp_path: Path, name: str) -> None:
    """The start ends with one line, instead of a hub that no client can reach."""
    (tmp_path / "wrong.pem").write_text("no certificate")
    flags = files.settings | {name: tmp_path / "wrong.pem", "data_dir": tmp_path / "data", "listen": "127.0.0.1:0"}
    with pytest.raises(StartError, match=r"wrong\.pem|certificate"):
        await Hub.start(config.load(flags))


def start_error(files: Files, **change: Path) -> str:
    """Why a hub does not start with these files."""
    with pytest.raises(StartError) as error:
        read_files(config.load(files.settings | change))
    return str(error.value)


def test_a_key_that_does_not_match_its_certificate_is_reported(files: Files, tmp_path: Path) -> None:
    """The error names both files."""
    other = tmp_path / "other.pem"
    other.touch(0o600)
    other.write_bytes(certify("other").key_pem)
    told = start_error(files, tls_key=other)
    assert told == f"TLS: {other} is not the key of the certificate in {files.settings['tls_certificate']}"


def test_a_certificate_chain_in_the_wrong_order_is_reported(files: Files) -> None:
    """The hub's own certificate comes first."""
    chain = files.settings["tls_certificate"]
    chain.write_bytes(files.authority.pem + chain.read_bytes())
    assert "must begin with the hub's own certificate" in start_error(files)


def test_an_encrypted_private_key_is_reported(files: Files) -> None:
    """The start does not ask for a passphrase."""
    key = certify("hub").key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase"))
    files.settings["tls_key"].write_bytes(key)
    assert "encrypted" in start_error(files)


@pytest.mark.parametrize("name", ["tls_certificate", "tls_key", "tls_client_ca"])
def test_the_error_names_the_wrong_one_of_three_tls_files(files: Files, name: str) -> None:
    """Each of the three files in turn holds something else."""
    files.settings[name].write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert str(files.settings[name]) in start_error(files)


async def test_a_certificate_that_grpc_rejects_is_not_reported_as_a_port_in_use(files: Files, tmp_path: Path) -> None:
    """The error is about the certificate."""
    odd = certify("hub", files.authority, curve=ec.SECP256K1())
    files.settings["tls_certificate"].write_bytes(odd.pem)
    files.settings["tls_key"].write_bytes(odd.key_pem)
    with pytest.raises(StartError, match="certificate"):
        await Hub.start(config.load(files.settings | {"data_dir": tmp_path / "data", "listen": "127.0.0.1:0"}))


@pytest.mark.parametrize(
    ("listen", "why"), [("192.0.2.1:0", "Cannot assign requested address"), ("name.invalid:0", "not known")]
)
async def test_an_address_that_cannot_be_bound_is_reported_with_the_systems_reason(
    files: Files, tmp_path: Path, listen: str, why: str
) -> None:
    """The error says nothing of the certificate, which is valid."""
    with pytest.raises(StartError, match=why):
        await Hub.start(config.load(files.settings | {"data_dir": tmp_path / "data", "listen": listen}))


@pytest.mark.parametrize(
    ("times", "event"),
    [
        ({"ends": timedelta(minutes=-1), "begins": timedelta(days=-9)}, "a certificate has expired"),
        ({"ends": timedelta(days=13)}, "a certificate expires soon"),
        ({"begins": timedelta(days=1)}, "a certificate is not valid yet"),
        ({"ends": timedelta(days=15)}, None),
    ],
)
@pytest.mark.parametrize("name", ["tls_certificate", "tls_client_ca"])
async def test_certificates_that_expire_soon_are_a_warning(
    files: Files, monkeypatch: pytest.MonkeyPatch, times: dict[str, Any], event: str | None, name: str
) -> None:
    """Expired, expiring within 14 days, not yet valid: the warning names the file."""
    made = certify("hub", **times)
    files.settings[name].write_bytes(made.pem)
    if name == "tls_certificate":
        files.settings["tls_key"].write_bytes(made.key_pem)
    written = log_to_memory(monkeypatch)
    await Certificates(config.load(files.settings), Clock()).warn()
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    told = [(line["event"], line["level"], line["file"]) for line in lines]
    assert told == ([(event, "warning", str(files.settings[name]))] if event else [])


async def test_the_certificate_warning_is_repeated(
    start_hub: StartHub, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start and at every check: here the checks are a moment apart, by default a day."""
    monkeypatch.setattr(app, "DAY", 0.01)
    made = certify("hub", files.authority, ends=timedelta(days=13))
    files.settings["tls_certificate"].write_bytes(made.pem)
    files.settings["tls_key"].write_bytes(made.key_pem)
    written = log_to_memory(monkeypatch)
    await start_hub(**files.settings)
    await until(lambda: written.getvalue().count("a certificate expires soon") >= 3)
