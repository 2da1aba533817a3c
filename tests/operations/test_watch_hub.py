"""AdminService.WatchHub tells an admin, and nobody else, how the hub is doing."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    event_pb2,
    event_service_pb2,
    hub_status_pb2,
    integration_pb2,
    permissions_pb2,
)

from tests.operations.scraping import get, scrape
from tests.support.calls import ask, reason_of
from tests.support.hubs import PATIENCE, Caller, FakeClock, RunningHub, StartHub, Subscriber
from tests.support.receivers import ALLOWED, connect, receiving


def watch(caller: Caller, hub: RunningHub, seconds: int = 1) -> Any:  # noqa: ANN401  a call
    """An open WatchHub."""
    stub = admin_service_pb2_grpc.AdminServiceStub(hub.channel)
    request = hub_status_pb2.WatchHubRequest(interval=Duration(seconds=seconds))
    return stub.WatchHub(request, metadata=caller.metadata, timeout=PATIENCE)


def created(event_id: str) -> event_pb2.Event:
    """A ticket."""
    event = event_pb2.Event(id=event_id, guild_id="197038439483310086")
    event.ticket_created.creator_user_id = "53908232506183680"
    return event


async def test_an_admin_sees_rates_readers_and_the_store(hub: RunningHub) -> None:
    """The first message comes at once; the next one counts what has happened."""
    integration, reader = await hub.register("TICKET_CREATED")
    call = watch(hub.admin, hub)
    first = await call.read()
    assert first.store.kind == hub.settings.storage
    assert (first.store.current, first.store.failed, first.reader_count) == (True, False, 0)
    assert first.store.disk_size_bytes >= first.store.disk_free_bytes > 0
    stream = await reader.subscribe(subscription_id="main")
    await hub.emit(created("one"))
    await stream.events(1)
    second = await call.read()
    assert second.accepted_per_second > 0
    assert second.delivered_per_second > 0
    assert second.append.p99.nanos > 0
    assert [(one.status, one.reason) for one in second.emits] == [("OK", "")]
    assert dict(second.streams) == {"live": 1}
    [shown] = second.readers
    assert (shown.integration_id, shown.subscription_id) == (integration.integration_id, "main")
    assert (shown.integration_name, shown.connected, shown.committed) == ("Statistics", True, False)


async def test_every_field_is_filled_in(start_hub: StartHub) -> None:
    """Of the status, of its store, its readers and its keys; of many readers it has twenty, and their number."""
    hub = await start_hub(max_subscriptions=30, max_streams_per_integration=30)
    end = Timestamp()
    end.FromDatetime(datetime.now(UTC) + timedelta(days=5))
    _, reader = await hub.register("TICKET_CREATED", key_expire_time=end)
    streams = [await reader.subscribe(subscription_id=f"s{number}") for number in range(21)]
    await hub.emit(created("one"))
    for stream in streams:
        await stream.events(1)
    status = await until_told(watch(hub.admin, hub), lambda told: told.delivered_per_second > 0)
    assert empty(status) == {"endpoints"}
    only_embedded = {"bytes", "disk_free_bytes", "disk_size_bytes"} if hub.settings.storage != "sqlite" else set()
    assert empty(status.store) == {"failed", "damaged_entries", "backup_time"} | only_embedded
    assert empty(status.readers[0]) == {"committed", "endpoint_id", "failing_since"}
    assert (empty(status.expiring_keys[0]), len(status.expiring_keys)) == (set(), 1)
    assert (status.reader_count, len(status.readers)) == (21, 20)


@pytest.mark.usefixtures("fast_retries")
async def test_a_deleted_integration_raises_no_alarm(start_hub: StartHub) -> None:
    """Its committed reader would lose events in the end, its endpoint fails, its key expires: nobody can help it."""
    hub = await start_hub(**ALLOWED)
    end = Timestamp()
    end.FromDatetime(datetime.now(UTC) + timedelta(days=5))
    integration, reader = await hub.register("TICKET_CREATED", key_expire_time=end)
    stream = await reader.subscribe()
    await hub.emit(created("one"))
    await stream.events(1)
    await ask(reader, "EventService/CommitCursor", cursor=stream.frames[-1].cursor)
    async with receiving() as receiver:
        await connect(reader, receiver, "main")
    await hub.emit(created("two"))
    before = await until_told(watch(hub.admin, hub), lambda told: told.endpoints["FAILING"] == 1)
    assert (before.reader_count, len(before.expiring_keys)) == (2, 1)
    deletion = {"integration_id": integration.integration_id, "reason": "It is gone."}
    await ask(hub.admin, "AdminService/DeleteIntegration", **deletion)
    after = await watch(hub.admin, hub).read()
    assert (after.reader_count, list(after.expiring_keys), after.endpoints["FAILING"]) == (0, [], 0)


def empty(message: Any) -> set[str]:  # noqa: ANN401  any message
    """The fields that have no value."""
    return {field.name for field in message.DESCRIPTOR.fields} - {field.name for field, _ in message.ListFields()}


@pytest.mark.usefixtures("fast_retries")
async def test_an_admin_sees_which_endpoints_fail(start_hub: StartHub) -> None:
    """An endpoint is a reader like any other: how far it is behind, and since when it fails; then that it is well."""
    status = 500

    async def behave(_body: dict[str, Any], _: web.Request) -> web.Response | None:
        return web.Response(status=status)

    hub = await start_hub(**ALLOWED)
    integration, reader = await hub.register("TICKET_CREATED")
    async with receiving(behave) as receiver:
        await connect(reader, receiver, "main")
        await hub.emit(created("one"))
        call = watch(hub.admin, hub)
        failing = await until_told(call, lambda told: told.endpoints["FAILING"] == 1)
        [shown] = failing.readers
        assert (shown.integration_id, shown.subscription_id, shown.endpoint_id) == (
            integration.integration_id,
            "",
            "main",
        )
        assert (shown.connected, shown.committed) == (True, True)
        assert 0 < shown.lag.ToNanoseconds() < PATIENCE * 1e9
        assert 0 < shown.failing_since.ToNanoseconds() < failing.time.ToNanoseconds()
        status = 204
        well = await until_told(call, lambda told: told.endpoints["ACTIVE"] == 1 and not told.readers[0].lag.nanos)
        assert not well.readers[0].HasField("failing_since")
        assert well.reader_count == 1


async def until_told(call: Any, is_so: Callable[[hub_status_pb2.HubStatus], bool]) -> hub_status_pb2.HubStatus:  # noqa: ANN401  a call
    """The first status of which something is true."""
    told: hub_status_pb2.HubStatus = await call.read()
    while not is_so(told):
        told = await call.read()
    return told


async def test_only_admins_may_watch(hub: RunningHub) -> None:
    """Neither the bot nor an integration, whatever its scopes."""
    _, reader = await hub.register("TICKET_CREATED")
    for caller in (hub.bot, reader, hub.caller("")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch(caller, hub).read()
        assert reason_of(caught.value) in {"ROLE_NOT_ALLOWED", "KEY_MISSING"}


@pytest.mark.parametrize("seconds", [0, 61, -1])
async def test_the_interval_is_between_a_second_and_a_minute(hub: RunningHub, seconds: int) -> None:
    """Between a second and a minute; else the request is refused with the field."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch(hub.admin, hub, seconds).read()
    assert reason_of(caught.value) == "INVALID_REQUEST"


async def test_the_number_of_watchers_is_limited(start_hub: StartHub) -> None:
    """One more is refused with the limit; a scrape shows it; when one has gone there is a place again."""
    hub = await start_hub(http_listen="127.0.0.1:0", max_tails=1)
    first = watch(hub.admin, hub)
    await first.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch(hub.admin, hub).read()
    assert reason_of(caught.value) == "TOO_MANY_STREAMS"
    assert (await scrape(hub.hub.http.port)).value("hub_limit_used", setting="max_tails") == 1
    first.cancel()
    async with asyncio.timeout(PATIENCE):
        while (await scrape(hub.hub.http.port)).value("hub_limit_used", setting="max_tails"):  # noqa: ASYNC110  a look
            await asyncio.sleep(0.05)
    assert (await watch(hub.admin, hub).read()).version


async def test_a_stop_ends_watch_hub_with_a_reason(start_hub: StartHub) -> None:
    """A watcher ends with DRAINING, and the hub is not ready from then on."""
    hub = await start_hub(http_listen="127.0.0.1:0")
    call = watch(hub.admin, hub)
    await call.read()
    assert (await get(hub.hub.http.port, "/readyz")).status == 200
    await hub.hub.stop()
    assert reason_of(await Subscriber(call).ending()) == "DRAINING"


async def second_admin(hub: RunningHub, end: Timestamp | None = None) -> integration_pb2.Key:
    """A key of another admin."""
    request = admin_service_pb2.CreateServiceKeyRequest(
        role=permissions_pb2.ROLE_ADMIN, display_name="second", expire_time=end
    )
    key: integration_pb2.Key = (await hub.admin.call("AdminService/CreateServiceKey", request)).key
    return key


async def test_a_revoked_key_ends_watch_hub(hub: RunningHub) -> None:
    """At the next message, with the reason; another admin watches on."""
    key = await second_admin(hub)
    call, other = watch(hub.caller(key.secret), hub), watch(hub.admin, hub)
    assert (await call.read()).version == (await other.read()).version
    await hub.admin.call("AdminService/RevokeKey", admin_service_pb2.RevokeKeyRequest(key_id=key.key_id))
    assert reason_of(await Subscriber(call).ending()) == "KEY_REVOKED"
    assert (await other.read()).store.current


async def test_an_expired_key_ends_watch_hub(start_hub: StartHub) -> None:
    """Likewise, at the first message after its end."""
    clock = FakeClock()
    hub = await start_hub(clock)
    end = Timestamp()
    end.FromMicroseconds(clock.now() + 3600 * 1_000_000)
    call = watch(hub.caller((await second_admin(hub, end)).secret), hub)
    await call.read()
    clock.monotonic_offset = 3601
    assert reason_of(await Subscriber(call).ending()) == "KEY_EXPIRED"


async def test_calls_with_wrong_keys_do_not_count_as_emits(hub: RunningHub) -> None:
    """Only calls of the bot are counted."""
    call = watch(hub.admin, hub)
    await call.read()
    request = event_service_pb2.EmitEventRequest(event=created("one"))
    for key in ("", *(f"tkt_bot_aaaaaaaaaaaa_{number:030}" for number in range(20))):
        with pytest.raises(grpc.aio.AioRpcError):
            await hub.caller(key).call("EventService/EmitEvent", request)
    await hub.emit(created("one"))
    assert {(one.status, one.reason) for one in (await call.read()).emits} == {("OK", "")}
