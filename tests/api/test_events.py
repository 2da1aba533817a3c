"""EmitEvent and BatchEmitEvents: ids, duplicates, conflicts, and batches that are stored whole or not at all."""

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1.event_pb2 import Event

from tests.support.calls import ask, fails, info_of
from tests.support.events import closed, ticket
from tests.support.hubs import RunningHub
from tests.support.streams import names_until


async def batch(hub: RunningHub, *events: Event) -> Any:  # noqa: ANN401  a BatchEmitEventsResponse
    """Emit a batch that is stored whole or not at all."""
    return await ask(hub.bot, "EventService/BatchEmitEvents", events=events)


async def test_a_repeated_event_is_a_duplicate_of_the_first(hub: RunningHub) -> None:
    """It gets the accept time of the first, and streams get the event once."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    first, again = await hub.emit(ticket("a")), await hub.emit(ticket("a"))
    assert [(one.event_id, one.duplicate) for one in (first, again)] == [("a", False), ("a", True)]
    assert again.accept_time == first.accept_time != Timestamp()
    await hub.emit(ticket("b"))
    assert await names_until(stream, "b") == ["a", "b"]


async def test_another_event_with_a_known_id_is_refused(hub: RunningHub) -> None:
    """Only content makes a repetition: the same id with another payload or guild is EVENT_ID_CONFLICT."""
    await hub.emit(ticket("a"))
    for other in (closed("a"), ticket("a", "42")):
        assert info_of(await fails(hub.emit(other))).reason == "EVENT_ID_CONFLICT"


async def test_an_event_without_an_id_gets_one(hub: RunningHub) -> None:
    """Two events without an id are two events."""
    ids = {(await hub.emit(ticket(""))).event_id for _ in range(2)}
    assert len(ids - {""}) == 2


async def test_a_batch_is_stored_whole_or_not_at_all(hub: RunningHub) -> None:
    """A conflict refuses all events of a batch, and names the index of the event that conflicts, not of the first."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    info = info_of(await fails(batch(hub, ticket("a"), ticket("b"), closed("a"), ticket("c"))))
    assert (info.reason, info.metadata["event_id"], info.metadata["index"]) == ("EVENT_ID_CONFLICT", "a", "2")
    reply = await batch(hub, ticket("b"), ticket("b"), ticket("a"), ticket("c"))
    assert [(one.event_id, one.duplicate) for one in reply.results] == [
        *(("b", False), ("b", True), ("a", False), ("c", False))
    ]
    assert await names_until(stream, "c") == ["b", "a", "c"]
