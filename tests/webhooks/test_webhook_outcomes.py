"""Rows of the table of outcomes (docs/webhooks.md) that no other file tests: after the trouble all is delivered."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hub.webhooks import sender
from tests.support.calls import ask, steer
from tests.support.certificates import certify
from tests.support.events import ids
from tests.support.hubs import REGISTRATION, StartHub, emit
from tests.support.name_server import serving_names
from tests.support.receivers import ALLOWED, connect, create, endpoint_when, receiving

HOST = "hooks.example.com"
ACTIVE, FAILING = 2, 3
DNS, ADDRESS_REFUSED, TIMEOUT = 1, 2, 5


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """TLS of a receiver whose certificate the hub trusts."""
    authority = certify("authority")
    made = certify("receiver", authority, names=[HOST])
    file, authorities = tmp_path / "receiver.pem", tmp_path / "authorities.pem"
    file.write_bytes(made.pem + made.key_pem)
    authorities.write_bytes(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


@pytest.mark.usefixtures("fast_retries")
@pytest.mark.parametrize(
    ("leads_to", "category"), [([], DNS), (["10.0.0.1"], ADDRESS_REFUSED), (["169.254.169.254"], ADDRESS_REFUSED)]
)
async def test_delivery_waits_for_a_valid_address(
    start_hub: StartHub,
    monkeypatch: pytest.MonkeyPatch,
    trusted: ssl.SSLContext,
    leads_to: list[str],
    category: int,
) -> None:
    """Nothing is sent while the name has no address or a forbidden one; then all events follow."""
    async with serving_names(monkeypatch) as names, receiving(tls=trusted) as receiver:
        port = receiver.url.rpartition(":")[2].removesuffix("/hook")
        hub = await start_hub(**ALLOWED, webhook_ports=port)  # nothing but the address is wrong
        _, reader = await hub.register("TICKET_CREATED")
        names.names[HOST] = [["127.0.0.1"]]
        receiver.url = receiver.url.replace("127.0.0.1", HOST)
        await connect(reader, receiver)
        await emit(hub, ["before"])
        await receiver.until(lambda: receiver.ids == ["before"])
        names.names[HOST] = [leads_to]
        sent, meanwhile = receiver.requests, ids("meanwhile", 20)
        await emit(hub, meanwhile)
        endpoint = await endpoint_when(reader, lambda one: one.state == FAILING)
        assert (endpoint.last_failure, endpoint.http_status, receiver.requests) == (category, 0, sent)
        names.names[HOST] = [["127.0.0.1"]]
        await receiver.until(lambda: meanwhile[-1] in receiver.ids)
        assert receiver.ids == ["before", *meanwhile]


@pytest.mark.usefixtures("fast_retries")
async def test_a_hanging_name_look_up_fails_only_its_endpoint(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails as without an answer, and the other endpoints get their events."""
    monkeypatch.setenv("RES_OPTIONS", "timeout:2 attempts:5")
    hub = await start_hub(**ALLOWED, webhook_requests=1)
    _, reader = await hub.register("TICKET_CREATED")
    _, other = await hub.register("TICKET_CREATED")
    async with serving_names(monkeypatch) as names, receiving() as hanging, receiving() as live:
        for receiver, name, who in ((hanging, HOST, reader), (live, "live.example.com", other)):
            names.names[name] = [["127.0.0.1"]]
            receiver.url = receiver.url.replace("127.0.0.1", name)
            await connect(who, receiver)
        await emit(hub, ["before"])
        for receiver in (hanging, live):
            await receiver.until(lambda receiver=receiver: receiver.ids == ["before"])  # type: ignore[misc]
        names.silent = (HOST,)
        monkeypatch.setattr(sender, "REQUEST_TIMEOUT", 3.0)
        sent, meanwhile = hanging.requests, ids("meanwhile", 20)
        for name in meanwhile:
            await emit(hub, [name])
            await live.until(lambda name=name: name in live.ids)  # type: ignore[misc]
        endpoint = await endpoint_when(reader, lambda one: one.failed_attempts)
        assert (endpoint.last_failure, endpoint.http_status, hanging.requests) == (TIMEOUT, 0, sent)
        assert (await ask(other, "WebhookService/GetEndpoint")).endpoint.failed_attempts == 0
        endpoint = await endpoint_when(reader, lambda one: one.state == FAILING)
        monkeypatch.setattr(sender, "REQUEST_TIMEOUT", 15.0)
        names.silent = ()
        await hanging.until(lambda: meanwhile[-1] in hanging.ids)
        assert hanging.ids == live.ids == ["before", *meanwhile]


@pytest.mark.usefixtures("fast_retries")
async def test_a_time_out_is_retried_in_order(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out is a failure like any other: the same events come again, in order."""
    monkeypatch.setattr(sender, "REQUEST_TIMEOUT", 0.5)
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    is_up = False

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        if body["type"] == "events" and not is_up:
            await asyncio.Event().wait()
        return None

    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        names = ids("e", 20)
        await emit(hub, names)
        endpoint = await endpoint_when(reader, lambda one: one.failed_attempts >= 2)
        assert (endpoint.last_failure, endpoint.http_status) == (TIMEOUT, 0)
        monkeypatch.setattr(sender, "REQUEST_TIMEOUT", 15.0)
        is_up = True
        await receiver.until(lambda: names[-1] in receiver.ids)
        assert receiver.ids == names


async def test_a_block_pauses_delivery_and_loses_nothing(start_hub: StartHub) -> None:
    """While the developer is blocked nothing is sent; afterwards delivery continues at the place."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    _, other = await hub.register("TICKET_CREATED", owner_user_id="8")
    async with receiving() as receiver, receiving() as live:
        await connect(reader, receiver)
        await connect(other, live)
        await emit(hub, ["one"])
        await receiver.until(lambda: receiver.ids == ["one"])
        owner = REGISTRATION["owner_user_id"]
        await ask(hub.admin, "AdminService/BlockDeveloper", user_id=owner, source="a list", reason="spies")
        sent = receiver.requests
        for name in ids("s", 10):  # as long as it takes another endpoint to get them one by one
            await emit(hub, [name])
            await live.until(lambda name=name: name in live.ids)  # type: ignore[misc]
        assert (await ask(reader, "WebhookService/GetEndpoint")).endpoint.state == ACTIVE
        assert receiver.requests == sent
        await ask(hub.admin, "AdminService/UnblockDeveloper", user_id=owner, reason="it was another one")
        await receiver.until(lambda: len(receiver.ids) == 11)
        assert receiver.ids == ["one", *ids("s", 10)]


@pytest.mark.parametrize("what", ["endpoint", "integration"])
async def test_an_unverified_endpoint_gets_no_last_notice(start_hub: StartHub, what: str) -> None:
    """Its URL may belong to another person: a deletion sends nothing there."""
    hub = await start_hub(**ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    _, other = await hub.register("TICKET_CREATED")
    async with receiving() as receiver, receiving() as live:
        await create(reader, receiver)
        await connect(other, live)
        if what == "integration":
            await steer(hub, "Delete", integration)
        else:
            await ask(reader, "WebhookService/DeleteEndpoint")
        await emit(hub, ["after"])
        await live.until(lambda: live.ids == ["after"])
        await hub.close()
        assert receiver.requests == 0


async def test_a_stop_waits_for_a_request_in_flight(start_hub: StartHub) -> None:
    """Within the drain time: what the receiver accepts meanwhile is not delivered again."""
    arrived, may_answer = asyncio.Event(), asyncio.Event()

    async def behave(body: dict[str, Any], _: web.Request) -> web.Response | None:
        if body["type"] == "events" and not may_answer.is_set():
            arrived.set()
            await may_answer.wait()
        return None

    hub = await start_hub(**ALLOWED, drain_time=30)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        await emit(hub, ["one"])
        await arrived.wait()
        stopping = asyncio.create_task(hub.close())
        await asyncio.sleep(0.1)
        may_answer.set()
        await stopping
        again = await start_hub(**ALLOWED)
        await emit(again, ["two"])
        await receiver.until(lambda: "two" in receiver.ids)
        assert receiver.ids == ["one", "two"]


async def test_a_request_longer_than_the_drain_time_is_repeated(start_hub: StartHub) -> None:
    """The receiver never answered: after the next start it gets the same events, with the same id."""
    seen: list[str] = []
    arrived = asyncio.Event()

    async def behave(body: dict[str, Any], request: web.Request) -> web.Response | None:
        if body["type"] == "events":
            seen.append(request.headers["webhook-id"])
            arrived.set()
            if len(seen) == 1:
                await asyncio.Event().wait()
        return None

    hub = await start_hub(**ALLOWED, drain_time=0.1)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver)
        await emit(hub, ["one"])
        await arrived.wait()
        await hub.close()
        assert receiver.ids == []
        await start_hub(**ALLOWED)
        await receiver.until(lambda: receiver.ids == ["one"])
        assert len(seen) == 2
        assert seen[0] == seen[1]
