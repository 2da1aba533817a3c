"""Who may speak to the hub at all: TLS, clients' certificates, and no plaintext beyond this machine."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from hub import config
from hub.api.server import Hub
from hub.errors import StartError
from tests.api.wire import ask, fails
from tests.conftest import Caller, StartHub


class Certified(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certify(name: str, authority: Certified | None = None) -> Certified:
    """A certificate for 127.0.0.1: by an authority, or by itself, then it is one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    )
    return Certified(builder.sign(authority.key if authority else key, SHA256()), key)


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


async def test_with_a_certificate_the_hub_speaks_tls_alone(start_hub: StartHub, files: Files) -> None:
    """Who trusts the authority gets through; who does not, or speaks plaintext, does not."""
    hub = await start_hub(**files.settings | {"tls_client_ca": None})
    key = hub.bot.key
    assert await reached(hub.address, key, grpc.ssl_channel_credentials(files.authority.pem))
    assert not await reached(hub.address, key, grpc.ssl_channel_credentials(certify("another").pem))
    assert not await reached(hub.address, key, None)


async def test_with_a_client_authority_clients_need_a_certificate(start_hub: StartHub, files: Files) -> None:
    """Only clients with a certificate of the authority get through; the key is asked for as ever."""
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
def test_plaintext_beyond_this_machine_is_refused(address: str, files: Files) -> None:
    """Settings with an address that others can reach need a certificate, or somebody who says so."""
    with pytest.raises(StartError, match="--insecure"):
        config.load({"listen": address})
    assert not config.load({"listen": address, "insecure": True}).is_loopback
    assert not config.load({"listen": address, **files.settings}).is_loopback


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"])
def test_plaintext_on_this_machine_is_allowed(address: str) -> None:
    """Loopback needs neither."""
    assert config.load({"listen": address}).is_loopback


@pytest.mark.parametrize("address", ["127.0.0.1.example:1", "localhost.example:1", "127.1:1", "[::ffff:8.8.8.8]:1"])
def test_what_only_looks_like_this_machine_does_not_count(address: str) -> None:
    """A name that begins like loopback is none."""
    with pytest.raises(StartError, match="--insecure"):
        config.load({"listen": address})


@pytest.mark.parametrize(
    "change",
    [{"tls_key": None}, {"tls_certificate": None}, {"tls_certificate": None, "tls_key": None}],
    ids=["no key", "no certificate", "authority alone"],
)
def test_half_of_tls_is_refused(files: Files, change: dict[str, None]) -> None:
    """Certificate, key and authority go together."""
    with pytest.raises(StartError, match="tls_"):
        config.load(files.settings | change)


async def test_a_certificate_that_cannot_be_read_is_named(files: Files, tmp_path: Path) -> None:
    """A missing file is told by its name, and nothing stays open."""
    flags = files.settings | {"tls_key": tmp_path / "gone.pem", "data_dir": tmp_path / "data", "listen": "127.0.0.1:0"}
    with pytest.raises(StartError, match=r"gone\.pem"):
        await Hub.start(config.load(flags))
    hub = await Hub.start(config.load({"data_dir": tmp_path / "data", "listen": "127.0.0.1:0"}))
    await hub.stop()


@pytest.mark.parametrize("name", ["tls_certificate", "tls_key", "tls_client_ca"])
async def test_a_file_that_is_no_certificate_is_refused(files: Files, tmp_path: Path, name: str) -> None:
    """A file with something else in it ends in one line, not in a hub that nobody can reach."""
    (tmp_path / "wrong.pem").write_text("no certificate")
    flags = files.settings | {name: tmp_path / "wrong.pem", "data_dir": tmp_path / "data", "listen": "127.0.0.1:0"}
    with pytest.raises(StartError, match=r"wrong\.pem|certificate"):
        await Hub.start(config.load(flags))
