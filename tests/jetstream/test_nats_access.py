"""How the hub comes to its cluster: as whom, over TLS, and what it says where that fails or where there is no room."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub import config
from hub.errors import StartError, StorageFull
from hub.storage.jetstream import connection as wire
from hub.storage.jetstream.log import JetStreamLog
from tests.support.certificates import certify
from tests.support.nats_servers import Server
from tests.support.stores import event, read_all

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server with some lines in its configuration."""
    started: list[Server] = []

    def one(**words: str) -> Server:
        started.append(Server(tmp_path / "nats", extra=words.get("extra", ""), sync=words.get("sync", "")))
        started[-1].start()
        return started[-1]

    yield one
    for server in started:
        server.kill()


async def reaches(url: str, **flags: Any) -> bool:  # noqa: ANN401  any setting
    """Whether the log opens with these settings, and stores."""
    log = await JetStreamLog.open(config.load({"storage": url, **flags}))
    try:
        return [one.position for one in await log.append([event("a")])] != []
    finally:
        await log.close()


async def fill(log: JetStreamLog) -> int:
    """Append until there is no room; returns how many events were stored."""
    for stored in range(100):
        try:
            await log.append([event(f"{stored}", bytes(20_000))])
        except StorageFull:
            return stored
    raise AssertionError("there is room without end")


async def test_user_and_password_work_in_the_url_and_the_settings(start: Start) -> None:
    """Both open the cluster; no setting that is shown holds the password."""
    server = start(extra='authorization { user: hub, password: "p@ss:word" }')
    url = server.url.replace("//", "//hub:p%40ss%3Aword@")
    assert await reaches(url)
    assert await reaches(server.url, nats_user="hub", nats_password="p@ss:word")
    settings = config.load({"storage": f"{url},other:hub@127.0.0.1:1"})
    assert settings.storage == f"{server.url},127.0.0.1:1"
    assert "p@ss" not in repr(settings)


async def test_a_token_works_in_the_url_and_the_settings(start: Start) -> None:
    """In the URL or in the settings."""
    server = start(extra="authorization { token: sesame }")
    assert await reaches(server.url.replace("//", "//sesame@"))
    assert await reaches(server.url, nats_token="sesame")


async def test_a_refused_login_is_reported_without_the_password(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password ends the start with a line that says so, without the password."""
    monkeypatch.setattr(wire, "CONNECT_TIME", 2.0)
    server = start(extra="authorization { user: hub, password: right }")
    with pytest.raises(StartError, match=r"(?i)authorization violation") as refused:
        await reaches(server.url.replace("//", "//hub:wrong@"))
    assert "wrong" not in str(refused.value)


async def test_a_refused_login_is_reported_although_the_connection_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the server's own error, not the reset of the next attempt."""
    monkeypatch.setattr(wire, "CONNECT_TIME", 2.0)
    tries = itertools.count()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if next(tries) == 0:
            writer.write(b'INFO {"server_id":"x","version":"2.12.0","max_payload":1048576,"headers":true}\r\n')
            await reader.readline()
            writer.write(b"-ERR 'Authorization Violation'\r\n")
            await writer.drain()
            await reader.read()
        writer.transport.abort()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StartError, match=r"(?i)authorization violation"):
            await reaches(f"nats://127.0.0.1:{port}")
    assert next(tries) > 1


async def test_an_unreachable_server_is_reported_with_its_address(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing listens the start ends with a line that names the address."""
    monkeypatch.setattr(wire, "CONNECT_TIME", 1.0)
    server = start()
    server.kill()
    with pytest.raises(StartError, match=f"127.0.0.1:{server.port} cannot be reached"):
        await reaches(server.url)


async def test_tls_and_client_certificates_work(start: Start, tmp_path: Path) -> None:
    """With the authority of the server's certificate, and the hub's own where the server asks for one."""
    authority, files = certify("authority"), {}
    for name in ("server", "hub"):
        certified = certify(name, authority)
        for kind, content in (("pem", certified.pem), ("key", certified.key_pem)):
            files[f"{name}.{kind}"] = tmp_path / f"{name}.{kind}"
            files[f"{name}.{kind}"].write_bytes(content)
            files[f"{name}.{kind}"].chmod(0o600)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    lines = f'cert_file: "{files["server.pem"]}", key_file: "{files["server.key"]}", ca_file: "{ca}", verify: true'
    server = start(extra=f"tls {{ {lines} }}")
    own = {"nats_tls_certificate": files["hub.pem"], "nats_tls_key": files["hub.key"]}
    assert await reaches(server.url.replace("nats:", "tls:"), nats_tls_ca=ca, **own)


async def test_a_full_store_refuses_appends_and_serves_reads(start: Start) -> None:
    """Appends are refused as STORAGE_FULL; what is there is read, and the replica stays current."""
    server = start(sync="always, max_file_store: 1MB")
    log = await JetStreamLog.open(config.load({"storage": server.url}))
    try:
        stored = await fill(log)
        with pytest.raises(StorageFull):
            await log.append([event(f"{stored}", bytes(20_000)), event("beside")])
        heard = log._replica.quorum._proved
        await log._replica.quorum.check_quorum()
        assert log._replica.quorum._proved > heard
        assert len(await read_all(log)) == stored
    finally:
        await log.close()
