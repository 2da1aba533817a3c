"""Samples: what an event would look like to an integration, and test events on its own streams."""

import asyncio

from tickets.hub.v1 import developer_service_pb2, event_pb2

from hub.model import Kind
from tests.support.calls import ask
from tests.support.events import closed, event, numbers, ticket, verified
from tests.support.governance import OWNER, apply_for, arrived, install, opened, set_scopes, short
from tests.support.hubs import Caller, FakeClock, RunningHub
from tests.support.streams import RawStream

Preview = developer_service_pb2.PreviewEventResponse


async def preview(hub: RunningHub, integration_id: str, sample: event_pb2.Event) -> Preview:
    """What the owner is shown through the bot."""
    reply = await ask(
        hub.bot, "DeveloperService/PreviewEvent", integration_id=integration_id, acting_user_id=OWNER, event=sample
    )
    assert isinstance(reply, Preview)
    return reply


def withheld(reply: Preview) -> list[tuple[str, list[str]]]:
    """What is missing, and which scopes would show it."""
    return [(one.field, [short(scope) for scope in one.scopes]) for one in reply.withheld]


async def test_a_preview_shows_what_would_arrive(hub: RunningHub) -> None:
    """Apart from id and times the previewed event is the one that a stream delivers; nothing is stored."""
    integration, reader = await hub.register("MEMBER_VERIFIED")
    stream = await reader.subscribe()
    shown = await preview(hub, integration.integration_id, verified("v1"))
    await hub.emit(verified("v1"))
    [real] = await stream.events(1)
    assert shown.delivered
    assert (shown.event.id, shown.event.guild_id, shown.event.test) == ("v1", "41", False)
    assert shown.event.member_verified == real.member_verified == event_pb2.MemberVerified()
    assert withheld(shown) == [("member_verified.user_id", ["MEMBER_VERIFIED_IDENTITY"])]
    assert "RequestScopes" in shown.withheld[0].reason


async def test_a_preview_without_a_grant_names_the_missing_scopes(hub: RunningHub) -> None:
    """Not delivered, no event, and each scope that would deliver it; with the scope all is there."""
    integration, _ = await hub.register("MEMBER_VERIFIED")
    shown = await preview(hub, integration.integration_id, closed("c1"))
    assert (shown.delivered, shown.HasField("event"), withheld(shown)) == (
        False,
        False,
        [("ticket_closed", ["TICKET_STATS"])],
    )
    await set_scopes(hub, integration.integration_id)
    shown = await preview(hub, integration.integration_id, verified("v1"))
    assert withheld(shown) == [("member_verified", ["MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY"])]
    await set_scopes(hub, integration.integration_id, "MEMBER_VERIFIED_IDENTITY", "TICKET_STATS")
    shown = await preview(hub, integration.integration_id, verified("v1"))
    assert (shown.delivered, shown.event.member_verified.user_id, withheld(shown)) == (True, "7001", [])
    assert (await preview(hub, integration.integration_id, closed(""))).event.ticket_closed.message_count == 3


async def test_a_preview_works_for_an_application(hub: RunningHub) -> None:
    """Nothing is granted while it waits: a preview says so."""
    made = await apply_for(hub, "TICKET_CREATED")
    shown = await preview(hub, made.integration_id, ticket("t1"))
    assert (shown.delivered, withheld(shown)) == (False, [("ticket_created", ["TICKET_CREATED"])])


async def test_a_preview_respects_consent(hub: RunningHub) -> None:
    """If guilds have to install it: nothing of one that did not, and only what another agreed to, with the reason."""
    integration, _ = await hub.register("MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY", guild_access=2)
    shown = await preview(hub, integration.integration_id, verified("v1", "51"))
    assert (shown.delivered, [one.field for one in shown.withheld]) == (False, ["member_verified"])
    assert "not installed" in shown.withheld[0].reason
    await install(hub, integration.integration_id, "51", "MEMBER_VERIFIED")
    shown = await preview(hub, integration.integration_id, verified("v1", "51"))
    assert (shown.delivered, shown.event.member_verified.HasField("user_id")) == (True, False)
    assert withheld(shown) == [("member_verified.user_id", ["MEMBER_VERIFIED_IDENTITY"])]
    assert "agreed" in shown.withheld[0].reason
    await install(hub, integration.integration_id, "51")
    shown = await preview(hub, integration.integration_id, verified("v1", "51"))
    assert (shown.event.member_verified.user_id, withheld(shown)) == ("7001", [])


async def send(reader: Caller, sample: event_pb2.Event) -> developer_service_pb2.SendTestEventResponse:
    """A test event with the integration's own key."""
    reply = await ask(reader, "DeveloperService/SendTestEvent", event=sample)
    assert isinstance(reply, developer_service_pb2.SendTestEventResponse)
    return reply


async def test_a_test_event_is_marked_and_filtered_by_the_view(hub: RunningHub) -> None:
    """It comes with `test` set, an id of the hub's, without the field that is withheld; what is not granted never."""
    _, reader = await hub.register("MEMBER_VERIFIED")
    stream = await reader.subscribe()
    assert (await send(reader, ticket("t1"))).stream_count == 0
    sent = await send(reader, verified("chosen"))
    assert sent.stream_count == 1
    [shown] = await stream.events(1)
    assert (shown.id, shown.test, shown.guild_id) == (sent.event_id, True, "41")
    assert shown.id != "chosen"
    assert shown.HasField("accept_time")
    assert not shown.member_verified.HasField("user_id")


async def test_a_bot_cannot_mark_an_event_as_a_test(hub: RunningHub) -> None:
    """What the bot writes into `test` is dropped: only the hub sets it."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    await hub.emit(event("t1", test=True, ticket_created={"creator_user_id": "7"}))
    [shown] = await stream.events(1)
    assert not shown.test


async def test_a_test_event_reaches_only_matching_streams_of_the_integration(
    timed_hub: RunningHub, clock: FakeClock
) -> None:
    """By scopes, guilds and shard; no other integration gets it."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED", "TICKET_STATS")
    other, another = await hub.register("TICKET_CREATED", "TICKET_STATS")
    one = integration.integration_id
    guild = str(1 << 22)
    shows = [
        await opened(reader, one, subscription_id="wide", latest={}),
        await opened(reader, one, subscription_id="guild", latest={}, guild_ids=[guild]),
    ]
    hides = [
        await opened(reader, one, subscription_id="scope", latest={}, scopes=numbers("TICKET_STATS")),
        await opened(reader, one, subscription_id="elsewhere", latest={}, guild_ids=["7"]),
        await opened(reader, one, subscription_id="shard", latest={}, shard={"index": 0, "count": 2}),
        await opened(another, other.integration_id, latest={}),
    ]
    sent = await send(reader, ticket("", guild))
    assert sent.stream_count == 2
    got = await asyncio.gather(*(arrived(hub, clock, stream) for stream in shows))
    assert got == [[sent.event_id]] * 2
    assert await asyncio.gather(*(arrived(hub, clock, stream) for stream in hides)) == [[]] * 4


async def test_a_test_event_is_not_in_the_log(timed_hub: RunningHub, clock: FakeClock) -> None:
    """No event was appended, and neither a stream from the beginning nor one resumed before it brings it again."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await opened(reader, integration.integration_id, latest={})
    before = stream.frames[-1].cursor
    sent = await send(reader, ticket(""))
    assert (await hub.hub.log.read(0, 10, frozenset({Kind.EVENT}))).entries == ()
    assert await arrived(hub, clock, stream) == [sent.event_id]
    starts: list[dict[str, object]] = [{"earliest": {}}, {"cursor": before}]
    for start in starts:
        again = await opened(reader, integration.integration_id, **start)
        assert await arrived(hub, clock, again) == []


async def test_resuming_after_a_test_event_misses_nothing(timed_hub: RunningHub, clock: FakeClock) -> None:
    """The cursor of its frame lies before the next event: a stream resumed after it gets all of those."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await opened(reader, integration.integration_id, latest={})
    await hub.emit(ticket("t1"))
    sent = await send(reader, ticket(""))
    await hub.emit(ticket("t2"))
    while sent.event_id not in [shown.id for shown in stream.events]:
        await stream.frame()
    [frame] = [frame for frame in stream.frames if sent.event_id in [shown.id for shown in frame.events]]
    seen = {shown.id for earlier in stream.frames[: stream.frames.index(frame)] for shown in earlier.events}
    resumed = await opened(reader, integration.integration_id, cursor=frame.cursor)
    assert await arrived(hub, clock, resumed) == [name for name in ("t1", "t2") if name not in seen]


async def test_a_test_event_needs_consent(timed_hub: RunningHub, clock: FakeClock) -> None:
    """If guilds have to install it, no stream shows a sample of a guild that did not."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED", guild_access=2)
    stream: RawStream = await opened(reader, integration.integration_id, latest={})
    assert (await send(reader, ticket("", "51"))).stream_count == 0
    await install(hub, integration.integration_id, "51")
    sent = await send(reader, ticket("", "51"))
    assert (sent.stream_count, await arrived(hub, clock, stream)) == (1, [sent.event_id])
