"""A replica that hears of everything a moment late: what readers did at another one counts here as well."""

import asyncio

import pytest

from hub.storage.jetstream.log import JetStreamLog
from hub.storage.jetstream.replica import Replica
from hub.storage.jetstream.stream import StoredMessage
from tests.jetstream.conftest import Hubs
from tests.support.calls import commit
from tests.support.hubs import RunningHub, emit, until
from tests.support.nats_servers import shared
from tests.support.streams import names_until

LATE = 0.05
"""Seconds by which the second replica is behind."""


@pytest.fixture
async def two(name: str, hubs: Hubs, monkeypatch: pytest.MonkeyPatch) -> list[RunningHub]:
    """Two replicas of a hub, of which the second is always a moment behind."""
    slow: list[Replica] = []
    take = Replica._take

    def late(replica: Replica, batch: list[StoredMessage]) -> None:
        if replica in slow:
            asyncio.get_running_loop().call_later(LATE, take, replica, batch)
        else:
            take(replica, batch)

    monkeypatch.setattr(Replica, "_take", late)
    running = await hubs(*[shared().url] * 2, nats_stream=name)
    behind = running[1].hub.log
    assert isinstance(behind, JetStreamLog)
    slow.append(behind._replica)
    return running


@pytest.mark.parametrize("start", [{}, {"committed": {}}])
async def test_a_commit_at_another_replica_counts_here(two: list[RunningHub], start: dict[str, object]) -> None:
    """A reader that commits at one replica and reconnects at the other resumes there."""
    here, behind = two
    integration, reader = await here.register("TICKET_CREATED")
    await until(lambda: integration.integration_id in behind.hub.registry.integrations)
    before = (await reader.subscribe()).frames[0].cursor
    await emit(here, ["between"])
    await commit(reader, before)
    stream = await behind.caller(reader.key).subscribe(**start)
    await emit(here, ["after"])
    assert await names_until(stream, "after") == ["between", "after"]


async def test_a_cursor_of_another_replica_is_valid(two: list[RunningHub]) -> None:
    """It may be ahead of what this replica knows: a stream starts there, and it can be committed."""
    here, behind = two
    integration, reader = await here.register("TICKET_CREATED")
    await until(lambda: integration.integration_id in behind.hub.registry.integrations)
    stream = await reader.subscribe(subscription_id="here")
    late = behind.caller(reader.key)
    for n in range(5):
        await emit(here, [f"{n}"])
        assert await names_until(stream, f"{n}") == [f"{n}"]
        cursor = stream.frames[-1].cursor
        assert (await commit(late, cursor)).committed
        await late.subscribe(cursor=cursor, subscription_id="there")
