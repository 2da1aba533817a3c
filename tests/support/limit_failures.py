"""How each failure of places, limits and the hub itself is provoked."""

import sqlite3
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hub.delivery.cursor import CursorSeal
from hub.storage.sqlite import SqliteLog
from tests.api.provoke import TICKET, Failure, metadata, retry_seconds, row
from tests.api.wire import RawStream, ask, emit_all, event, fails, until
from tests.conftest import Caller, RunningHub, StartHub, asked, reason_of, require_embedded


@row(grpc.StatusCode.OUT_OF_RANGE)
async def cursor_expired(start_hub: StartHub) -> Failure:
    """A cursor of another log under the same secret: as after a restored backup."""
    secret = "0123456789abcdef" * 2
    hub = await start_hub(secret=secret)
    _, reader = await hub.register("TICKET_CREATED")
    elsewhere = CursorSeal(await hub.hub._log.secret()).seal(4711, 1, 1).decode()
    return await reader.open(cursor=elsewhere).ending()


@row(grpc.StatusCode.RESOURCE_EXHAUSTED)
async def too_many_streams(start_hub: StartHub) -> Failure:
    """A stream more than an integration may have; with one more than the hub may have it is told when to come again."""
    hub = await start_hub(max_streams_per_integration=2, max_streams=3)
    _, reader = await hub.register("TICKET_CREATED")
    _, another = await hub.register("TICKET_CREATED")
    for name in ("one", "two"):
        await reader.subscribe(latest={}, subscription_id=name)
    error = await reader.open(latest={}, subscription_id="three").ending()
    assert metadata(error) == {"limit": "2", "subscriptions": "one,two"}
    await another.subscribe(latest={}, subscription_id="one")
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
async def emit_backlog_full(start_hub: StartHub) -> Failure:
    """More events at once than may wait: nothing of the list is stored, and it is told when to try again."""
    hub = await start_hub(max_emit_backlog=2)
    events = [event(name, **TICKET) for name in "abc"]
    error = await fails(ask(hub.bot, "EventService/BatchEmitEvents", events=events))
    assert retry_seconds(error) > 0
    assert [result.duplicate for result in await emit_all(hub, events[:2])] == [False, False]
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
    log = hub.hub._log
    assert isinstance(log, SqliteLog)
    [[pages]] = await log._rows("PRAGMA page_count")
    await log._writer.execute_fetchall(f"PRAGMA max_page_count = {pages}")
    events = [event(f"{number}", **TICKET) for number in range(1_000)]
    error = await fails(ask(hub.bot, "EventService/BatchEmitEvents", events=events))
    assert retry_seconds(error) > 0
    await log._writer.execute_fetchall("PRAGMA max_page_count = 100000")
    assert not any(result.duplicate for result in await emit_all(hub, events))
    return error


@row(grpc.StatusCode.UNAVAILABLE)
async def draining(start_hub: StartHub) -> Failure:
    """A stream while the hub shuts down: a Goodbye, then the end; a new one is refused."""
    hub = await start_hub()
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    await hub.hub._streams.drain(5)
    ending = await stream.ending()
    goodbye = stream.frames[-1].goodbye
    assert (goodbye.reconnect, goodbye.retry_delay.ToTimedelta().total_seconds()) == (True, retry_seconds(ending))
    return await reader.open(latest={}).ending()


@row(grpc.StatusCode.UNAVAILABLE)
async def storage_unavailable(start_hub: StartHub) -> Failure:
    """A store whose file cannot be read any more."""
    hub = await start_hub()
    require_embedded(hub)
    log = hub.hub._log
    assert isinstance(log, SqliteLog)
    await log._reader.close()
    error = await fails(ask(hub.admin, "AdminService/ListAuditEntries"))
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
        await until(lambda: not hub.hub._streams._count)
        return await stream.ending()


SPILT = "owner 80351110224678912 tkt_admin_x"
"""What stands where it breaks, and must stay there."""


async def broken_hub(start_hub: StartHub) -> tuple[RunningHub, RawStream]:
    """A hub in whose database somebody wrote, and a stream that comes upon it; the audit trail does, too."""
    hub = await start_hub()
    require_embedded(hub)
    integration, reader = await hub.register("MEMBER_VERIFIED")
    both = asked("MEMBER_VERIFIED", "TICKET_CREATED")
    await ask(hub.admin, "AdminService/SetScopes", integration_id=integration.integration_id, scopes=both)
    await hub.emit(event("v1", member_verified={"user_id": "7"}))
    await hub.close()
    with sqlite3.connect(hub.settings.data_dir / "hub.db") as database:
        [[first]] = database.execute("SELECT min(position) FROM entries WHERE key LIKE 'integration/%'")
        database.execute("UPDATE entries SET body = ? WHERE id = 'v1' OR position = ?", (SPILT.encode(), first))
    database.close()
    hub = await start_hub()
    return hub, RawStream(hub.caller(reader.key), integration.integration_id)


@row(grpc.StatusCode.INTERNAL)
async def internal(start_hub: StartHub) -> Failure:
    """An entry of the log that cannot be read."""
    hub, _ = await broken_hub(start_hub)
    return await fails(ask(hub.admin, "AdminService/ListAuditEntries"))
