"""The floor of webhooks: a bare aiohttp client that posts bytes it has ready, and the receivers of both."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from aiohttp import web
from tickets_hub.webhooks import WebhookError, verify

from bench.jobs import Outcome, Post
from bench.loads import Go, finish

EVENT = b'"guild_id":"'
"""What each event of a body has once: bodies are counted by it without being parsed."""


async def post(job: Post, go: Go) -> Outcome:
    """Each task posts one request after the other."""
    numbers, done = iter(range(job.calls)), 0

    async def run(session: aiohttp.ClientSession) -> None:
        nonlocal done
        for _ in numbers:
            due = time.perf_counter() + job.pause
            async with session.post(job.target, data=job.body, headers=job.headers) as answer:
                answer.raise_for_status()
                await answer.read()
            done += 1
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await go()
        began, cpu = time.perf_counter(), time.process_time()
        failures = await finish([run(session) for _ in range(job.in_flight)], job.seconds)
        return Outcome(
            events=done * job.events,
            messages=done,
            bytes=done * len(job.body),
            seconds=time.perf_counter() - began,
            cpu=time.process_time() - cpu,
            failures=failures,
        )


class Receiver:
    """Receives at many URLs: answers challenges, refuses forgeries, and counts the events of the rest.

    Attributes:
        secrets: by path, shown when its endpoint was made; a path without one is not verified.
        events: how many came.
        largest: the headers and bytes of the largest body.
        is_dead: from now on it never answers.
        seen: called with each body that holds events.
    """

    def __init__(self) -> None:
        self.port = 0
        self.secrets: dict[str, str] = {}
        self.events = self.bodies = 0
        self.largest: tuple[dict[str, str], bytes] = ({}, b"")
        self.is_dead = False
        self.seen: Callable[[bytes], None] | None = None
        self._news = asyncio.Event()

    def url(self, path: str) -> str:
        """A URL of it."""
        return f"http://127.0.0.1:{self.port}{path}"

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a request as docs/webhooks.md asks for."""
        data = await request.read()
        if self.is_dead:
            await asyncio.Event().wait()
        if count := data.count(EVENT):
            self.events += count
            self.bodies += 1
            if len(data) > len(self.largest[1]):
                self.largest = dict(request.headers), data
            if self.seen is not None:
                self.seen(data)
            self._news.set()
        elif (secret := self.secrets.get(request.path)) is not None:
            try:
                told = verify(request.headers, data, secret)
            except WebhookError:
                return web.Response(status=401)
            if told["type"] == "verification":
                return web.Response(body=msgspec.json.encode(told["data"]))
        return web.Response(status=204)

    async def until(self, events: int, seconds: float) -> None:
        """Wait until so many events have come."""
        async with asyncio.timeout(seconds):
            while self.events < events:
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on loopback."""
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/{path:.*}", receiver.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        await runner.cleanup()
