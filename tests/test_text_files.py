"""Text files may begin with a byte order mark."""

import codecs
import ssl
from pathlib import Path

import pytest
from tickets.hub.v1 import directory_service_pb2

from hub import config
from hub.api.tls import read_files
from hub.errors import StartError
from hub.storage.jetstream.connection import _tls
from hub.storage.jetstream.credentials import Credentials
from hub.storage.sqlite.data_directory import DataDirectory
from tests.support.certificates import certify
from tests.support.nats_jwt import Realm
from tests.support.processes import run_hub, serving

MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16": b""}
"""How editors begin a file, by the encoding; that of UTF-16 is Python's own."""


def write(file: Path, text: str, encoding: str) -> Path:
    """Write a file as such an editor does, with its ends of lines."""
    file.touch(0o600)
    file.write_bytes(MARKS[encoding] + text.replace("\n", "\r\n").encode(encoding))
    return file


@pytest.fixture(params=MARKS)
def encoding(request: pytest.FixtureRequest) -> str:
    """What an editor writes."""
    return str(request.param)


def test_a_settings_file_may_have_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    """The settings file."""
    file = write(tmp_path / "hub.toml", "max_streams = 7\n# für alle\n", encoding)
    assert config.load({}, file).max_streams == 7


def test_certificates_may_have_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    """Certificate, key and authority: of the hub, and of the hub towards NATS."""
    made = certify("hub")
    chain = write(tmp_path / "hub.pem", made.pem.decode(), encoding)
    key = write(tmp_path / "hub.key", made.key_pem.decode(), encoding)
    flags = {"tls_certificate": chain, "tls_key": key, "tls_client_ca": chain}
    files = read_files(config.load(flags))
    assert files is not None
    assert files.chain.startswith(b"-----BEGIN")
    nats = config.load({f"nats_{name.replace('client_', '')}": path for name, path in flags.items()})
    assert isinstance(_tls(nats), ssl.SSLContext)


def test_the_secret_file_may_have_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    """The secret that was brought back with an editor."""
    directory = DataDirectory.open(tmp_path)
    write(tmp_path / "secret", "5a" * 32 + "\n", encoding)
    assert directory.secrets(None, may_make=False) == [b"\x5a" * 32]
    directory.close()


def test_nats_credentials_may_have_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    """The file of `nats_credentials`."""
    file = tmp_path / "hub.creds"
    Realm().let_in(file)
    plain = Credentials(file).jwt()
    write(file, file.read_text(), encoding)
    assert Credentials(file).jwt() == plain


async def test_a_backup_reads_a_secret_file_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    """A backup takes the secret from the same file."""
    await run_hub("init", cwd=tmp_path)
    file = tmp_path / "data" / "secret"
    write(file, file.read_text(), encoding)
    assert "and the hub's secret" in (await run_hub("backup", "b", cwd=tmp_path)).out


async def test_keys_and_events_may_have_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    """A file with a key, and one with events in UTF-8."""
    async with serving(cwd=tmp_path) as hub:
        key = (await hub.first_keys())["HUB_BOT_KEY"]
        write(tmp_path / "key", f"{key}\n", encoding)
        event = '{"guild_id": "81384788765712384", "ticket_created": {"creator_user_id": "53908232506183680"}}\n'
        write(tmp_path / "events", event, "utf-8")
        flags = ("--address", f"127.0.0.1:{hub.port}", "--key-file", "key")
        emitted = await run_hub("emit", *flags, "events", cwd=tmp_path)
        assert (emitted.code, emitted.out.count("\n")) == (0, 1), emitted.err
        await hub.caller(key).call("DirectoryService/ListScopes", directory_service_pb2.ListScopesRequest())


def test_a_binary_file_is_reported(tmp_path: Path) -> None:
    """The error names a binary file that is used as a certificate or as settings."""
    file = tmp_path / "binary"
    file.write_bytes(b"\x30\x82\xff\xfe")
    with pytest.raises(StartError, match="binary"):
        read_files(config.load({"tls_certificate": file, "tls_key": file}))
    with pytest.raises(StartError, match="binary"):
        config.load({}, file)
