"""Calls that are cancelled at any moment: their events are stored whole or not at all, and the next call works."""

import asyncio
import random
from typing import Any

import pytest
from tickets.hub.v1 import event_service_pb2

from hub.api.services.events import EventService
from hub.api.services.intake import Intake
from hub.clock import Clock
from hub.model import Kind
from hub.storage.sqlite.log import SqliteLog
from tests.support.events import event
from tests.support.hubs import RunningHub, StartHub, emit_all

TICKET: dict[str, Any] = {"ticket_created": {"creator_user_id": "7"}}


async def in_the_log(hub: RunningHub) -> dict[str, bytes]:
    """Every event of the log: its id and content."""
    found: dict[str, bytes] = {}
    through, last = 0, (await hub.hub.log.bounds()).last
    while through < last:
        page = await hub.hub.log.read(through, 10_000)
        assert not {entry.id for entry in page.entries if entry.kind is Kind.EVENT} & found.keys()
        found |= {entry.id: entry.body for entry in page.entries if entry.kind is Kind.EVENT}
        through = page.through
    return found


def service(hub: RunningHub) -> EventService:
    """The handlers of a running hub."""
    unused: Any = None
    return EventService(
        Intake(hub.hub.feed, unused, Clock()), hub.hub.streams, unused, unused, unused, unused, hub.settings, Clock()
    )


async def cancelled_after(steps: int, call: Any) -> bool:  # noqa: ANN401  a coroutine
    """Run a call for so many turns of the event loop, then cancel it; returns whether it was through before."""
    task = asyncio.ensure_future(call)
    for _ in range(steps):
        if task.done():
            break
        await asyncio.sleep(0)
    finished = task.done() or not task.cancel()
    await asyncio.wait({task})
    assert finished == (not task.cancelled())
    return finished


async def settled(hub: RunningHub) -> None:
    """Wait until the writer has done all that it was given: a later append is answered after it."""
    await hub.emit(event("", **TICKET))


@pytest.mark.parametrize("together", [1, 3], ids=["one event", "a list of three"])
async def test_a_call_cancelled_at_any_point_is_stored_whole_or_not_at_all(hub: RunningHub, together: int) -> None:
    """The handler is stepped one turn of the loop further each time and then cancelled, until it completes."""
    handlers = service(hub)
    outcomes: set[tuple[bool, bool]] = set()
    steps = 0
    unused: Any = None
    while (True, True) not in outcomes:
        events = [event(f"{steps}.{number}", **TICKET) for number in range(together)]
        one, several = (
            event_service_pb2.EmitEventRequest(event=events[0]),
            event_service_pb2.BatchEmitEventsRequest(events=events),
        )
        call = handlers.EmitEvent(one, unused) if together == 1 else handlers.BatchEmitEvents(several, unused)
        finished = await cancelled_after(steps, call)
        await settled(hub)
        stored = await in_the_log(hub)
        there = [name.id in stored for name in events]
        assert len(set(there)) == 1
        assert there[0] or not finished
        assert hub.hub.feed.admission.waiting == 0
        outcomes.add((finished, there[0]))
        again = await emit_all(hub, events)
        assert [result.duplicate for result in again] == there
        steps = steps + 1 if steps < 30 else steps * 2  # then it waits for the disk, for as long as that takes
    assert (False, False) in outcomes


async def test_cancelling_some_callers_of_a_group_does_not_affect_the_others(hub: RunningHub) -> None:
    """Of one transaction's callers some are cancelled at every turn: all others are answered."""
    feed = hub.hub.feed
    handlers = service(hub)
    unused: Any = None
    for steps in range(12):
        calls = [
            asyncio.ensure_future(
                handlers.EmitEvent(event_service_pb2.EmitEventRequest(event=event(f"{steps}.{n}", **TICKET)), unused)
            )
            for n in range(20)
        ]
        for _ in range(steps):
            await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(result, event_service_pb2.EmitEventResponse) for result in results[1::2]] == [True] * 10
        assert feed.admission.waiting == 0
        await settled(hub)
        stored = await in_the_log(hub)
        for number, result in enumerate(results):
            if isinstance(result, event_service_pb2.EmitEventResponse):
                assert f"{steps}.{number}" in stored


async def test_calls_cancelled_at_random_moments_are_stored_whole_or_not_at_all(start_hub: StartHub) -> None:
    """Clients hang up at any moment: what is stored is whole, once, and still there after a restart."""
    hub = await start_hub()
    dice = random.Random(4)  # noqa: S311  moments, not secrets
    stub: Any = hub.bot._stubs["EventService"]
    answered: set[str] = set()

    async def emit(name: str) -> None:
        events = [event(f"{name}.{number}", **TICKET) for number in range(3)]
        request = event_service_pb2.BatchEmitEventsRequest(events=events)
        call = stub.BatchEmitEvents(request, metadata=hub.bot.metadata)
        asyncio.get_running_loop().call_later(dice.random() * 0.02, call.cancel)
        try:
            await call
        except asyncio.CancelledError:
            return
        answered.update(one.id for one in events)

    for turn in range(10):
        await asyncio.gather(*(emit(f"{turn}.{number}") for number in range(20)))
    await settled(hub)
    stored = await in_the_log(hub)
    assert answered <= stored.keys()
    whole = {name.rpartition(".")[0] for name in stored if "." in name}
    assert {f"{name}.{number}" for name in whole for number in range(3)} <= stored.keys()
    await hub.close()
    hub = await start_hub()
    assert await in_the_log(hub) == stored
    log = hub.hub.log
    if isinstance(log, SqliteLog):
        assert await log._store.write_connection.rows("PRAGMA integrity_check") == [("ok",)]
