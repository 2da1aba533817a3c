"""A replica that hears of everything a moment late: what readers did at another one counts here as well."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest

from hub.storage._jetstream_api import Stored
from hub.storage.jetstream import JetStreamLog
from tests.conftest import RunningHub
from tests.contract.stores import remove_streams
from tests.delivery.kit import commit, emit, names_until, until
from tests.jetstream.conftest import Hubs
from tests.jetstream.servers import shared

LATE = 0.05
"""Seconds by which the second replica is behind."""


@pytest.fixture
async def name() -> AsyncIterator[str]:
    """Of a store that is removed once its hubs have stopped."""
    one = f"T{secrets.token_hex(8)}"
    yield one
    await remove_streams(shared().url, one)


@pytest.fixture
async def two(name: str, hubs: Hubs, monkeypatch: pytest.MonkeyPatch) -> list[RunningHub]:
    """Two replicas of a hub, of which the second is always a moment behind."""
    slow: list[JetStreamLog] = []
    take = JetStreamLog._take

    def late(log: JetStreamLog, batch: list[Stored]) -> None:
        if log in slow:
            asyncio.get_running_loop().call_later(LATE, take, log, batch)
        else:
            take(log, batch)

    monkeypatch.setattr(JetStreamLog, "_take", late)
    running = await hubs(*[shared().url] * 2, nats_stream=name)
    behind = running[1].hub._log
    assert isinstance(behind, JetStreamLog)
    slow.append(behind)
    return running


@pytest.mark.parametrize("start", [{}, {"committed": {}}])
async def test_a_commit_at_another_replica_counts_here(two: list[RunningHub], start: dict[str, object]) -> None:
    """Who commits at one and comes back at the other goes on from there."""
    here, behind = two
    integration, reader = await here.register("TICKET_CREATED")
    await until(lambda: integration.integration_id in behind.hub._streams.around.registry.integrations)
    before = (await reader.subscribe()).frames[0].cursor
    await emit(here, ["between"])
    await commit(reader, before)
    stream = await behind.caller(reader.key).subscribe(**start)
    await emit(here, ["after"])
    assert await names_until(stream, "after") == ["between", "after"]


async def test_a_cursor_of_another_replica_is_not_taken_for_lost(two: list[RunningHub]) -> None:
    """It may be ahead of what this replica knows: a stream starts there, and it can be committed."""
    here, behind = two
    integration, reader = await here.register("TICKET_CREATED")
    await until(lambda: integration.integration_id in behind.hub._streams.around.registry.integrations)
    stream = await reader.subscribe(subscription_id="here")
    late = behind.caller(reader.key)
    for n in range(5):
        await emit(here, [f"{n}"])
        assert await names_until(stream, f"{n}") == [f"{n}"]
        cursor = stream.frames[-1].cursor
        assert (await commit(late, cursor)).committed
        await late.subscribe(cursor=cursor, subscription_id="there")
