"""The hub comes to a cluster with decentralised authentication, by a credentials file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub import config
from hub.errors import StartError
from hub.storage.jetstream import connection as wire
from hub.storage.jetstream.credentials import Credentials
from tests.jetstream.test_nats_access import reaches
from tests.support.nats_jwt import Realm
from tests.support.nats_servers import Server


@pytest.fixture
def realm() -> Realm:
    """Who may come in."""
    return Realm()


@pytest.fixture
def server(tmp_path: Path, realm: Realm) -> Iterator[Server]:
    """A server that lets in who can show that an account vouches for them."""
    server = Server(tmp_path / "nats", extra=realm.configuration)
    server.start()
    yield server
    server.kill()


async def test_a_credentials_file_works(
    server: Server, realm: Realm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of the account can store; a client without credentials, or of another operator, is refused."""
    realm.let_in(tmp_path / "hub.creds")
    assert await reaches(server.url, nats_credentials=tmp_path / "hub.creds")
    monkeypatch.setattr(wire, "CONNECT_TIME", 2.0)
    Realm().let_in(tmp_path / "other.creds")
    for flags in ({}, {"nats_credentials": tmp_path / "other.creds"}):
        with pytest.raises(StartError, match=r"(?i)authorization violation"):
            await reaches(server.url, **flags)


async def test_a_replaced_credentials_file_is_read_at_the_next_connection(realm: Realm, tmp_path: Path) -> None:
    """A file that cannot be read changes nothing."""
    file = tmp_path / "hub.creds"
    realm.let_in(file)
    credentials = Credentials(file)
    first = credentials.jwt()
    realm.let_in(file)
    assert (second := credentials.jwt()) != first
    for content in ("", file.read_text().replace("SU", "SA")):
        file.write_text(content)
        assert credentials.jwt() == second
    file.unlink()
    assert credentials.jwt() == second


@pytest.mark.parametrize("content", [None, "", "SUAA", "wrong checksum", "no seed"])
async def test_an_invalid_credentials_file_ends_the_start(tmp_path: Path, realm: Realm, content: str | None) -> None:
    """With a line that names the setting, at once, and without what is in it."""
    file = tmp_path / "hub.creds"
    realm.let_in(file)
    whole = file.read_text()
    seed = whole.splitlines()[-2]
    broken = {
        "wrong checksum": whole.replace(seed, seed[:-1] + ("A" if seed[-1] != "A" else "E")),
        "no seed": whole.replace("BEGIN USER", "BEGIN OTHER"),
    }
    if content is None:
        file.unlink()
    else:
        file.write_text(broken.get(content, content))
        file.chmod(0o600)
    with pytest.raises(StartError, match=r"^nats_credentials: .*hub.creds(: No such file| contains no)") as refused:
        await wire.NatsConnection.connect(config.load({"storage": "nats://127.0.0.1:1", "nats_credentials": file}))
    assert seed not in str(refused.value)
