"""How to cause each failure of limits and of the hub itself."""

import asyncio
import sqlite3
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from msgspec.structs import replace

from hub.delivery.cursor import CursorSeal
from hub.model import Cursor
from hub.privacy import lookups
from hub.privacy.erasing import Eraser
from hub.storage.checksum import checksum
from hub.storage.sqlite.log import SqliteLog
from hub.storage.sqlite.rows import decoded, rows_of
from tests.support.calls import ask, fails, reason_of
from tests.support.events import event
from tests.support.failures import ENDPOINT, TICKET, Failure, metadata, retry_seconds, row
from tests.support.hubs import Caller, RunningHub, StartHub, emit_all, require_embedded, scope_requests, until
from tests.support.streams import RawStream


@row(grpc.StatusCode.OUT_OF_RANGE)
async def cursor_expired(start_hub: StartHub) -> Failure:
    """A cursor of another log under the same secret: as after a restored backup."""
    secret = "0123456789abcdef" * 2
    hub = await start_hub(secret=secret)
    _, reader = await hub.register("TICKET_CREATED")
    elsewhere = CursorSeal((await hub.hub.log.secrets())[0]).seal(Cursor(4711, 1, 1)).decode()
    return await reader.open(cursor=elsewhere).ending()


@row(grpc.StatusCode.RESOURCE_EXHAUSTED)
async def too_many_streams(start_hub: StartHub) -> Failure:
    """A stream more than an integration may have; one more than the hub may have says when to retry."""
    hub = await start_hub(max_streams_per_integration=2, max_streams=3)
    _, reader = await hub.register("TICKET_CREATED")
    _, another = await hub.register("TICKET_CREATED")
    # A call that nobody holds on to is collected, and with it cancelled.
    streams = [await reader.subscribe(latest={}, subscription_id=name) for name in ("one", "two")]
    error = await reader.open(latest={}, subscription_id="three").ending()
    assert metadata(error) == {"limit": "2", "subscriptions": "one,two"}
    streams.append(await another.subscribe(latest={}, subscription_id="one"))
    in_all = await another.open(latest={}, subscription_id="two").ending()
    assert reason_of(in_all) == "TOO_MANY_STREAMS"
    assert retry_seconds(in_all) > 0
    return error


@row(grpc.StatusCode.RESOURCE_EXHAUSTED)
async def too_many_subscriptions(start_hub: StartHub) -> Failure:
    """A name more than an integration may have, many asked for at once."""
    hub = await start_hub(max_subscriptions=3)
    _, reader = await hub.register("TICKET_CREATED")
    streams = [reader.open(latest={}, subscription_id=str(number)) for number in range(5)]
    ended = [await fails(stream.frame()) for stream in streams[3:]]
    assert [(await stream.frame()).HasField("ready") for stream in streams[:3]] == [True] * 3
    assert {reason_of(error) for error in ended} == {"TOO_MANY_SUBSCRIPTIONS"}
    return ended[0]


@row(grpc.StatusCode.RESOURCE_EXHAUSTED)
async def too_many_installations(start_hub: StartHub) -> Failure:
    """A guild more than may install an integration."""
    hub = await start_hub(max_installations=1)
    integration, _ = await hub.register("TICKET_CREATED")
    who = {"integration_id": integration.integration_id, "acting_user_id": "7"}
    await ask(hub.bot, "DirectoryService/InstallIntegration", guild_id="41", **who)
    return await fails(ask(hub.bot, "DirectoryService/InstallIntegration", guild_id="42", **who))


@row(grpc.StatusCode.RESOURCE_EXHAUSTED)
async def too_many_erasures(start_hub: StartHub) -> Failure:
    """An erasure more than may be under way; once they are done there is room again."""
    hub = await start_hub(max_erasures=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Eraser, "_finish", _nothing)
        await ask(hub.admin, "PrivacyService/EraseUser", user_id="7")
        error = await fails(ask(hub.admin, "PrivacyService/EraseUser", user_id="8"))
    assert retry_seconds(error) > 0
    await until(lambda: not hub.hub.registry.hidden.erasures.unfinished())
    await ask(hub.admin, "PrivacyService/EraseUser", user_id="8")
    return error


async def _nothing(*_: object) -> None:
    """Erase nothing for now."""


@row(grpc.StatusCode.UNAVAILABLE)
async def disclosures_not_ready(start_hub: StartHub) -> Failure:
    """A log that takes longer to go through than a caller waits; the same question later gets its answer."""
    hub = await start_hub()
    await hub.emit(event("a", **TICKET))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookups, "MAX_WAIT", 0.0)
        error = await fails(ask(hub.admin, "PrivacyService/ListDisclosures", user_id="7"))
    assert retry_seconds(error) > 0
    assert not (await ask(hub.admin, "PrivacyService/ListDisclosures", user_id="7")).disclosures
    return error


@row(grpc.StatusCode.RESOURCE_EXHAUSTED)
async def emit_backlog_full(start_hub: StartHub) -> Failure:
    """More events than may wait beside one that does: nothing of the list is stored. Later all of it is."""
    hub = await start_hub(max_emit_backlog=2)
    events = [event(name, **TICKET) for name in "abc"]
    hub.hub.feed.admission.waiting += 1
    for count in (2, 3):
        error = await fails(ask(hub.bot, "EventService/BatchEmitEvents", events=events[:count]))
        assert retry_seconds(error) > 0
    hub.hub.feed.admission.waiting -= 1
    assert [result.duplicate for result in await emit_all(hub, events)] == [False, False, False]
    return error


@row(grpc.StatusCode.RESOURCE_EXHAUSTED)
async def auth_throttled(start_hub: StartHub) -> Failure:
    """One guess too many within a minute."""
    hub = await start_hub(max_failed_authentications=1)
    assert reason_of(await fails(ask(hub.caller("x"), "DirectoryService/ListScopes"))) == "KEY_UNKNOWN"
    error = await fails(ask(hub.caller("y"), "DirectoryService/ListScopes"))
    assert 0 < retry_seconds(error) <= 60
    return error


@row(grpc.StatusCode.RESOURCE_EXHAUSTED)
async def too_many_calls(start_hub: StartHub) -> Failure:
    """A stream without a key more than one address may have open."""
    hub = await start_hub(max_open_calls=1)
    health: Any = health_pb2_grpc.HealthStub(hub.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest())
    await watch.read()
    error = await fails(health.Watch(health_pb2.HealthCheckRequest()).read())
    assert retry_seconds(error) > 0
    return error


@row(grpc.StatusCode.RESOURCE_EXHAUSTED)
async def too_many_changes(start_hub: StartHub) -> Failure:
    """A change more than a developer may make within an hour."""
    hub = await start_hub(max_changes=1)
    _, reader = await hub.register("TICKET_CREATED")
    await ask(reader, "DeveloperService/RotateOwnKey")
    error = await fails(ask(reader, "DeveloperService/RotateOwnKey"))
    assert metadata(error) == {"limit": "1"}
    assert 0 < retry_seconds(error) <= 3_601
    return error


@row(grpc.StatusCode.RESOURCE_EXHAUSTED)
async def storage_full(start_hub: StartHub) -> Failure:
    """A disk without room: SQLite may not take another page."""
    hub = await start_hub()
    require_embedded(hub)
    log = hub.hub.log
    assert isinstance(log, SqliteLog)
    [[pages]] = await log._store.write_connection.rows("PRAGMA page_count")
    await log._store.write_connection.execute_fetchall(f"PRAGMA max_page_count = {pages}")
    events = [event(f"{number}", **TICKET) for number in range(1_000)]
    error = await fails(ask(hub.bot, "EventService/BatchEmitEvents", events=events))
    assert retry_seconds(error) > 0
    await log._store.write_connection.execute_fetchall("PRAGMA max_page_count = 100000")
    assert not any(result.duplicate for result in await emit_all(hub, events))
    return error


@row(grpc.StatusCode.UNAVAILABLE)
async def draining(start_hub: StartHub) -> Failure:
    """A stream while the hub shuts down: a Goodbye, then the end; a new one is refused."""
    hub = await start_hub()
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    await hub.hub.streams.drain(5)
    ending = await stream.ending()
    goodbye = stream.frames[-1].goodbye
    assert (goodbye.reconnect, goodbye.retry_delay.ToTimedelta().total_seconds()) == (True, retry_seconds(ending))
    return await reader.open(latest={}).ending()


@row(grpc.StatusCode.UNAVAILABLE)
async def storage_unavailable(start_hub: StartHub) -> Failure:
    """A store whose file cannot be read any more."""
    hub = await start_hub()
    require_embedded(hub)
    log = hub.hub.log
    assert isinstance(log, SqliteLog)
    await log._reads._connection.close()
    error = await fails(ask(hub.admin, "AdminService/ListAuditEntries"))
    assert retry_seconds(error) > 0
    return error


@row(grpc.StatusCode.UNAVAILABLE)
async def request_timeout(start_hub: StartHub) -> Failure:
    """A call that is opened, and whose request does not come."""
    hub = await start_hub(request_timeout=0.1)
    call: Any = hub.channel.stream_unary("/tickets.hub.v1.DirectoryService/ListScopes", None, None)
    error = await fails(call(metadata=hub.bot.metadata))
    assert retry_seconds(error) > 0
    return error


@row(grpc.StatusCode.UNAVAILABLE)
async def slow_consumer(start_hub: StartHub) -> Failure:
    """A reader that takes nothing while more and more waits for it."""
    hub = await start_hub(write_deadline=0.2)
    integration, reader = await hub.register("TICKET_CREATED")
    await emit_all(hub, [event(f"{number:060d}", **TICKET) for number in range(8_000)])
    options = [("grpc.http2.lookahead_bytes", 65_536), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(hub.address, options) as channel:
        stream = RawStream(Caller(channel, reader.key), integration.integration_id, max_batch_size=1_000)
        await stream.ready()
        await until(lambda: not hub.hub.streams.slots.count)
        return await stream.ending()


@row(grpc.StatusCode.UNAVAILABLE)
async def stream_ended(start_hub: StartHub) -> Failure:
    """A stream that an admin ends, with a reason; the same client may come back."""
    hub = await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    await ask(hub.admin, "AdminService/EndStream", integration_id=integration.integration_id, reason="it is stuck")
    ending = await stream.ending()
    assert metadata(ending) == {"reason": "it is stuck"}
    assert retry_seconds(ending) > 0
    await reader.subscribe(latest={})
    return ending


SPILT = "owner 80351110224678912 tkt_admin_x"
"""What stands where it breaks, and must stay there."""


async def broken_hub(start_hub: StartHub) -> tuple[RunningHub, RawStream]:
    """A hub with nonsense in its database, under checksums that fit; a stream comes upon it, and the audit trail."""
    hub = await start_hub()
    require_embedded(hub)
    integration, reader = await hub.register("MEMBER_VERIFIED")
    both = scope_requests("MEMBER_VERIFIED", "TICKET_CREATED")
    await ask(hub.admin, "AdminService/SetScopes", integration_id=integration.integration_id, scopes=both)
    await hub.emit(event("v1", member_verified={"user_id": "7"}))
    await hub.close()
    with sqlite3.connect(hub.settings.data_dir / "hub.db") as database:
        [[first]] = database.execute("SELECT min(position) FROM entries WHERE key LIKE 'integration/%'")
        for row in [*rows_of(database, "WHERE id = 'v1' OR position = ?", (first,))]:
            entry = replace(decoded(row), body=SPILT.encode())
            spilt = (entry.body, checksum(entry, row[8]), entry.position)
            database.execute("UPDATE entries SET body = ?, checksum = ? WHERE position = ?", spilt)
    database.close()
    hub = await start_hub()
    return hub, RawStream(hub.caller(reader.key), integration.integration_id)


@row(grpc.StatusCode.INTERNAL)
async def internal(start_hub: StartHub) -> Failure:
    """An entry of the log that cannot be read."""
    hub, _ = await broken_hub(start_hub)
    return await fails(ask(hub.admin, "AdminService/ListAuditEntries"))


@row(grpc.StatusCode.RESOURCE_EXHAUSTED)
async def too_many_searches(start_hub: StartHub) -> Failure:
    """A key that has used up its budget of records is refused with a retry delay; another key is still answered."""
    hub = await start_hub(max_scanned=3)
    _, reader = await hub.register("TICKET_CREATED")
    searches = [ask(hub.bot, "DirectoryService/FindIntegrations", query="x") for _ in range(9)]
    errors = [one for one in await asyncio.gather(*searches, return_exceptions=True) if isinstance(one, Exception)]
    assert errors
    assert all(isinstance(one, grpc.aio.AioRpcError) for one in errors)
    await ask(reader, "DirectoryService/FindIntegrations", query="x")
    error = errors[-1]
    assert isinstance(error, grpc.aio.AioRpcError)
    assert 0 < retry_seconds(error) <= 10
    assert metadata(error) == {"limit": "3"}
    return error


@row(grpc.StatusCode.RESOURCE_EXHAUSTED)
async def too_many_endpoints(start_hub: StartHub) -> Failure:
    """A sixth endpoint of an integration."""
    _, reader = await (await start_hub()).register("TICKET_CREATED")
    for number in range(5):
        await ask(reader, "WebhookService/CreateEndpoint", endpoint=ENDPOINT | {"endpoint_id": f"e{number}"})
    return await fails(ask(reader, "WebhookService/CreateEndpoint", endpoint=ENDPOINT | {"endpoint_id": "one-more"}))
