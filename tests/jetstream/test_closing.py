"""How soon what is taken away at one of three hubs has reached the streams at all of them: measured with TORTURE=1."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from tickets.hub.v1 import admin_service_pb2

from tests.conftest import REGISTRATION, Subscriber, asked, reason_of
from tests.jetstream.conftest import TORTURE, Replica
from tests.jetstream.servers import PATIENCE, Cluster
from tests.processes import Serving, serving

ROUNDS = 100
STREAMS = 3
"""Open at each hub: an integration has ten subscriptions at most."""


@asynccontextmanager
async def unheard(hub: Serving) -> AsyncIterator[None]:
    """Take in what a hub logs, so that it never waits for somebody to do so."""
    assert hub.process.stderr is not None
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
        request = admin_service_pb2.SetScopesRequest(integration_id=self.id, scopes=asked(*scopes), reason="measured")
        await self.ask("SetScopes", request)


async def until_noticed(stream: Subscriber, taken: str) -> float:
    """When a stream ends, or says that a scope is gone."""
    if taken == "remove_a_scope":
        while not (await stream.frame()).HasField("grants_changed"):
            pass
    else:
        assert reason_of(await stream.ending()) == {"suspend": "INTEGRATION_SUSPENDED"}.get(taken, "KEY_REVOKED")
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


@pytest.mark.skipif(not TORTURE, reason="a measurement, not a test of what must be: TORTURE=1")
async def test_how_soon_streams_end_at_every_hub(
    cluster: Cluster, replica: Replica, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key, a scope, the integration: all streams at all hubs are told; how soon is printed, from the call on."""
    await replica(cluster.url)  # the streams are there, so that no hub has to wait for them
    async with AsyncExitStack() as stack:
        hubs = []
        for server in cluster.servers:
            settings = {"HUB_STORAGE": server.url, "HUB_NATS_REPLICAS": "3"}
            hubs.append(await stack.enter_async_context(serving(cwd=tmp_path, **settings)))
            await stack.enter_async_context(unheard(hubs[-1]))
        admin = (await hubs[0].first_keys())["HUB_ADMIN_KEY"]
        fields: dict[str, Any] = {**REGISTRATION, "scopes": asked("TICKET_CREATED", "MEMBER_VERIFIED")}
        request = admin_service_pb2.RegisterIntegrationRequest(**fields)
        scene = Scene(hubs, admin, await hubs[0].caller(admin).call("AdminService/RegisterIntegration", request))
        for taken in ("revoke_the_key", "remove_a_scope", "suspend"):
            delays = sorted([one for _ in range(ROUNDS) for one in await measured(scene, taken)])
            shown = ", ".join(
                f"p{share:g} {delays[int(len(delays) * share / 100)]:.1f}" for share in (50, 90, 99, 99.9)
            )
            with capsys.disabled():
                print(f"\n{taken}: {len(delays)} streams, ms: {shown}, worst {delays[-1]:.1f}")  # noqa: T201
