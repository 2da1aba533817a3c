"""Our own client against the whole hub, over either store: shared calls and the outbox, with good and bad events."""

import asyncio
from functools import partial
from pathlib import Path

import pytest
from tickets_hub import AsyncClient, HubCallError, Outbox, Policy, Rejected

from hub.model import Role
from tests.support.events import closed, ids, ticket
from tests.support.hubs import RunningHub, until
from tests.support.streams import names_until


def is_empty(client: AsyncClient) -> bool:
    """Whether the hub has all that the client's outbox took."""
    return client.outbox.waiting == 0


async def test_many_callers_of_one_client_share_calls(hub: RunningHub) -> None:
    """Each caller hears of its own event, and the events keep the order of emit()."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    names = ids("a", 300)
    events = [ticket(name, "bad" if index % 50 == 7 else "41") for index, name in enumerate(names)]
    good = [event.id for event in events if event.guild_id == "41"]
    async with AsyncClient(hub.address, hub.keys[Role.BOT]) as client:
        first = await asyncio.gather(*map(client.emit, events), return_exceptions=True)
        again = await asyncio.gather(*(client.emit(ticket(name)) for name in good))
        conflict = await asyncio.gather(*(client.emit(closed(name)) for name in good[:20]), return_exceptions=True)
        await client.emit(ticket("end"))
    refused = [answer for answer in first if isinstance(answer, HubCallError)]
    assert [error.event_ids for error in refused] == [(name,) for name in names if name not in good]
    assert {error.violations[0].field for error in refused} == {"event.guild_id"}
    assert all(answer.duplicate for answer in again)
    assert {error.reason for error in conflict if isinstance(error, HubCallError)} == {"EVENT_ID_CONFLICT"}
    assert await names_until(stream, "end") == [*good, "end"]


async def test_an_outbox_delivers_in_order_without_duplicates(hub: RunningHub, tmp_path: Path) -> None:
    """Numbered events arrive in order, refused ones are put aside, and a second client of the file repeats none."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    names, refused = ids("a", 300), list[Rejected]()
    outbox = Outbox(tmp_path / "outbox.db", on_rejected=refused.append)
    policy = Policy(first_delay=0.01, max_delay=0.05)
    for half in (names[:150], names[150:]):
        async with AsyncClient(hub.address, hub.keys[Role.BOT], outbox=outbox, policy=policy) as client:
            await asyncio.gather(*(client.emit(ticket(name)) for name in half))
            await client.emit(ticket("bad", "bad"))
            await until(partial(is_empty, client))
    await hub.emit(ticket("end"))
    assert await names_until(stream, "end") == [*names, "end"]
    assert [each.error.violations[0].field for each in refused] == ["event.guild_id"] * 2


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_batch_with_a_lost_answer_is_not_stored_twice(hub: RunningHub, tmp_path: Path, lost: int) -> None:
    """The hub stored it, the bot did not get the answer: the numbers make the repetition a duplicate."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    policy = Policy(first_delay=0.01, max_delay=0.05)
    async with AsyncClient(hub.address, hub.keys[Role.BOT], outbox=tmp_path / "outbox.db", policy=policy) as client:
        emitter = client._emitter
        send, answers = emitter._send, list[object]()

        async def deaf(request: object) -> object:
            answers.append(await send(request))  # type: ignore[arg-type]
            return HubCallError("UNAVAILABLE", "", "lost") if len(answers) <= lost else answers[-1]

        emitter._send = deaf  # type: ignore[assignment]
        await asyncio.gather(*(client.emit(ticket(name)) for name in ids("a", 40)))
        await until(partial(is_empty, client))
    await hub.emit(ticket("end"))
    assert await names_until(stream, "end") == [*ids("a", 40), "end"]
