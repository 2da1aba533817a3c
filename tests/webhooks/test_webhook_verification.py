"""Verification: which endpoints are switched on, and what each failure says."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hub.webhooks import sender, verification
from tests.support.calls import ask, fails, info_of, steer
from tests.support.certificates import certify
from tests.support.events import ticket
from tests.support.hubs import PATIENCE, Caller, FakeClock, RunningHub, StartHub, until
from tests.support.name_server import serving_names
from tests.support.receivers import ALLOWED, Receiver, connect, create, endpoint_when, receiving

PAUSED, DISABLED = 4, 5
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def answer(status: int, body: bytes, _request: web.Request, **headers: str) -> web.StreamResponse:
    """Answer everything alike."""
    return web.Response(status=status, body=body, headers=headers)


async def echo(request: web.Request) -> web.StreamResponse:
    """Give every challenge back, and verify nothing."""
    return web.json_response({"challenge": (await request.json())["data"]["challenge"]})


async def drip(request: web.Request) -> web.StreamResponse:
    """Answer byte by byte, for ever."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def flood(_request: web.Request) -> web.StreamResponse:
    """Answer with 10 MB."""
    return web.Response(body=b"x" * 10_000_000)


async def hang(_request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.sleep(60)
    return web.Response()


async def reset(request: web.Request) -> web.StreamResponse:
    """Close at once."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Held:
    """Holds a receiver's next request back until it may go on."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._arrived, self._may_go = asyncio.Event(), asyncio.Event()
        receiver.handler = self._handle

    async def arrived(self) -> None:
        """Wait for the request."""
        async with asyncio.timeout(PATIENCE):
            await self._arrived.wait()

    def let_go(self) -> None:
        """Let the receiver answer as usual."""
        self._may_go.set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._arrived.set()
        await self._may_go.wait()
        self._receiver.handler = None
        self._receiver.requests -= 1  # it is counted again
        return await self._receiver.handle(request)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that runs."""
    async with receiving() as made:
        yield made


CASES: dict[str, tuple[Handler, str, str]] = {
    "says yes to everything": (partial(answer, 200, b"{}"), "CHALLENGE", "challenge"),
    "answers with another challenge": (partial(answer, 200, b'{"challenge": "x"}'), "CHALLENGE", "challenge"),
    "answers no JSON": (partial(answer, 200, b"\xff\xfe"), "CHALLENGE", "challenge"),
    "verifies nothing": (echo, "FORGERY_ACCEPTED", "forgery"),
    "refuses": (partial(answer, 401, b""), "CLIENT_ERROR", "challenge"),
    "breaks": (partial(answer, 500, b""), "SERVER_ERROR", "challenge"),
    "redirects": (partial(answer, 302, b"", location="http://169.254.169.254/"), "REDIRECT", "challenge"),
    "is gone": (partial(answer, 410, b""), "GONE", "challenge"),
    "drips": (drip, "TIMEOUT", "challenge"),
    "hangs": (hang, "TIMEOUT", "challenge"),
    "floods": (flood, "CHALLENGE", "challenge"),
    "resets": (reset, "CONNECT", "challenge"),
}

SAID = {
    "CHALLENGE": "did not answer the challenge",
    "CLIENT_ERROR": "did not answer the challenge",
    "SERVER_ERROR": "did not answer the challenge",
    "GONE": "did not answer the challenge",
    "FORGERY_ACCEPTED": "accepted a request with a wrong signature",
    "REDIRECT": "set the final URL",
    "TIMEOUT": "did not answer in time",
    "CONNECT": "nothing listens at the URL",
    "DNS": "cannot be resolved",
    "ADDRESS_REFUSED": "may not send to where the URL leads",
}
"""A part of the sentence that its developer gets, by category."""


@pytest.mark.parametrize("name", CASES)
async def test_receivers_that_fail_the_verification_stay_unverified(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each is refused with the step and the category; the endpoint stays UNVERIFIED and gets no event."""
    monkeypatch.setattr(sender, "REQUEST_TIMEOUT", 3.0)
    monkeypatch.setattr(verification, "VERIFY_TIMEOUT", 6.0)
    handler, category, step = CASES[name]
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        receiver.handler = handler
        await create(reader, receiver)
        error = await fails(ask(reader, "WebhookService/VerifyEndpoint"))
        info = info_of(error)
        assert info.reason == "ENDPOINT_NOT_VERIFIED"
        assert (info.metadata["category"], info.metadata["step"]) == (category, step)
        assert SAID[category] in (error.details() or "")
        endpoint = (await ask(reader, "WebhookService/GetEndpoint")).endpoint
        assert endpoint.state == 1
        [attempt] = (await ask(reader, "WebhookService/ListAttempts")).attempts
        assert attempt.type == "verification"
        sent = receiver.requests
        await hub.emit(ticket("one"))
        await ask(reader, "WebhookService/GetEndpoint")
        assert receiver.requests == sent


async def test_unreachable_addresses_stay_unverified(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port without a listener, an unknown name, and a private address behind a name."""
    hub = await start_hub(webhook_allow="127.0.0.2/32")
    _, reader = await hub.register("TICKET_CREATED")
    async with serving_names(monkeypatch) as names:
        names.names["private.example.com"] = [["127.0.0.1"]]
        with socket.socket() as free:
            free.bind(("127.0.0.2", 0))
            port = free.getsockname()[1]
            for endpoint_id, url, category in (
                ("closed", f"http://127.0.0.2:{port}/", "CONNECT"),
                ("nowhere", "https://nowhere.example.com/", "DNS"),
                ("private", "https://private.example.com/", "ADDRESS_REFUSED"),
            ):
                await ask(reader, "WebhookService/CreateEndpoint", endpoint={"endpoint_id": endpoint_id, "url": url})
                error = await fails(ask(reader, "WebhookService/VerifyEndpoint", endpoint_id=endpoint_id))
                assert info_of(error).metadata["category"] == category, endpoint_id
                assert SAID[category] in (error.details() or "")


async def test_a_wrong_certificate_is_not_trusted(start_hub: StartHub, tls_receiver: Receiver) -> None:
    """A receiver with a self-signed certificate gets nothing, not even the challenge."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    endpoint = {"url": tls_receiver.url}
    await ask(reader, "WebhookService/CreateEndpoint", endpoint=endpoint)
    error = await fails(ask(reader, "WebhookService/VerifyEndpoint"))
    assert info_of(error).metadata["category"] == "TLS"
    assert tls_receiver.requests == 0


async def test_an_endpoint_is_verified_once_a_minute(start_hub: StartHub) -> None:
    """The second verification within a minute is refused with the time to wait; the receiver sees nothing of it."""
    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        sent = receiver.forgeries
        error = await fails(ask(reader, "WebhookService/VerifyEndpoint"))
        assert info_of(error).reason == "TOO_MANY_CHANGES"
        assert receiver.forgeries == sent
        clock.monotonic_offset += 61
        assert (await ask(reader, "WebhookService/VerifyEndpoint")).endpoint.state == 2
        assert receiver.forgeries == sent + 1


async def test_a_new_url_is_verified_automatically(start_hub: StartHub) -> None:
    """UNVERIFIED until the new receiver has passed, then delivery continues at the same place."""
    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as old, receiving() as new:
        await connect(reader, old)
        await hub.emit(ticket("one"))
        await old.until(lambda: old.ids == ["one"])
        new.secret = old.secret
        clock.monotonic_offset += 61
        changed = await ask(reader, "WebhookService/UpdateEndpoint", endpoint={"url": new.url})
        assert changed.endpoint.state == 1
        await hub.emit(ticket("two"))
        await new.until(lambda: new.ids == ["two"])
        assert old.ids == ["one"]
        own = (await ask(reader, "DeveloperService/GetOwnIntegration")).integration
        assert own.endpoint_url == new.url


Switch = Callable[[RunningHub, Caller, str], Awaitable[Any]]


async def pause(_: RunningHub, reader: Caller, __: str) -> None:
    """Its developer pauses an endpoint."""
    await ask(reader, "WebhookService/PauseEndpoint")


async def disable(hub: RunningHub, _: Caller, integration_id: str) -> None:
    """An admin disables an endpoint."""
    await ask(hub.admin, "WebhookService/DisableEndpoint", integration_id=integration_id, reason="abuse")


@pytest.mark.parametrize(("switch_off", "state"), [(pause, PAUSED), (disable, DISABLED)])
async def test_switching_off_during_a_verification_is_obeyed(
    start_hub: StartHub, receiver: Receiver, switch_off: Switch, state: int
) -> None:
    """A receiver that passes slowly does not switch on an endpoint that was switched off meanwhile."""
    hub = await start_hub(**ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    await create(reader, receiver)
    held = Held(receiver)
    verifying = asyncio.create_task(fails(ask(reader, "WebhookService/VerifyEndpoint")))
    await held.arrived()
    await switch_off(hub, reader, integration.integration_id)
    held.let_go()
    assert info_of(await verifying).reason == "STATE_FORBIDS"
    assert (await ask(reader, "WebhookService/GetEndpoint")).endpoint.state == state


async def test_a_resume_by_the_developer_does_not_overrule_an_admin(start_hub: StartHub, receiver: Receiver) -> None:
    """The endpoint was paused when the call arrived, and disabled when its receiver had passed."""
    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    await connect(reader, receiver)
    await pause(hub, reader, "")
    clock.monotonic_offset += verification.VERIFY_PERIOD + 1
    held = Held(receiver)
    resuming = asyncio.create_task(fails(ask(reader, "WebhookService/ResumeEndpoint")))
    await held.arrived()
    await disable(hub, reader, integration.integration_id)
    held.let_go()
    assert "an admin has disabled this endpoint" in ((await resuming).details() or "")
    assert (await ask(reader, "WebhookService/GetEndpoint")).endpoint.state == DISABLED


@pytest.mark.parametrize(("switch_off", "state"), [(pause, PAUSED), (disable, DISABLED)])
async def test_automatic_verification_does_not_switch_an_endpoint_on(
    start_hub: StartHub, receiver: Receiver, switch_off: Switch, state: int
) -> None:
    """The hub verifies a new URL by itself, and meanwhile the endpoint is paused or disabled."""
    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    await connect(reader, receiver)
    await receiver.until(lambda: receiver.types == ["ready"])
    clock.monotonic_offset += verification.VERIFY_PERIOD + 1
    held = Held(receiver)
    await ask(reader, "WebhookService/UpdateEndpoint", endpoint={"url": f"{receiver.url}/new"})
    await held.arrived()
    await switch_off(hub, reader, integration.integration_id)
    held.let_go()
    await until(lambda: receiver.forgeries == 2)
    await hub.emit(ticket("one"))
    await until(lambda: not hub.hub.dispatchers._tasks)
    assert (await ask(reader, "WebhookService/GetEndpoint")).endpoint.state == state
    assert receiver.ids == []


async def test_two_accepted_forgeries_disable_an_endpoint(start_hub: StartHub) -> None:
    """A receiver that stopped verifying is given a second chance, then switched off; a good one in between counts."""
    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        dispatchers, endpoints = hub.hub.dispatchers, hub.hub.registry.endpoints

        async def again(handler: Handler | None) -> Any:  # noqa: ANN401  an Endpoint
            receiver.handler = handler
            clock.monotonic_offset += 61
            await dispatchers.verify_again(endpoints.require(integration.integration_id, "default").record)
            return (await ask(reader, "WebhookService/GetEndpoint")).endpoint

        assert (await again(echo)).state == 2
        assert (await again(None)).state == 2
        assert (await again(partial(answer, 500, b""))).state == 2  # it tells nothing
        assert (await again(echo)).state == 2
        endpoint = await again(echo)
        assert endpoint.state == 5
        assert "wrong signature" in endpoint.disable_reason


async def test_an_integration_that_is_not_active_cannot_verify(start_hub: StartHub) -> None:
    """Nothing is sent for an integration that may receive nothing."""
    hub = await start_hub(**ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await create(reader, receiver)
        await steer(hub, "Suspend", integration)
        error = await fails(ask(reader, "WebhookService/VerifyEndpoint"))
        assert info_of(error).reason == "INTEGRATION_SUSPENDED"
        assert receiver.requests == 0


async def test_a_url_of_the_profile_needs_a_secret_first(start_hub: StartHub) -> None:
    """`endpoint_url` is the endpoint "default": its secret is unknown until RotateEndpointSecret shows one."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED", endpoint_url="https://hooks.stats.example/in")
    [endpoint] = (await ask(reader, "WebhookService/ListEndpoints")).endpoints
    assert (endpoint.endpoint_id, endpoint.state, endpoint.public_key) == ("default", 1, "")
    error = await fails(ask(reader, "WebhookService/VerifyEndpoint"))
    assert info_of(error).reason == "STATE_FORBIDS"
    async with receiving() as receiver:
        await ask(reader, "WebhookService/UpdateEndpoint", endpoint={"url": receiver.url})
        receiver.secret = (await ask(reader, "WebhookService/RotateEndpointSecret")).secret
        assert (await ask(reader, "WebhookService/VerifyEndpoint")).endpoint.state == 2
        await hub.emit(ticket("one"))
        await receiver.until(lambda: receiver.ids == ["one"])


async def test_both_secrets_sign_during_a_rotation(start_hub: StartHub) -> None:
    """A receiver with the former secret works until the overlap ends; without an overlap it fails at once."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        rotated = await ask(reader, "WebhookService/RotateEndpointSecret")
        assert rotated.previous_secret_expire_time.seconds
        await hub.emit(ticket("one"))
        await receiver.until(lambda: receiver.ids == ["one"])
        assert receiver.headers[-1]["webhook-signature"].count("v1,") == 2
        receiver.secret = rotated.secret
        await hub.emit(ticket("two"))
        await receiver.until(lambda: receiver.ids == ["one", "two"])
        await ask(reader, "WebhookService/RotateEndpointSecret", overlap={"seconds": 0})
        await hub.emit(ticket("three"))
        endpoint = await endpoint_when(reader, lambda one: one.failed_attempts)
        assert endpoint.http_status == 401


@pytest.fixture
async def tls_receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    """A receiver that speaks TLS with a certificate that it has signed itself."""
    made = certify("receiver")
    file = tmp_path / "receiver.pem"
    file.write_bytes(made.pem + made.key_pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    async with receiving(tls=context) as receiver:
        yield receiver


async def test_forbidden_urls_are_refused(hub: RunningHub) -> None:
    """The error names the field; nothing is made."""
    _, reader = await hub.register("TICKET_CREATED")
    for url in ("http://hooks.example.com/", "https://127.0.0.1/", "https://0x7f.1/", "https://a.example:22/", "x"):
        error = await fails(ask(reader, "WebhookService/CreateEndpoint", endpoint={"url": url}))
        assert info_of(error).reason == "INVALID_REQUEST", url
        assert "endpoint.url" in (error.details() or "")
    assert list((await ask(reader, "WebhookService/ListEndpoints")).endpoints) == []
