"""The operators' HTTP listener: probes, who may scrape, names that are not ours, its port and its certificate."""

import asyncio
import signal
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from structlog.testing import capture_logs

from hub import config
from hub.app import Hub
from hub.errors import StartError
from hub.http import connection, listener, pages
from tests.operations.scraping import PATIENCE, Answer, get
from tests.support.certificates import Certified, certify
from tests.support.hubs import FakeClock, RunningHub, StartHub, require_embedded
from tests.support.processes import serving

TOKEN = "0123456789abcdef0123"


@pytest.fixture
async def watched(start_hub: StartHub) -> RunningHub:
    """A hub with an HTTP listener on a free port."""
    return await start_hub(http_listen="127.0.0.1:0")


async def test_probes_distinguish_liveness_from_readiness(watched: RunningHub) -> None:
    """Both say ok; once the store has failed the hub is not ready, and a restart by its liveness would be wrong."""
    require_embedded(watched)
    port = watched.hub.http.port
    assert [(await get(port, path)).status for path in ("/healthz", "/readyz")] == [200, 200]
    watched.hub.log._store._has_failed = True  # type: ignore[attr-defined]  # as the store does when it cannot go on
    answer = await get(port, "/readyz")
    assert (answer.status, answer.text) == (503, "the store has failed: a restart is needed\n")
    assert (await get(port, "/healthz")).status == 200
    assert "hub_store_failed 1.0" in (await get(port, "/metrics")).text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "a@127.0.0.1"])
async def test_requests_for_other_hosts_are_refused(watched: RunningHub, host: str) -> None:
    """A page whose name was rebound to loopback reads nothing, whatever the path."""
    for path in ("/metrics", "/healthz", "/nowhere"):
        answer = await get(watched.hub.http.port, path, Host=host)
        assert answer.status == 421
        assert "hub_" not in answer.text


async def test_requests_for_configured_hosts_are_served(start_hub: StartHub) -> None:
    """Addresses in digits, localhost, and the names of http_hosts, in any case and with any port."""
    hub = await start_hub(http_listen="127.0.0.1:0", http_hosts="hub.internal, hub.example")
    for host in ("localhost:1", "[::1]:80", "10.1.2.3", "Hub.Example:443", "hub.internal"):
        assert (await get(hub.hub.http.port, "/healthz", Host=host)).status == 200


async def test_unknown_paths_and_methods_are_refused(watched: RunningHub) -> None:
    """404 for another path, 405 for another method; no answer is kept by caches."""
    answer = await get(watched.hub.http.port, "/nowhere")
    assert (answer.status, answer.headers["Cache-Control"]) == (404, "no-store")
    async with aiohttp.ClientSession() as session:
        posted = await session.post(f"http://127.0.0.1:{watched.hub.http.port}/metrics")
        assert posted.status == 405


async def scraped_as(hub: RunningHub, key: str) -> Answer:
    """A scrape through a proxy, with a key."""
    return await get(hub.hub.http.port, "/metrics", X_Forwarded_For="192.0.2.1", Authorization=f"Bearer {key}")


async def test_behind_a_proxy_a_scrape_needs_a_key(start_hub: StartHub) -> None:
    """An admin's key or the token opens it; the bot's does not; probes need none."""
    hub = await start_hub(http_listen="127.0.0.1:0", metrics_token=TOKEN)
    assert (await get(hub.hub.http.port, "/metrics", X_Forwarded_For="192.0.2.1")).status == 401
    assert (await scraped_as(hub, TOKEN)).status == 200
    assert (await scraped_as(hub, hub.admin.key)).status == 200
    assert (await scraped_as(hub, hub.bot.key)).status == 403
    assert (await get(hub.hub.http.port, "/healthz", X_Forwarded_For="192.0.2.1")).status == 200


async def test_a_listener_for_other_machines_needs_a_key(start_hub: StartHub) -> None:
    """For every caller, loopback included; probes need none."""
    hub = await start_hub(http_listen="0.0.0.0:0", insecure=True, metrics_token=TOKEN)
    port = hub.hub.http.port
    assert [(await get(port, path)).status for path in ("/metrics", "/healthz", "/readyz")] == [401, 200, 200]
    assert (await get(port, "/metrics", Authorization=f"Bearer {TOKEN}")).status == 200


async def test_guesses_are_throttled(start_hub: StartHub) -> None:
    """After as many wrong keys as gRPC allows an address has to wait; a valid key still opens."""
    hub = await start_hub(FakeClock(), http_listen="127.0.0.1:0", max_failed_authentications=2, metrics_token=TOKEN)
    statuses = [(await scraped_as(hub, f"{TOKEN}{number}")).status for number in range(3)]
    assert statuses == [401, 401, 429]
    assert (await scraped_as(hub, TOKEN)).status == 200


async def test_a_key_with_non_ascii_characters_is_a_wrong_key(start_hub: StartHub) -> None:
    """It is refused and throttled as any other, also one of bytes that are no text."""
    hub = await start_hub(FakeClock(), http_listen="127.0.0.1:0", max_failed_authentications=2, metrics_token=TOKEN)
    for status in (b"401", b"401", b"429"):
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", hub.hub.http.port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nVia: a\r\nAuthorization: Bearer \xff\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 " + status)
            writer.close()


async def test_with_trusted_proxies_loopback_needs_a_key_too(start_hub: StartHub) -> None:
    """With a proxy in front, a connection from loopback may carry anyone's request."""
    hub = await start_hub(http_listen="127.0.0.1:0", trusted_proxies="127.0.0.1")
    assert (await get(hub.hub.http.port, "/metrics")).status == 401


async def test_a_port_in_use_is_reported(watched: RunningHub, tmp_path: Path) -> None:
    """The start fails with the setting's name, before it makes any keys."""
    address = f"127.0.0.1:{watched.hub.http.port}"
    flags = {"data_dir": tmp_path / "other", "listen": "127.0.0.1:0", "http_listen": address}
    with pytest.raises(StartError, match=rf"http_listen: cannot listen on {address}: address already in use"):
        await Hub.start(config.load(flags))
    again = await Hub.start(config.load(flags | {"http_listen": "off"}))
    assert again.first_keys
    assert again.http.port == 0
    await again.stop()


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"http_listen": "nowhere"}, "http_listen: must be host:port"),
        ({"http_listen": "127.0.0.1:65536"}, "http_listen: must be host:port"),
        ({"http_listen": "127.0.0.1:http"}, "http_listen: must be host:port"),
        ({"http_listen": "0.0.0.0:50080"}, "http_listen: '0.0.0.0:50080' is not loopback"),
        ({"http_hosts": "https://hub.example"}, "http_hosts: must be names without a port"),
        ({"metrics_token": "short"}, "metrics_token: must have at least 16 characters"),
    ],
)
def test_wrong_http_settings_are_reported(flags: dict[str, str], why: str) -> None:
    """Each names its setting; the token is not repeated."""
    with pytest.raises(StartError) as caught:
        config.load(flags)
    assert why in str(caught.value)
    assert "short" not in str(caught.value)


async def test_a_connection_without_a_request_is_closed(watched: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless header does not keep a connection; a proper request does."""
    monkeypatch.setattr(connection, "LIFETIME", 0.2)
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", watched.hub.http.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        assert await reader.read() == b""
        writer.close()


async def closed(reader: asyncio.StreamReader) -> bool:
    """Whether the other side closes without a word."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def test_connections_are_limited(watched: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than there may be is closed at once; when another has gone there is room again."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 1)
    port = watched.hub.http.port
    async with asyncio.timeout(PATIENCE):
        _, first = await asyncio.open_connection("127.0.0.1", port)
        reader, second = await asyncio.open_connection("127.0.0.1", port)
        assert await closed(reader)
        for writer in (first, second):
            writer.close()
        while True:
            try:
                assert (await get(port, "/healthz")).status == 200
                break
            except aiohttp.ClientError:
                await asyncio.sleep(0.01)


async def pipelining(port: int) -> asyncio.StreamWriter:
    """A peer that asks for all metrics again and again, and reads nothing."""
    with socket.socket() as small:
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        small.connect(("127.0.0.1", port))
        _, writer = await asyncio.open_connection(sock=small.dup(), limit=1)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
    return writer


async def test_a_peer_that_never_reads_is_cut_off(watched: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its place for as long as others, whatever it sends."""
    monkeypatch.setattr(connection, "LIFETIME", 0.5)
    writer = await pipelining(watched.hub.http.port)
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            await ask_on(writer)


async def ask_on(writer: asyncio.StreamWriter) -> None:
    """Ask until the connection is cut off."""
    while True:
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(0.05)
        await writer.drain()


async def test_a_peer_that_never_reads_does_not_delay_a_stop(watched: RunningHub) -> None:
    """The stop waits a moment for its answer, and then no longer."""
    writer = await pipelining(watched.hub.http.port)
    await asyncio.sleep(0.3)  # answers are on their way
    async with asyncio.timeout(PATIENCE):
        await watched.hub.http.stop()
    writer.close()


async def test_a_connection_has_one_request(watched: RunningHub) -> None:
    """The answer says so, a refusal too, and what was pipelined after it is not answered."""
    for path, status in (("/healthz", b"200"), ("/nowhere", b"404")):
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", watched.hub.http.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 2)
            answer = await reader.read()
            assert answer.count(b"HTTP/1.1 " + status) == answer.count(b"Connection: close") == 1
            writer.close()


async def test_connections_count_before_their_handshake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TLS, too, one more than there may be is closed at once, and a handshake that fails leaves its place."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 1)
    made = certify("hub")
    (tmp_path / "hub.pem").write_bytes(made.pem)
    (tmp_path / "hub.key").touch(0o600)
    (tmp_path / "hub.key").write_bytes(made.key_pem)
    files = {"tls_certificate": tmp_path / "hub.pem", "tls_key": tmp_path / "hub.key"}
    hub = await Hub.start(config.load(files | free(tmp_path)))
    async with asyncio.timeout(PATIENCE):
        _, silent = await asyncio.open_connection("127.0.0.1", hub.http.port)
        reader, second = await asyncio.open_connection("127.0.0.1", hub.http.port)
        assert await closed(reader)
        silent.write(b"this is no TLS\r\n\r\n")
        second.close()
        context = ssl.create_default_context(cadata=made.pem.decode())
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", hub.http.port, ssl=context)
                break
            except ConnectionError:
                await asyncio.sleep(0.01)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.read()).endswith(b"ok\n")
    for one in (silent, writer):
        one.close()
    await hub.stop()


def free(directory: Path) -> dict[str, object]:
    """Flags of a hub of its own, on free ports."""
    return {"data_dir": directory / "data", "listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0"}


def shown_at(port: int) -> bytes:
    """The certificate that a new connection gets, as DER."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port), timeout=10))


def der(made: Certified) -> bytes:
    """A certificate in the form in which it is compared."""
    return made.certificate.public_bytes(Encoding.DER)


async def test_a_certificate_is_replaced_and_an_invalid_one_is_not(tmp_path: Path) -> None:
    """After SIGHUP the listener shows the new certificate; files of garbage change nothing and are logged."""
    first, second = certify("first"), certify("second")
    (tmp_path / "hub.toml").write_text('tls_certificate = "hub.pem"\ntls_key = "hub.key"\n')
    (tmp_path / "hub.key").touch(0o600)

    def write(made: Certified) -> None:
        (tmp_path / "hub.pem").write_bytes(made.pem)
        (tmp_path / "hub.key").write_bytes(made.key_pem)

    write(first)
    async with serving("--config", "hub.toml", cwd=tmp_path, HUB_HTTP_LISTEN="127.0.0.1:0") as hub:
        port = hub.log[-1]["http_port"]
        assert await asyncio.to_thread(shown_at, port) == der(first)
        write(second)
        hub.process.send_signal(signal.SIGHUP)
        await hub.heard("reloaded")
        assert await asyncio.to_thread(shown_at, port) == der(second)
        for file, words in (("hub.key", "contains no private key"), ("hub.pem", "contains no certificate")):
            (tmp_path / file).write_bytes(b"garbage")
            hub.process.send_signal(signal.SIGHUP)
            told = await hub.heard("not reloaded")
            assert (told["level"], words in told["problem"]) == ("error", True)
            assert [await asyncio.to_thread(shown_at, one) for one in (port, hub.port)] == [der(second)] * 2
        assert (await hub.stop()).code == 0


def enters(port: int, authority: Certified, shown: Certified, directory: Path) -> bool:
    """Whether the listener answers one who shows a certificate."""
    (directory / "client.pem").write_bytes(shown.pem)
    (directory / "client.key").write_bytes(shown.key_pem)
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.load_cert_chain(directory / "client.pem", directory / "client.key")
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            secured.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return secured.recv(12) == b"HTTP/1.1 200"
    except (ssl.SSLError, ConnectionError):
        return False


async def test_a_replaced_client_authority_is_no_longer_trusted(tmp_path: Path) -> None:
    """After SIGHUP the certificates of the new one open the listener, and those of the former one do not."""
    made, first, second = certify("hub"), certify("first"), certify("second")
    one, other = certify("client", first), certify("client", second)
    (tmp_path / "hub.pem").write_bytes(made.pem)
    (tmp_path / "hub.key").touch(0o600)
    (tmp_path / "hub.key").write_bytes(made.key_pem)
    (tmp_path / "ca.pem").write_bytes(first.pem)
    (tmp_path / "hub.toml").write_text('tls_certificate = "hub.pem"\ntls_key = "hub.key"\ntls_client_ca = "ca.pem"\n')
    async with serving("--config", "hub.toml", cwd=tmp_path, HUB_HTTP_LISTEN="127.0.0.1:0") as hub:
        port = hub.log[-1]["http_port"]
        assert [await asyncio.to_thread(enters, port, made, who, tmp_path) for who in (one, other)] == [True, False]
        (tmp_path / "ca.pem").write_bytes(second.pem)
        hub.process.send_signal(signal.SIGHUP)
        await hub.heard("reloaded")
        assert [await asyncio.to_thread(enters, port, made, who, tmp_path) for who in (one, other)] == [False, True]
        assert (await hub.stop()).code == 0


async def test_an_encrypted_key_is_reported_without_a_prompt(tmp_path: Path) -> None:
    """The start says the same as without the HTTP listener, and waits for no passphrase."""
    made = certify("hub")
    (tmp_path / "hub.pem").write_bytes(made.pem)
    (tmp_path / "hub.key").touch(0o600)
    form = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "hub.key").write_bytes(made.key.private_bytes(*form))
    flags = {"tls_certificate": tmp_path / "hub.pem", "tls_key": tmp_path / "hub.key"} | free(tmp_path)
    with pytest.raises(StartError, match="is encrypted: use a key without a passphrase"):
        await Hub.start(config.load(flags))


async def test_malformed_http_is_answered_and_not_logged(tmp_path: Path) -> None:
    """A stranger gets 400, and makes neither errors in the log nor a copy of what it sent."""
    async with serving(cwd=tmp_path, HUB_HTTP_LISTEN="127.0.0.1:0") as hub:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", hub.log[-1]["http_port"])
            writer.write(b"GET / HTTP/1.1\r\nBad Header\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.0 400")
            writer.close()
        ended = await hub.stop()
        assert ended.code == 0
        assert "Bad Header" not in ended.err
        assert '"error"' not in ended.err


async def test_an_internal_error_has_an_incident_id(watched: RunningHub) -> None:
    """The answer names the line of the log, and nothing of what went wrong."""
    watched.hub.log.silence = None  # type: ignore[assignment,method-assign]  # any fault will do
    with capture_logs() as lines:
        answer = await get(watched.hub.http.port, "/readyz")
    assert (answer.status, answer.headers["Cache-Control"]) == (500, "no-store")
    assert answer.text.split()[-1] in [line.get("incident") for line in lines]


async def test_a_slow_observation_leaves_other_metrics_current(
    watched: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the hub serves and how its store is needs no picture."""
    require_embedded(watched)
    port = watched.hub.http.port
    assert "hub_store_failed 0.0" in (await get(port, "/metrics")).text
    monkeypatch.setattr(pages, "TIMEOUT", 0)
    watched.hub.log._store._has_failed = True  # type: ignore[attr-defined]  # as the store does when it cannot go on
    text = (await get(port, "/metrics")).text
    assert "hub_store_failed 1.0" in text
    assert "hub_serving 0.0" in text
