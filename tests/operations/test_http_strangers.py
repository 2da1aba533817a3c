"""What anybody may send to the HTTP listeners: it is answered or dropped, and never becomes a fault of the hub."""

import asyncio
from contextlib import AsyncExitStack

import aiohttp
import pytest
from structlog.testing import capture_logs

from hub import config
from hub.http import listener
from hub.http.authorization import HostNames
from hub.model import Role
from tests.operations.scraping import PATIENCE, get
from tests.support.calls import ask
from tests.support.hubs import RunningHub, StartHub, until

POST = "POST /console/api/AdminService/WatchHub HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SHELL = "GET /console HTTP/1.1\r\nHost: localhost\r\n"
SCRAPE = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n"

ODD = [
    (f"{SHELL}Origin: http://[\r\n\r\n", 403),
    (f"{SHELL}Origin: http://\u2100\r\n\r\n", 403),
    (f"{SHELL}Origin: null\r\n\r\n", 403),
    (f"{POST}Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", 400),
    (f"{POST}Content-Length: 100000\r\n\r\n{'a' * 100_000}", 413),
    (f"{SCRAPE}Accept: application/openmetrics-text; version=new\r\n\r\n", 200),
    (f"{SCRAPE}Accept: text/plain;version=1.0.b;escaping\r\n\r\n", 200),
    (f"{SCRAPE}Accept: application/openmetrics-text; version=1.0.0; escaping=\u2100\r\n\r\n", 200),
    ("GET http://evil.example/metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
    ("GET /metrics HTTP/1.1\r\nno header\r\n\r\n", 400),
    ("OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
]
"""Requests to the operators' listener, and the status of the answer."""

ODD_TO_DIRECTORY = [
    ("/?q=%ff%ed%a0%80%00", 200),
    ("/?page=%C2%B2", 400),
    ("/?scope=%ed%a0%80", 400),
    ("/%E2%84%80.json", 404),
    ("/integrations/%00", 404),
]
"""Paths of the public directory, and the status of the answer."""


async def exchange(port: int, raw: bytes) -> bytes:
    """Send some bytes; returns what comes back until the hub closes."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw)
        try:
            return await reader.read()
        finally:
            writer.close()


@pytest.mark.parametrize(("raw", "status"), ODD, ids=lambda value: repr(value)[:60])
async def test_odd_requests_are_no_incidents(start_hub: StartHub, raw: str, status: int) -> None:
    """Each gets its status, without a log line, and without the versions of the software."""
    hub = await start_hub(http_listen="127.0.0.1:0")
    with capture_logs() as lines:
        answer = await exchange(hub.hub.http.port, raw.encode())
    assert answer.split()[1] == str(status).encode()
    assert b"\r\nServer: tickets-hub\r\n" in answer
    assert lines == []


@pytest.mark.parametrize(("path", "status"), ODD_TO_DIRECTORY)
async def test_odd_paths_are_no_incidents(start_hub: StartHub, path: str, status: int) -> None:
    """Nor in the public directory."""
    hub = await start_hub(directory_listen="127.0.0.1:0")
    with capture_logs() as lines:
        answer = await exchange(hub.hub.directory.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert answer.split()[1] == str(status).encode()
    assert b"\r\nServer: tickets-hub\r\n" in answer
    assert lines == []


async def test_a_browser_that_disconnects_during_its_request_is_no_incident(start_hub: StartHub) -> None:
    """A page that is closed while it sends makes no incident."""
    hub = await start_hub(http_listen="127.0.0.1:0")
    with capture_logs() as lines:
        _, writer = await asyncio.open_connection("127.0.0.1", hub.hub.http.port)
        writer.write(f"{POST}Content-Length: 100\r\n\r\n{{".encode())
        await until(lambda: hub.hub.http._open)
        await writer.drain()
        writer.close()
        await until(lambda: not hub.hub.http._open)
        assert (await get(hub.hub.http.port, "/healthz")).status == 200
    assert lines == []


@pytest.mark.parametrize(
    "body", ['{"\\ud800": 1}', '{"filter": "\\udc00"}', "[" * 50_000, '{"page_size": 1e400}', "nu"]
)
async def test_json_that_crashes_the_parser_is_refused(start_hub: StartHub, body: str) -> None:
    """Half of a surrogate pair ends protobuf's parser with a SystemError; the answer says what is wrong."""
    hub = await start_hub(http_listen="127.0.0.1:0")
    url = f"http://127.0.0.1:{hub.hub.http.port}/console/api/AdminService/ListIntegrations"
    headers = {"Authorization": f"Bearer {hub.admin.key}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        assert answer.status == 400
        assert "the body is not a ListIntegrationsRequest in JSON" in await answer.text()


async def connect(hub: RunningHub, host: str, count: int, opened: AsyncExitStack) -> list[asyncio.StreamReader]:
    """Connections from one address of loopback, which say nothing."""
    readers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.hub.http.port, local_addr=(host, 0))
        opened.callback(writer.close)
        readers.append(reader)
    return readers


async def test_one_address_cannot_use_up_all_connections(start_hub: StartHub) -> None:
    """It holds a fifth of the connections, and the next one is closed; a probe from elsewhere is answered."""
    hub = await start_hub(http_listen="127.0.0.1:0")
    share = listener.MAX_CONNECTIONS // listener.MAX_PEER_SHARE
    async with AsyncExitStack() as opened, asyncio.timeout(PATIENCE):
        with capture_logs() as lines:
            kept = await connect(hub, "127.0.0.2", share, opened)
            [more] = await connect(hub, "127.0.0.2", 1, opened)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await more.readexactly(1)
        assert (await get(hub.hub.http.port, "/healthz")).status == 200
        assert len(hub.hub.http._open) == share
        assert not any(reader.at_eof() for reader in kept)
        assert lines == []


async def test_a_trusted_proxy_may_hold_all_connections(start_hub: StartHub) -> None:
    """All callers come from its address."""
    hub = await start_hub(http_listen="127.0.0.1:0", trusted_proxies="127.0.0.2")
    async with AsyncExitStack() as opened, asyncio.timeout(PATIENCE):
        await connect(hub, "127.0.0.2", listener.MAX_CONNECTIONS, opened)
        await until(lambda: len(hub.hub.http._open) == listener.MAX_CONNECTIONS)


@pytest.mark.parametrize("name", ["http_listen", "directory_listen"])
def test_each_listener_answers_to_the_name_of_its_address(name: str) -> None:
    """No other setting is needed for it; the name of the other listener is not its own."""
    settings = config.load({"http_listen": "127.0.0.1:0", "insecure": True, name: "hub.example:443"})
    other = {"http_listen", "directory_listen"} - {name}
    assert HostNames(settings, name).has("hub.example")
    assert not HostNames(settings, *other).has("hub.example")


async def test_a_scrape_with_a_revoked_key_learns_that(start_hub: StartHub) -> None:
    """It does not count as a guess."""
    hub = await start_hub(http_listen="127.0.0.1:0", max_failed_authentications=1)
    made = (await ask(hub.admin, "AdminService/CreateServiceKey", role=Role.ADMIN, display_name="Prometheus")).key
    await ask(hub.admin, "AdminService/RevokeKey", key_id=made.key_id, reason="leaked")
    for _ in range(2):
        headers = {"X_Forwarded_For": "192.0.2.1", "Authorization": f"Bearer {made.secret}"}
        answer = await get(hub.hub.http.port, "/metrics", **headers)
        assert (answer.status, answer.text) == (401, "this key was revoked: use a newer one\n")
