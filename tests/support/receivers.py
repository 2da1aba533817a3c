"""Receivers of webhooks on loopback: real HTTP servers, which verify with the official library of Standard Webhooks."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError
from tickets_hub.webhooks import WebhookError, verify

from hub.clock import Clock
from tests.support.calls import ask
from tests.support.hubs import PATIENCE, Caller

ALLOWED = {"webhook_allow": "127.0.0.0/8,::1/128"}
"""The settings of a hub that may send to them."""

Behave = Callable[[dict[str, Any], web.Request], Awaitable[web.StreamResponse | None]]
"""Answers a verified body in its own way; None: as usual."""


class Receiver:
    """A receiver that does what docs/webhooks.md says.

    Attributes:
        bodies: the verified bodies, in order, without the challenges.
        headers: theirs.
        forgeries: how many requests had a wrong signature.
        handler: answers all requests in place of all this.
        clock: by which it judges how old a request is; None: this machine's, as the official library does.
    """

    def __init__(self, behave: Behave | None = None) -> None:
        self.url = ""
        self.secret = ""
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.requests = 0
        self.forgeries = 0
        self.behave = behave
        self.handler: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.clock: Clock | None = None
        self._news = asyncio.Condition()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Verify a request, then take it."""
        self.requests += 1
        if self.handler is not None:
            return await self.handler(request)
        data = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            self._verify(data, headers)
        except (WebhookVerificationError, WebhookError):
            self.forgeries += 1
            return web.Response(status=401)
        body = json.loads(data)
        if isinstance(body, dict) and body["type"] == "verification":
            return web.json_response({"challenge": body["data"]["challenge"]})
        answer = await self.behave(body, request) if self.behave is not None else None
        if answer is None or answer.status < 300:
            async with self._news:
                self.bodies.append(body)
                self.headers.append(headers)
                self._news.notify_all()
        return answer or web.Response(status=204)

    def _verify(self, data: bytes, headers: dict[str, str]) -> None:
        """Check the signature, and that the request is of the present."""
        secret = self.secret or "whsec_AA=="
        if self.clock is None:
            Webhook(secret).verify(data, headers)
        else:
            verify(headers, data, secret, now=self.clock.now() / 1e6)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of all bodies, in order."""
        return [event for body in self.bodies if body["type"] == "events" for event in body["data"]["events"]]

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        return [event["id"] for event in self.events]

    @property
    def types(self) -> list[str]:
        """The types of all bodies."""
        return [body["type"] for body in self.bodies]

    async def until(self, is_there: Callable[[], bool]) -> None:
        """Wait until something is true after a body."""
        async with asyncio.timeout(2 * PATIENCE), self._news:
            await self._news.wait_for(is_there)


@asynccontextmanager
async def receiving(
    behave: Behave | None = None, tls: ssl.SSLContext | None = None, address: str = "127.0.0.1"
) -> AsyncIterator[Receiver]:
    """A receiver that runs."""
    receiver = Receiver(behave)
    application = web.Application(client_max_size=1024**2)
    application.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, address, 0, ssl_context=tls)
    await site.start()
    receiver.url = f"{'https' if tls else 'http'}://{address}:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


async def create(caller: Caller, receiver: Receiver, endpoint_id: str = "", **fields: Any) -> Any:  # noqa: ANN401  of an Endpoint
    """Make an endpoint, and tell the receiver its secret."""
    endpoint = {"endpoint_id": endpoint_id, "url": receiver.url} | fields
    made = await ask(caller, "WebhookService/CreateEndpoint", endpoint=endpoint)
    receiver.secret = made.secret
    return made.endpoint


async def connect(caller: Caller, receiver: Receiver, endpoint_id: str = "", **fields: Any) -> Any:  # noqa: ANN401  the same
    """Make an endpoint and verify it; returns it."""
    await create(caller, receiver, endpoint_id, **fields)
    return (await ask(caller, "WebhookService/VerifyEndpoint", endpoint_id=endpoint_id)).endpoint


async def endpoint_when(caller: Caller, is_so: Callable[[Any], bool], endpoint_id: str = "") -> Any:  # noqa: ANN401  an Endpoint
    """The endpoint once something is true of it; it is looked at again and again."""
    async with asyncio.timeout(2 * PATIENCE):
        while True:
            endpoint = (await ask(caller, "WebhookService/GetEndpoint", endpoint_id=endpoint_id)).endpoint
            if is_so(endpoint):
                return endpoint
            await asyncio.sleep(0.02)
