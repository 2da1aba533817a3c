"""The hub dials only the address that it has checked, whatever names and answers say."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hub import config
from hub.addresses import networks
from hub.clock import Clock
from hub.webhooks import destinations, sender
from hub.webhooks.destinations import Policy
from hub.webhooks.schedule import Failure, Outcome, Pace
from hub.webhooks.sender import Outdated, Request, Sender
from tests.support.certificates import certify
from tests.support.name_server import NameServer, serving_names
from tests.support.receivers import receiving


class Trap:
    """A listener on 127.0.0.1 to which nobody may connect."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    def accept(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Count a connection."""
        self.connections += 1
        writer.close()


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    """A trap that listens."""
    made = Trap()
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture
async def strict() -> AsyncIterator[Sender]:
    """A sender with the default policy, but for the ports: so that a port is not what stops it."""
    made = Sender(config.load({}), Policy(ports=frozenset(range(1, 65536))), Clock())
    yield made
    await made.close()


def request(url: str, **fields: Any) -> Request:  # noqa: ANN401  of a Request
    """A request to a URL."""
    return Request(url, dict, b"{}", "x", Pace.QUICK, is_current=lambda: True)._replace(**fields)


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NameServer]:
    """A name server that look-ups ask."""
    async with serving_names(monkeypatch) as server:
        yield server


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254", "64:ff9b::7f00:1", "0.0.0.0", "224.0.0.1"],  # noqa: S104  not bound to
)
async def test_names_of_private_addresses_are_not_dialled(
    strict: Sender, trap: Trap, names: NameServer, address: str
) -> None:
    """A public name may have any address: the address is checked."""
    names.names["hooks.example.com"] = [[address]]
    outcome = await strict.post(request(f"https://hooks.example.com:{trap.port}/"))
    assert outcome.failure is Failure.ADDRESS_REFUSED
    assert trap.connections == 0
    assert names.asked == ["hooks.example.com"]


async def test_a_name_in_another_script_is_judged_by_its_addresses(
    strict: Sender, trap: Trap, names: NameServer
) -> None:
    """Such a name is asked for in ASCII; digits of another script are no way around, they are the address itself."""
    names.names["xn--bcher-kva.example.com"] = [["127.0.0.1"]]
    outcome = await strict.post(request(f"https://b\u00fccher.example.com:{trap.port}/"))
    assert outcome.failure is Failure.ADDRESS_REFUSED
    assert names.asked == ["xn--bcher-kva.example.com"]
    outcome = await strict.post(request(f"https://\uff11\uff12\uff17.0.0.1:{trap.port}/"))
    assert outcome.failure is Failure.ADDRESS_REFUSED
    assert len(names.asked) == 1
    assert trap.connections == 0


async def test_names_without_an_address_are_not_dialled(strict: Sender, names: NameServer) -> None:
    """An unknown name, and one without an address."""
    names.names["empty.example.com"] = [[]]
    for host in ("nobody.example.com", "empty.example.com"):
        assert (await strict.post(request(f"https://{host}/"))).failure is Failure.DNS
    assert {*names.asked} >= {"nobody.example.com", "empty.example.com"}


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f000001", "017700000001", "127.1", "[::ffff:7f00:1]"])
async def test_addresses_in_urls_are_not_dialled(strict: Sender, trap: Trap, host: str) -> None:
    """In no notation, also where a stored endpoint is no longer allowed."""
    outcome = await strict.post(request(f"https://{host}:{trap.port}/"))
    assert outcome.failure is Failure.ADDRESS_REFUSED
    assert trap.connections == 0


async def test_the_socket_factory_checks_the_address_again(strict: Sender, trap: Trap) -> None:
    """Even a request that skips every check above is not dialled: aiohttp asks for the socket."""
    session = await strict._open()
    with pytest.raises(Exception) as refused:  # noqa: PT011  whatever aiohttp makes of it
        async with session.post(f"http://127.0.0.1:{trap.port}/"):
            pass
    assert sender._was_refused(refused.value)
    assert trap.connections == 0


async def test_the_machines_own_addresses_are_not_dialled(
    trap: Trap, names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine on the public Internet every address is refused, not only that of its name.

    Loopback stands for such addresses: the table is opened for it, so that nothing else refuses it.
    """
    monkeypatch.setattr(destinations, "is_public", lambda _: True)
    strict = Sender(config.load({}), Policy(ports=frozenset(range(1, 65536))), Clock())
    open_to_it = Sender(config.load({}), Policy(allow=tuple(networks("127.0.0.1/32"))), Clock())
    names.names["hooks.example.com"] = [["127.0.0.1"]]
    url = f"https://hooks.example.com:{trap.port}/"
    assert (await strict.post(request(url))).failure is Failure.ADDRESS_REFUSED
    assert trap.connections == 0
    assert (await open_to_it.post(request(url))).failure is not Failure.ADDRESS_REFUSED
    assert trap.connections == 1
    for made in (strict, open_to_it):
        await made.close()


async def test_a_name_is_resolved_for_every_request(trap: Trap, names: NameServer) -> None:
    """The first request goes where the name led; the second does not go where it leads now. Each asks once."""
    policy = Policy(allow=tuple(networks("127.0.0.2/32")))
    made = Sender(config.load({}), policy, Clock())
    names.names["rebinding.example.com"] = [["127.0.0.2"], ["127.0.0.1"]]
    async with receiving(address="127.0.0.2") as receiver:
        url = receiver.url.replace("127.0.0.2", "rebinding.example.com")
        first, second = [await made.post(request(url)) for _ in range(2)]
        assert first.status == 401
        assert second.failure is Failure.ADDRESS_REFUSED
        assert (receiver.requests, trap.connections) == (1, 0)
        assert names.asked == ["rebinding.example.com"] * 2
    await made.close()


async def test_the_address_that_was_checked_is_dialled(trap: Trap, names: NameServer) -> None:
    """The name is not resolved a second time in between."""
    made = Sender(config.load({}), Policy(allow=tuple(networks("127.0.0.2/32"))), Clock())
    names.names["rebinding.example.com"] = [["127.0.0.2"], ["127.0.0.1"]]
    outcome = await made.post(request(f"http://rebinding.example.com:{trap.port}/"))
    assert outcome.failure is Failure.CONNECT
    assert trap.connections == 0
    assert names.asked == ["rebinding.example.com"]
    await made.close()


async def test_redirects_cookies_and_proxies_are_not_followed(trap: Trap, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect is a failure; a cookie does not come back; the environment's proxy is not asked."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
    made = Sender(config.load({}), Policy(allow=tuple(networks("127.0.0.2/32"))), Clock())
    cookies: list[str] = []

    async def handler(asked: web.Request) -> web.Response:
        cookies.append(asked.headers.get("cookie", ""))
        answer = web.Response(status=307, headers={"location": f"http://127.0.0.1:{trap.port}/"})
        answer.set_cookie("a", "b")
        return answer

    async with receiving(address="127.0.0.2") as receiver:
        receiver.handler = handler
        outcomes = [await made.post(request(receiver.url)) for _ in range(2)]
        assert [one.failure for one in outcomes] == [Failure.REDIRECT] * 2
        assert cookies == ["", ""]
        assert trap.connections == 0
    await made.close()


async def drip(asked: web.Request) -> web.StreamResponse:
    """A 200 whose body comes byte by byte, for ever."""
    answer = web.StreamResponse()
    await answer.prepare(asked)
    while True:
        await answer.write(b" ")
        await asyncio.sleep(0.05)


async def flood(_asked: web.Request) -> web.StreamResponse:
    """A 200 with 10 MB."""
    return web.Response(body=b"x" * 10_000_000)


@pytest.mark.parametrize("handler", [drip, flood])
async def test_a_long_response_body_is_not_read(handler: Any) -> None:  # noqa: ANN401  one of the two
    """The receiver has taken the request; the rest of its answer is left, and so is its connection."""
    made = Sender(config.load({}), Policy(allow=tuple(networks("127.0.0.2/32"))), Clock())
    async with receiving(address="127.0.0.2") as receiver:
        receiver.handler = handler
        outcome = await made.post(request(receiver.url))
        assert (outcome.failure, outcome.status) == (None, 200)
        assert len(outcome.answer) <= sender.MAX_ANSWER
        receiver.handler = None
        assert (await made.post(request(receiver.url))).status == 401
    await made.close()


async def test_an_outdated_request_is_not_written() -> None:
    """The hub checks once the connection is open; the receiver never sees the body."""
    made = Sender(config.load({}), Policy(allow=tuple(networks("127.0.0.2/32"))), Clock())
    asked: list[int] = []

    def is_current() -> bool:
        asked.append(receiver.requests)
        return False

    async with receiving(address="127.0.0.2") as receiver:
        with pytest.raises(Outdated):
            await made.post(request(receiver.url, is_current=is_current))
        assert receiver.requests == 0
        assert asked == [0]
        assert isinstance(await made.post(request(receiver.url)), Outcome)
        assert receiver.requests == 1
    await made.close()


class Proxy:
    """A proxy that knows CONNECT alone, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its CONNECT to its end."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head.split("\r\n", 1)[0])
        host, _, port = head.split(" ")[1].rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pipe(reader, back), pipe(there, writer), return_exceptions=True)
        for side in (writer, back):
            side.close()
            with suppress(OSError):
                await side.wait_closed()
        self.ended.set()


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end."""
    while data := await reader.read(65_536):
        writer.write(data)
    writer.write_eof()


async def test_an_egress_proxy_gets_the_checked_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONNECT names the address, TLS is with the receiver; the proxy is not asked for a private address."""
    made = certify("receiver")
    file = tmp_path / "receiver.pem"
    file.write_bytes(made.pem + made.key_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    proxy = Proxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    settings = config.load({"webhook_proxy": f"http://127.0.0.1:{proxy.port}"})
    allowing = Sender(settings, Policy(allow=tuple(networks("127.0.0.1/32"))), Clock())
    strict = Sender(settings, Policy(), Clock())
    async with receiving(tls=context) as receiver:
        assert (await allowing.post(request(receiver.url))).status == 401
        port = receiver.url.split(":")[2].split("/")[0]
        assert proxy.asked == [f"CONNECT 127.0.0.1:{port} HTTP/1.1"]
        assert (await strict.post(request(receiver.url))).failure is Failure.ADDRESS_REFUSED
        assert len(proxy.asked) == 1
        await allowing.close()
        await strict.close()
        await proxy.ended.wait()
    server.close()
