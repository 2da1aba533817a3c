"""Several replicas of the hub on one log: one order, one truth, nothing twice; and none that goes on in the dark."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from tickets.hub.v1 import admin_service_pb2, event_pb2

from hub import config
from hub.errors import Conflict, EventIdConflict, StartError
from hub.model import Appended, Role
from hub.storage.jetstream.log import JetStreamLog
from tests.jetstream.conftest import Hubs
from tests.support.calls import reason_of
from tests.support.cluster_state import until_serving
from tests.support.hubs import scope_requests, until
from tests.support.nats_servers import Server, shared
from tests.support.stores import event, read_all, remove_streams, state

Open = Callable[..., Awaitable[JetStreamLog]]


@pytest.fixture
async def open_log(tmp_path: Path) -> AsyncIterator[Open]:
    """Opens one log as often as a test wants, each time as another replica of the hub would."""
    name = f"T{secrets.token_hex(8)}"
    opened: list[JetStreamLog] = []

    async def one(**flags: Any) -> JetStreamLog:  # noqa: ANN401  any setting
        settings = config.load({"data_dir": tmp_path, "storage": shared().url, "nats_stream": name} | flags)
        opened.append(await JetStreamLog.open(settings))
        return opened[-1]

    yield one
    for log in opened:
        await log.close()
    await remove_streams(shared().url, name)


@pytest.fixture
def server(tmp_path: Path) -> Any:  # noqa: ANN401  a generator's type says nothing here
    """A NATS server that a test may harm."""
    one = Server(tmp_path / "nats")
    one.start()
    yield one
    one.kill()


async def test_concurrent_appends_of_replicas_have_one_order(open_log: Open) -> None:
    """Three replicas append side by side: each has the same log, positions ascend, times never decrease."""
    logs = [await open_log() for _ in range(3)]

    async def write(number: int) -> list[Appended]:
        calls = [
            logs[number].append([event(f"{number}-{n}-{m}", time=1_000 * n + number) for m in range(1 + n % 3)])
            for n in range(30)
        ]
        return [one for results in await asyncio.gather(*calls) for one in results]

    written = [one for results in await asyncio.gather(*map(write, range(3))) for one in results]
    last = max(one.position for one in written)
    assert sorted(one.position for one in written) == list(range(1, last + 1))
    for log in logs:
        await log._replica.state.wait_applied(last)
    entries = [await read_all(log) for log in logs]
    assert entries[0] == entries[1] == entries[2]
    assert [entry.time for entry in entries[0]] == sorted(entry.time for entry in entries[0])


async def test_one_id_sent_to_all_replicas_has_one_position(open_log: Open) -> None:
    """Whichever replica is asked: one is the first, the others' results are its duplicates; other content conflicts."""
    logs = [await open_log() for _ in range(3)]
    for n in range(10):
        results = await asyncio.gather(*(log.append([event(f"{n}", time=n)]) for log in logs))
        assert len({one.position for [one] in results}) == 1
        assert sorted(one.duplicate for [one] in results) == [False, True, True]
    with pytest.raises(EventIdConflict):
        await logs[1].append([event("0", b"other", time=0)])


async def test_of_conditional_appends_at_several_replicas_one_wins(open_log: Open) -> None:
    """Two admins at two replicas: one change is made, the other fails because the key has changed."""
    logs = [await open_log() for _ in range(3)]
    at = 0
    for n in range(10):
        calls = (log.append([state("k", b"%d" % n), state("other")], {"k": at}) for log in logs)
        results = await asyncio.gather(*calls, return_exceptions=True)
        [won] = [one for one in results if isinstance(one, list)]
        assert sum(isinstance(one, Conflict) for one in results) == 2
        at = won[0].position


async def test_a_replica_that_starts_later_has_the_whole_state(open_log: Open) -> None:
    """State, ids, marks, erasures and the secret, as those have it that were there."""
    one = await open_log()
    await one.append([event("a", time=5), state("k", b"1", 6), state("claim/x", b"1", 7), event("b", time=8)])
    await one.append([state("claim/x", b"2", 9), event("c", time=10)])
    await one.erase([4])
    await one.trim(2, 10)
    other = await open_log()
    assert await other.snapshot() == await one.snapshot()
    assert await other.bounds() == await one.bounds()
    assert await read_all(other) == await read_all(one)
    assert (await other.secrets())[0] == (await one.secrets())[0]
    assert [(await other.append([event(name, time=11)]))[0].position for name in "abc"] == [1, 4, 6]


async def test_trims_and_erasures_apply_to_all_replicas(open_log: Open) -> None:
    """Marks travel: the other replica's pages and bounds are the same a moment later."""
    one, other = await open_log(), await open_log()
    await one.append([event(f"{n}") for n in range(10)])
    await one.erase([9])
    await one.trim(5, 100)
    await until(lambda: other._replica.metadata.extent.first == 5 and 9 in other._replica.metadata.erased)
    assert await read_all(other) == await read_all(one)
    assert (await other.bounds()).first == 5


async def test_a_stream_with_other_settings_is_refused_and_unchanged(open_log: Open) -> None:
    """A changed limit or number of replicas ends the start with a line that names it."""
    log = await open_log()
    info = await log._replica.stream.info()
    await log._replica.stream.call("STREAM.UPDATE", info["config"] | {"max_bytes": 1_000_000})
    with pytest.raises(StartError, match="max_bytes is 1000000, the hub needs -1"):
        await open_log()
    assert (await log._replica.stream.info())["config"]["max_bytes"] == 1_000_000


async def test_concurrent_first_starts_make_one_set_of_keys(server: Server, hubs: Hubs) -> None:
    """One of them prints the keys, and they open every replica."""
    for hub in await hubs(*[server.url] * 3):
        await hub.admin.call("AdminService/ListKeys", admin_service_pb2.ListKeysRequest())
        await hub.emit(event_pb2.Event(guild_id="1", ticket_created=event_pb2.TicketCreated(creator_user_id="7")))


async def test_revocations_at_one_replica_end_streams_at_all(server: Server, hubs: Hubs) -> None:
    """A key, a scope, the whole integration; and events reach streams at either replica, in one order."""
    here, there = await hubs(*[server.url] * 2)
    integration, reader = await here.register("TICKET_CREATED", "MEMBER_VERIFIED")
    await until(lambda: integration.integration_id in there.hub.registry.integrations)
    stream = await there.caller(reader.key).subscribe()
    names = []
    for n, hub in enumerate([here, there, here]):
        created = event_pb2.TicketCreated(creator_user_id="7")
        names.append((await hub.emit(event_pb2.Event(id=f"e{n}", guild_id="1", ticket_created=created))).event_id)
    assert [one.id for one in await stream.events(3)] == names
    request = admin_service_pb2.SetScopesRequest(
        integration_id=integration.integration_id, scopes=scope_requests("TICKET_CREATED"), reason="less"
    )
    await here.admin.call("AdminService/SetScopes", request)
    assert (await stream.frame()).HasField("grants_changed")
    rotate = admin_service_pb2.RotateKeyRequest(integration_id=integration.integration_id, overlap=Duration())
    await here.admin.call("AdminService/RotateKey", rotate)
    assert reason_of(await stream.ending()) == "KEY_REVOKED"


async def test_a_subscription_is_taken_over_from_another_replica(server: Server, hubs: Hubs) -> None:
    """The older stream ends, wherever it was; the newer one gets what comes."""
    here, there = await hubs(*[server.url] * 2)
    integration, reader = await here.register("TICKET_CREATED")
    await until(lambda: integration.integration_id in there.hub.registry.integrations)
    older = await reader.subscribe()
    newer = await there.caller(reader.key).subscribe()
    assert reason_of(await older.ending()) == "SUBSCRIPTION_TAKEN_OVER"
    await here.emit(event_pb2.Event(id="e", guild_id="1", ticket_created=event_pb2.TicketCreated(creator_user_id="7")))
    assert [one.id for one in await newer.events(1)] == ["e"]


async def test_a_store_silent_for_too_long_ends_streams_until_it_answers(server: Server, hubs: Hubs) -> None:
    """Frozen for too long: UNAVAILABLE to streams, new streams and emits; thawed, everything works again."""
    [hub] = await hubs(server.url, max_store_silence=5)
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(heartbeat_interval=Duration(seconds=60))  # it is not a heartbeat that ends it
    server.freeze()
    ending = await stream.ending()
    assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    await until_serving(hub, wanted=False)
    created = event_pb2.Event(id="e", guild_id="1", ticket_created=event_pb2.TicketCreated(creator_user_id="7"))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await hub.emit(created)
    assert reason_of(refused.value) == "STORAGE_UNAVAILABLE"
    assert reason_of(await reader.open().ending()) == "STORAGE_UNAVAILABLE"
    server.thaw()
    await until_serving(hub, wanted=True)
    again = await reader.subscribe()
    await hub.emit(created)
    assert [one.id for one in await again.events(1)] == ["e"]
    assert set(hub.keys) == {Role.ADMIN, Role.BOT}
