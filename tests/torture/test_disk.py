"""A full disk and a failing disk: nothing is acknowledged that is not stored, and reads and streams continue."""

import asyncio
import time
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tickets.hub.v1 import admin_service_pb2, event_service_pb2

from hub import metrics
from hub.model import Kind
from tests.delivery.test_drain import register
from tests.support.calls import ask, detail_of, fails, reason_of, subscriptions
from tests.support.events import ids, ticket
from tests.support.hubs import PATIENCE, RunningHub, emit, log_of, until
from tests.support.privacy import DONE, LONGER, USER, by, done, erase_user
from tests.support.processes import serving
from tests.support.streams import names_until, notice
from tests.torture.conftest import Compile

SHIM = Path(__file__).parents[1] / "storage" / "fsync_shim.c"


async def set_room(hub: RunningHub, pages: int) -> None:
    """Let the database grow by so many pages, then be as full as a disk is; 0: as much as it likes."""
    writer = hub.hub.log._store.write_connection  # type: ignore[attr-defined]  # it is the embedded log
    [[now]] = await writer.execute_fetchall("PRAGMA page_count")
    await writer.execute_fetchall(f"PRAGMA max_page_count = {now + pages if pages else 2**30}")


async def test_a_full_disk_refuses_only_writes(hub: RunningHub) -> None:
    """STORAGE_FULL with RetryInfo for writes; streams and reads continue; with room everything works again."""
    integration, reader = await hub.register("TICKET_CREATED")
    stored = ids("before", 2_000)
    await emit(hub, stored)
    stream = await reader.subscribe(earliest={}, heartbeat_interval={"seconds": 1}, max_batch_size=1)
    await set_room(hub, 1)
    refusals = 0
    for number in range(60):
        names = ids(f"during{number}-", 100 if number < 40 else 1)
        [outcome] = await asyncio.gather(emit(hub, names), return_exceptions=True)
        if not isinstance(outcome, BaseException):
            stored += names
            continue
        assert isinstance(outcome, grpc.aio.AioRpcError)
        assert (outcome.code(), reason_of(outcome)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORAGE_FULL")
        assert detail_of(outcome, error_details_pb2.RetryInfo).retry_delay.seconds
        refusals += 1
    assert refusals > 30
    assert await names_until(stream, stored[-1]) == stored
    assert (await notice(stream, "heartbeat")).heartbeat.caught_up
    reply = await hub.admin.call(
        "AdminService/GetIntegration",
        admin_service_pb2.GetIntegrationRequest(integration_id=integration.integration_id),
    )
    assert reply.integration == integration
    assert not hub.hub.failed.done()
    await set_room(hub, 0)
    await emit(hub, ["again"])
    assert await names_until(stream, "again") == ["again"]
    assert [entry.id for entry in await log_of(hub, Kind.EVENT)] == [*stored, "again"]


async def test_after_a_failed_sync_the_hub_serves_reads_only(compiled: Compile, tmp_path: Path) -> None:
    """No acknowledgement from then on, NOT_SERVING, streams alive, a clean end; a restart has all that was promised."""
    flag = tmp_path / "flag"
    faulty = {"LD_PRELOAD": str(compiled(SHIM)), "FAIL_FLAG": str(flag)}
    async with serving(cwd=tmp_path, **faulty) as hub:
        keys = await hub.first_keys()
        reader, unused = [await register(hub, keys["HUB_ADMIN_KEY"]) for _ in range(2)]
        bot = hub.caller(keys["HUB_BOT_KEY"])
        stream = await reader.subscribe(heartbeat_interval={"seconds": 1})
        one = event_service_pb2.EmitEventRequest(event=ticket("before"))
        await bot.call("EventService/EmitEvent", one)
        await names_until(stream, "before")
        watching = health_pb2_grpc.HealthStub(hub.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        flag.write_text("hub.db-wal")
        for name in ("while", "then"):
            one = event_service_pb2.EmitEventRequest(event=ticket(name))
            failure = await fails(bot.call("EventService/EmitEvent", one))
            assert (failure.code(), reason_of(failure)) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        async with asyncio.timeout(PATIENCE):
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        flag.unlink()
        one = event_service_pb2.EmitEventRequest(event=ticket("after"))
        failure = await fails(bot.call("EventService/EmitEvent", one))
        assert reason_of(failure) == "STORAGE_UNAVAILABLE"
        await notice(stream, "heartbeat")
        reply = await hub.caller(keys["HUB_ADMIN_KEY"]).call(
            "AdminService/ListIntegrations", admin_service_pb2.ListIntegrationsRequest()
        )
        assert len(reply.integrations) == 2
        await subscriptions(unused)  # when its key was used cannot be stored, which must not end the hub
        await hub.heard("put off")
        assert (await hub.stop()).code == 0
    async with serving(cwd=tmp_path) as hub:
        stream = hub.caller(reader.key).open(earliest={})
        await hub.caller(keys["HUB_BOT_KEY"]).call(
            "EventService/EmitEvent", event_service_pb2.EmitEventRequest(event=ticket("later"))
        )
        names = await names_until(stream, "later")
        assert names in (["before", "later"], ["before", "while", "later"])  # its caller was never refused


async def test_a_full_disk_delays_an_erasure(hub: RunningHub) -> None:
    """A request that cannot be stored is refused; an accepted one finishes once there is room."""
    mine, others = ids("mine", 600), ids("other", 600)
    await emit(hub, mine, lambda name: by(USER, name))
    await emit(hub, others)
    await set_room(hub, 1)
    others += await fill(hub)
    answers = await asyncio.gather(*(erase_user(hub, LONGER) for _ in range(60)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert "STORAGE_FULL" in {reason_of(refusal) for refusal in refused}
    assert [entry.id for entry in await log_of(hub, Kind.EVENT)] == [*mine, *others]
    await set_room(hub, 2)
    erasure = await erase_user(hub, request_id="r")
    others += await fill(hub)
    put_off = metrics.PUT_OFF.values["erasures",]
    await until(lambda: metrics.PUT_OFF.values["erasures",] > put_off)
    waiting = (await ask(hub.bot, "PrivacyService/GetErasure", erasure_id=erasure.erasure_id)).erasure
    assert waiting.state != DONE
    assert not hub.hub.failed.done()
    await set_room(hub, 0)
    assert (await done(hub.bot, erasure.erasure_id)).events_erased == 600
    assert [entry.id for entry in await log_of(hub, Kind.EVENT)] == others


async def fill(hub: RunningHub) -> list[str]:
    """Emit until nothing fits any more; the names of what did."""
    stored: list[str] = []
    for number in range(500):
        name = f"fill{number}-{len(stored)}-{'x' * 20}-{time.monotonic_ns()}"
        [outcome] = await asyncio.gather(emit(hub, [name]), return_exceptions=True)
        if isinstance(outcome, BaseException):
            return stored
        stored.append(name)
    raise AssertionError("the disk was never full")
