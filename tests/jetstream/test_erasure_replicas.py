"""Erasures over several hubs: hidden at each that has applied the entry, also at one that was away meanwhile."""

import asyncio

import grpc
import pytest

from hub.app import Hub
from hub.privacy import erasing
from hub.privacy_model import NoticeRecord
from hub.state import NOTICE
from hub.storage import MAX_APPEND, STALE_AFTER
from tests.jetstream.conftest import Hubs
from tests.support.calls import ask
from tests.support.faults import Proxy
from tests.support.hubs import Caller, RunningHub, Subscriber, only_in_the_log, until
from tests.support.nats_servers import PATIENCE, shared
from tests.support.privacy import LONGER, USER, by, done, erase_guild, erase_user, exported, in_memory, in_the_store
from tests.support.streams import names_until

BEFORE = ["mine-1", "other-1", "mine-2", "other-2"]
LEFT = ["other-1", "other-2"]


async def filled(hub: RunningHub) -> Caller:
    """An integration, and events of a user and of another, alternating; its caller at this hub."""
    _, reader = await hub.register("TICKET_CREATED")
    for name in BEFORE:
        await hub.emit(by(USER if name.startswith("mine") else LONGER, name))
    return reader


async def caught_up(hub: RunningHub, other: RunningHub) -> None:
    """Another hub has applied what this one has."""
    await other.hub.registry.wait_applied((await hub.hub.log.bounds()).last)


async def test_one_commit_can_confirm_more_than_1000_erasures(two: list[RunningHub]) -> None:
    """An integration that was away for long confirms all at once; so does a stream that delivers them all."""
    hub = two[0].hub
    integration, reader = await two[0].register("TICKET_CREATED")
    one = integration.integration_id
    notices = [NoticeRecord(f"e{number}", one, sent_time=number % 2) for number in range(2 * MAX_APPEND + 2)]
    for start in range(0, len(notices), MAX_APPEND):
        some = notices[start : start + MAX_APPEND]
        await hub.log.append([NOTICE.entry(NOTICE.key(each.erasure_id, one), hub._clock.now(), each) for each in some])
    await two[0].emit(by(USER, "later"))
    await hub.registry.wait_applied((await hub.log.bounds()).last)
    for notice in notices:
        hub._confirmations.note_sent(notice)
    await hub._confirmations.save()
    stored = hub.registry.hidden.erasures.notices
    assert all(notice.sent_time for notice in stored.unconfirmed(one))
    stream = await reader.subscribe(earliest={})
    await names_until(stream, "later")
    await ask(reader, "EventService/CommitCursor", cursor=stream.frames[-1].cursor)
    assert (stored.unconfirmed(one), stored.confirmed[one]) == ([], len(notices))


async def read_from_the_start(reader: Caller, last: str, name: str) -> list[str]:
    """The events that a new stream brings, up to the last one."""
    return await names_until(await reader.subscribe(earliest={}, subscription_id=name), last)


async def nothing_is_left(hub: RunningHub, reader: Caller) -> None:
    """A hub shows nothing of the user: in streams from memory and from the log, in exports, as an event that is new."""
    for name in ("window", "log"):
        assert await read_from_the_start(reader, "after", name) == [*LEFT, "after"]
        only_in_the_log(hub)
    assert await exported(hub.bot, user_id=USER, acting_user_id=USER) == []
    assert in_memory(hub, USER) - in_memory(hub, LONGER) == 0
    assert (await hub.emit(by(USER, "mine-1"))).duplicate


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is erased in the background: what is hidden is hidden by the request alone."""

    async def nothing(*_: object) -> None:
        """Work on no erasure."""

    monkeypatch.setattr(erasing.Eraser, "_finish", nothing)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("erase", [erase_user, lambda hub: erase_guild(hub, "51")])
async def test_an_erasure_applies_to_other_replicas(two: list[RunningHub], erase) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001  one of two calls
    """From its window, its pages and the log, though it has just delivered all of it."""
    one, other = two
    reader = await filled(one)
    await caught_up(one, other)
    there = other.caller(reader.key)
    assert await read_from_the_start(there, BEFORE[-1], "before") == BEFORE
    await erase(one)
    await caught_up(one, other)
    await one.emit(by("7", "after", "52"))
    wanted = [*(LEFT if erase is erase_user else []), "after"]
    for name in ("window", "log"):
        assert await read_from_the_start(there, "after", name) == wanted
        only_in_the_log(other)
    assert await exported(other.bot, user_id=USER, acting_user_id=USER) == []


async def test_an_erasure_applies_to_a_replica_that_was_stopped(two: list[RunningHub]) -> None:
    """It ends before the erasure and starts after it was done."""
    one, away = two
    reader = await filled(one)
    await caught_up(one, away)
    assert await read_from_the_start(away.caller(reader.key), BEFORE[-1], "before") == BEFORE
    await away.close()
    erasure = await done(one.bot, (await erase_user(one)).erasure_id)
    assert erasure.events_erased == 2
    assert len(erasure.notices) == 1
    await one.emit(by(LONGER, "after"))
    back = RunningHub(await Hub.start(away.settings), away.settings, one.keys)
    try:
        await nothing_is_left(back, back.caller(reader.key))
        disclosures = [
            (await ask(hub.admin, "PrivacyService/ListDisclosures", user_id=USER)).disclosures for hub in (one, back)
        ]
        assert disclosures[0] == disclosures[1]
        assert [one.event_count for one in disclosures[1]] == [2]
    finally:
        await back.close()
    assert in_the_store(one, USER) - in_the_store(one, LONGER) == 0


async def until_it_opens(reader: Caller, name: str) -> Subscriber:
    """A stream, as soon as the hub opens one again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await reader.subscribe(earliest={}, subscription_id=name)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  all else would be a fault


async def test_an_erasure_applies_to_a_replica_that_was_cut_off(hubs: Hubs, name: str) -> None:
    """It has the events in memory and an open stream, and learns of the erasure only when it is done."""
    async with Proxy([shared().port]) as way:
        one, away = await hubs(shared().url, way.url, nats_stream=name, max_store_silence=600)
        reader = await filled(one)
        await caught_up(one, away)
        there = away.caller(reader.key)
        stream = await there.subscribe(earliest={}, subscription_id="open")
        assert await names_until(stream, BEFORE[-1]) == BEFORE
        assert in_memory(away, USER) - in_memory(away, LONGER) > 0
        way.passes.clear()
        await until(lambda: away.hub.log.silence() > STALE_AFTER)
        erasure = await done(one.bot, (await erase_user(one)).erasure_id)
        assert erasure.events_erased == 2
        await one.emit(by(LONGER, "after"))
        way.passes.set()
        names = await names_until(await until_it_opens(there, "again"), "after")
        assert names == [*LEFT, "after"]
        assert (await names_until(stream, "after"))[-1] == "after"
        assert any(frame.erased.user_id == USER for frame in stream.frames)
        await nothing_is_left(away, there)
