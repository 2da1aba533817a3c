"""A mixed load for a long time: emits, streams that come and go, cancelled calls, rotated keys; what is left of it."""

import asyncio
import random
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import Any

import grpc
import msgspec
from tickets.hub.v1 import admin_service_pb2, admin_service_pb2_grpc

from bench import events, loads, machine, report, scene
from bench.observed import Look
from bench.servers import ROOT, Server, channel, piped

INTEGRATIONS = 20
WARM_UP, QUIET = 20.0, 5.0
"""Seconds of load before the first look, and of silence before each look."""


class Soaked(msgspec.Struct):
    """What a soak tells: before and after, and the steps of the event loop that were long."""

    machine: dict[str, str]
    seconds: int
    calls: int
    before: dict[str, float]
    after: dict[str, float]
    long_steps: int
    busy_steps: int
    worst: list[str]


class Churn:
    """The mixed load, from this process; what it does is random, and counted."""

    def __init__(self, hub: Server, views: list[scene.View]) -> None:
        self.calls = 0
        self._hub = hub
        self._views = views
        self._next = 0
        self._until = 0.0

    async def run(self, seconds: float) -> None:
        """Load the hub for so long."""
        self._until = time.monotonic() + seconds
        async with channel(self._hub.target) as connection:
            works = [self._emit(connection), self._rotate(connection)]
            await asyncio.gather(*works, *(self._subscribe(connection, view) for view in self._views))

    def _goes_on(self) -> bool:
        self.calls += 1
        return time.monotonic() < self._until

    async def _emit(self, connection: grpc.aio.Channel) -> None:
        one, many = self._method(connection, scene.EMIT), self._method(connection, scene.EMIT_BATCH)
        key = loads.metadata(self._hub.keys["HUB_BOT_KEY"])
        while self._goes_on():
            batch = random.choice([0, 0, 0, 1, 10, 100])
            call = (many if batch else one)(events.emit_request(self._next, batch), metadata=key, timeout=30)
            self._next += max(1, batch)
            if random.random() < 0.05:
                call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            await asyncio.sleep(random.uniform(0, 0.02))

    async def _subscribe(self, connection: grpc.aio.Channel, view: scene.View) -> None:
        """Streams that last up to two seconds, from anywhere."""
        subscribe: Any = connection.unary_stream(scene.SUBSCRIBE)
        while self._goes_on():
            stream = view.stream(random.choice(["a", "b"]), latest=random.random() < 0.8)
            call = subscribe(stream.request, metadata=loads.metadata(view.key))
            with suppress(TimeoutError, grpc.aio.AioRpcError):
                async with asyncio.timeout(random.uniform(0.01, 2)):
                    while await call.read() is not grpc.aio.EOF:
                        pass
            call.cancel()

    async def _rotate(self, connection: grpc.aio.Channel) -> None:
        """Keys that end at once, under open streams."""
        admin = admin_service_pb2_grpc.AdminServiceStub(connection)
        key = loads.metadata(self._hub.keys["HUB_ADMIN_KEY"])
        while self._goes_on():
            view = random.choice(self._views)
            request = admin_service_pb2.RotateKeyRequest(integration_id=view.integration_id)
            request.overlap.SetInParent()
            view.key = (await admin.RotateKey(request, metadata=key, timeout=30)).key.secret
            await asyncio.sleep(0.2)

    @staticmethod
    def _method(connection: grpc.aio.Channel, name: str) -> Any:  # noqa: ANN401  grpc's callable
        return connection.unary_unary(name)


async def soak(seconds: float) -> None:
    """Load a hub, and tell what it holds before and after."""
    with tempfile.TemporaryDirectory(prefix="soak-") as data:
        words = [sys.executable, "-m", "bench.observed", data]
        process = await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdin=PIPE, stdout=PIPE, limit=1 << 24)
        try:
            told = msgspec.json.decode(await piped(process.stdout).readline())
            keys = {f"HUB_{role}_KEY": key for role, key in told["keys"].items()}
            result = await _soak(Server(f"127.0.0.1:{told['port']}", process.pid, keys), process, seconds)
        finally:
            process.stdin.close() if process.stdin else None
            await process.wait()
    for name, value in result.before.items():
        print(f"{name:12} {value:12,.0f} -> {result.after[name]:12,.0f}")
    print(f"steps over 10 ms: {result.long_steps}, {result.busy_steps} of them on the processor for that long")
    print("\n".join(result.worst))
    report.save_soak(result)


async def _soak(hub: Server, process: Process, seconds: float) -> Soaked:
    views = [await scene.register(hub, hub.keys["HUB_ADMIN_KEY"]) for _ in range(INTEGRATIONS)]
    churn = Churn(hub, views)
    await churn.run(WARM_UP)
    before, _ = await _look(hub, process)
    await churn.run(seconds)
    after, look = await _look(hub, process)
    busy = [step for step in look.steps if step.cpu > 0.010]
    worst = sorted(look.steps, key=lambda step: -step.cpu)[:10]
    return Soaked(
        machine=machine.described(),
        seconds=round(seconds),
        calls=churn.calls,
        before=before,
        after=after,
        long_steps=len(look.steps),
        busy_steps=len(busy),
        worst=[f"{step.seconds * 1e3:.1f} ms, {step.cpu * 1e3:.1f} ms of them busy: {step.what}" for step in worst],
    )


async def _look(hub: Server, process: Process) -> tuple[dict[str, float], Look]:
    await asyncio.sleep(QUIET)
    piped(process.stdin).write(b"look\n")
    look = msgspec.json.decode(await piped(process.stdout).readline(), type=Look)
    usage = machine.usage(hub.pid)
    held = {"tasks": look.tasks, "objects": look.objects, "threads": usage.threads, "descriptors": usage.descriptors}
    return {**held, "memory KB": usage.memory // 1024}, look
