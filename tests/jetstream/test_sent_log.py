"""What streams were sent, over several hubs: after a takeover every earlier holder of the subscription is known."""

import asyncio

from hub.privacy_model import SentRecord, SentView
from tests.support.hubs import RunningHub, until
from tests.support.privacy import USER, by, done, erase_user


def record(hub: RunningHub, name: str) -> SentRecord:
    """What a hub knows of a subscription."""
    return hub.hub.registry.readers.sent.records[name].record


async def test_an_erasure_waits_for_what_another_hub_sent(two: list[RunningHub]) -> None:
    """The hub that lost it stores the end of its own stream; an erasure waits for what the other one sent."""
    integration, reader = await two[0].register("TICKET_CREATED")
    await until(lambda: integration.integration_id in two[1].hub.registry.integrations)
    before = await reader.subscribe(latest={})
    after = await two[1].caller(reader.key).subscribe(latest={})
    await before.ending()
    await two[0].hub.flush_sent()
    assert record(two[0], f"{integration.integration_id}/default").open_after >= 0
    await two[0].emit(by(USER, "mine"))
    assert [event.id for event in await after.events(1)] == ["mine"]
    erasure = await done(two[0].admin, (await erase_user(two[0])).erasure_id)
    assert [notice.integration_id for notice in erasure.notices] == [integration.integration_id]


async def test_concurrent_first_records_of_two_hubs_are_both_kept(two: list[RunningHub]) -> None:
    """A first record is stored on the condition that the key does not exist."""
    views = [SentView((1,), (guild,)) for guild in (51, 52)]
    begun = [hub.hub.streams.sent_log.begin("one/a", 0, view) for hub, view in zip(two, views, strict=True)]
    await asyncio.gather(*begun)
    await until(lambda: all(set(record(hub, "one/a").views) == set(views) for hub in two))


async def test_a_deleted_record_can_be_created_again(two: list[RunningHub]) -> None:
    """Its tombstone is the newest entry of its key, until a trim removes that."""
    sent_log = two[0].hub._streams.sent_log
    view = SentView((1,))
    for _ in range(2):
        await sent_log.begin("one/a", 0, view)
        assert record(two[0], "one/a").open_as == view
        sent_log.note("one/a", [], 0, None)
        await two[0].hub.flush_sent()
        assert "one/a" not in two[0].hub.registry.readers.sent.records
