"""The pump: what it tells of changes, and when."""

import asyncio
from collections.abc import Callable

import pytest

from tests.support.calls import set_scopes
from tests.support.events import closed, ids
from tests.support.hubs import RunningHub, emit, live, only_in_the_log, until
from tests.support.streams import names_until


async def test_the_pump_calls_every_listener(hub: RunningHub) -> None:
    """Each learns of a change, in order, before the events of the batch are published."""
    integration, _ = await hub.register("TICKET_CREATED")
    feed = hub.hub.feed
    await emit(hub, ["a"])
    page = await hub.hub.log.read(0, 10_000)
    heard: list[tuple[str, int, bool]] = []

    def listener(name: str) -> Callable[[set[str]], None]:
        return lambda changed: heard.append((name, feed.through, integration.integration_id in changed))

    before = feed.through
    feed._take_in(page.entries, listener("one"), listener("two"))
    assert heard == [("one", before, True), ("two", before, True)]


@pytest.mark.parametrize("count", [10, 600])
async def test_no_stream_is_ahead_of_the_pump(hub: RunningHub, count: int) -> None:
    """A stream that reads old events while the pump is behind waits for it: a grant may lie in between."""
    integration, reader = await hub.register("TICKET_STATS")
    feed = hub.hub.feed
    await emit(hub, ids("old", count), closed)
    only_in_the_log(hub)
    await feed._pages._one_read.acquire()  # the disk is slow
    stream = await reader.subscribe(earliest={})
    [one] = live(hub)
    [pump] = [task for task in hub.hub._tasks if "pump" in repr(task.get_coro())]
    pump.cancel()
    last = (await hub.hub.log.bounds()).last
    granting = asyncio.create_task(set_scopes(hub, integration, "TICKET_STATS", "TICKET_CREATED"))
    while (await hub.hub.log.bounds()).last == last:  # noqa: ASYNC110  the log announces it to the pump alone
        await asyncio.sleep(0.01)
    await emit(hub, ["granted"])
    feed._pages._one_read.release()
    await until(lambda: one.progress.position >= feed.through)
    hub.hub._spawn(feed.pump(hub.hub.streams.refresh, hub.hub.dispatchers.refresh))
    await granting
    await emit(hub, ["later"])
    assert (await names_until(stream, "later"))[-2:] == ["granted", "later"]
