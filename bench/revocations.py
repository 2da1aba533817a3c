"""How soon a revocation at one of three hubs has reached the streams at all of them: ``python -m bench revocations``.

Three NATS servers that sync each write, three hubs, nine streams; servers and callers are those of the tests. That the
streams end at all is a test: ``tests/jetstream/test_replicas.py``.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration
from tickets.hub.v1 import admin_service_pb2

from tests.support.calls import reason_of
from tests.support.hubs import REGISTRATION, Subscriber, scope_requests
from tests.support.nats_servers import PATIENCE, Cluster
from tests.support.processes import Serving, serving

STREAMS = 3
"""Open at each hub: an integration has ten subscriptions at most."""


@asynccontextmanager
async def unheard(hub: Serving) -> AsyncIterator[None]:
    """Take in what a hub logs, so that it never waits for somebody to do so."""
    if hub.process.stderr is None:
        raise RuntimeError("the hub's log is not read")
    taking = asyncio.create_task(hub.process.stderr.read())
    yield
    taking.cancel()
    await asyncio.wait([taking])


class Scene:
    """Hubs, an integration, and streams of it at each hub."""

    def __init__(self, hubs: Sequence[Serving], admin: str, registered: Any) -> None:  # noqa: ANN401  a message
        self.id = registered.integration.integration_id
        self.key = registered.key
        self._hubs = hubs
        self._admin = admin

    async def ask(self, method: str, request: Any, hub: int = 0) -> Any:  # noqa: ANN401  any message
        """Call a method of the AdminService, at the first hub unless said otherwise."""
        return await self._hubs[hub].caller(self._admin).call(f"AdminService/{method}", request)

    async def streams(self) -> list[Subscriber]:
        """Streams at every hub, once all know what the first one knows."""
        truth = await self._seen(0)
        async with asyncio.timeout(PATIENCE):
            for number in range(len(self._hubs)):
                while await self._seen(number) != truth:
                    pass
        callers = [hub.caller(self.key.secret) for hub in self._hubs for _ in range(STREAMS)]
        return await asyncio.gather(*(one.subscribe(subscription_id=f"s{n}") for n, one in enumerate(callers)))

    async def _seen(self, hub: int) -> tuple[str, list[str]]:
        request = admin_service_pb2.GetIntegrationRequest(integration_id=self.id)
        integration = await self.ask("GetIntegration", request, hub)
        keys = await self.ask("ListKeys", admin_service_pb2.ListKeysRequest(integration_id=self.id), hub)
        return integration.integration.etag, sorted(key.key_id for key in keys.keys)

    async def revoke_the_key(self) -> None:
        """Take another key, and end the one that the streams have."""
        request = admin_service_pb2.RotateKeyRequest(integration_id=self.id, overlap=Duration())
        self.key = (await self.ask("RotateKey", request)).key

    async def remove_a_scope(self) -> None:
        """Leave one of two."""
        await self._set_scopes("TICKET_CREATED")

    async def suspend(self) -> None:
        """Suspend the integration."""
        request = admin_service_pb2.SuspendIntegrationRequest(integration_id=self.id, reason="measured")
        await self.ask("SuspendIntegration", request)

    async def give_back(self, taken: str) -> None:
        """Have it as it was."""
        if taken == "suspend":
            request = admin_service_pb2.ResumeIntegrationRequest(integration_id=self.id, reason="measured")
            await self.ask("ResumeIntegration", request)
        if taken == "remove_a_scope":
            await self._set_scopes("TICKET_CREATED", "MEMBER_VERIFIED")

    async def _set_scopes(self, *scopes: str) -> None:
        request = admin_service_pb2.SetScopesRequest(
            integration_id=self.id, scopes=scope_requests(*scopes), reason="measured"
        )
        await self.ask("SetScopes", request)


async def until_noticed(stream: Subscriber, taken: str) -> float:
    """When a stream ends, or says that a scope is gone."""
    if taken == "remove_a_scope":
        while not (await stream.frame()).HasField("grants_changed"):
            pass
    else:
        wanted = {"suspend": "INTEGRATION_SUSPENDED"}.get(taken, "KEY_REVOKED")
        if (reason := reason_of(await stream.ending())) != wanted:
            raise RuntimeError(f"a stream ended with {reason} instead of {wanted}")
    return time.perf_counter()


async def measured(scene: Scene, taken: str) -> list[float]:
    """Milliseconds from the call that takes something away to its arrival at each stream."""
    streams = await scene.streams()
    noticed = [asyncio.create_task(until_noticed(stream, taken)) for stream in streams]
    began = time.perf_counter()
    await getattr(scene, taken)()
    delays = [(at - began) * 1e3 for at in await asyncio.gather(*noticed)]
    for stream in streams:
        stream.call.cancel()
    await scene.give_back(taken)
    return delays


async def measure(rounds: int) -> None:
    """Revoke a key, remove a scope and suspend the integration, so many times each, and print the percentiles."""
    with tempfile.TemporaryDirectory(prefix="bench-") as data:
        cluster = Cluster(Path(data, "nats"))
        try:
            cluster.start()
            async with AsyncExitStack() as stack:
                await revocations(await started(stack, cluster, Path(data)), rounds)
        finally:
            cluster.stop()


async def started(stack: AsyncExitStack, cluster: Cluster, data: Path) -> Scene:
    """A hub at each server, and an integration with two scopes."""
    hubs, keys = await hubs_of(stack, cluster, data)
    admin = keys["HUB_ADMIN_KEY"]
    fields: dict[str, Any] = {**REGISTRATION, "scopes": scope_requests("TICKET_CREATED", "MEMBER_VERIFIED")}
    request = admin_service_pb2.RegisterIntegrationRequest(**fields)
    return Scene(hubs, admin, await hubs[0].caller(admin).call("AdminService/RegisterIntegration", request))


async def hubs_of(stack: AsyncExitStack, cluster: Cluster, data: Path) -> tuple[list[Serving], dict[str, str]]:
    """A hub at each server, and their first keys."""
    hubs: list[Serving] = []
    for number, server in enumerate(cluster.servers):
        (data / str(number)).mkdir()
        settings = {"HUB_STORAGE": server.url, "HUB_NATS_REPLICAS": "3"}
        hubs.append(await stack.enter_async_context(serving(cwd=data / str(number), **settings)))
        await stack.enter_async_context(unheard(hubs[-1]))
    return hubs, await hubs[0].first_keys()


async def revocations(scene: Scene, rounds: int) -> None:
    """Print how soon each kind arrives."""
    for taken in ("revoke_the_key", "remove_a_scope", "suspend"):
        delays = sorted([one for _ in range(rounds) for one in await measured(scene, taken)])
        shown = ", ".join(f"p{share:g} {delays[int(len(delays) * share / 100)]:.1f}" for share in (50, 90, 99, 99.9))
        print(f"{taken}: {len(delays)} streams, ms: {shown}, worst {delays[-1]:.1f}", flush=True)
