"""A change at one replica reaches the stream of a reader at another."""

from hub.clock import Clock
from tests.support.calls import ask, reason_of, subscriptions
from tests.support.hubs import RunningHub, live, until


async def test_end_stream_works_across_replicas(two: list[RunningHub]) -> None:
    """EndStream at one replica ends the stream at the other, with the reason; both know then why it ended."""
    here, there = two
    integration, reader_here = await here.register("TICKET_CREATED")
    reader_there = there.caller(reader_here.key)
    await until(lambda: integration.integration_id in there.hub.registry.integrations)
    stream = await reader_there.subscribe()
    await until(lambda: here.hub.registry.readers.names(integration.integration_id))
    await ask(here.admin, "AdminService/EndStream", integration_id=integration.integration_id, reason="it is stuck")
    ending = await stream.ending()
    assert reason_of(ending) == "STREAM_ENDED"
    assert "it is stuck" in stream.frames[-1].goodbye.reason
    await until(lambda: not live(there))
    await there.hub.save_usage()
    claims = here.hub.registry.readers.claims
    await until(lambda: all(claim.record.end_reason for claim in claims.values()))
    assert (await subscriptions(reader_here))["default"].last_end_reason == "STREAM_ENDED"


async def test_a_subscription_in_use_at_another_replica_does_not_expire(two: list[RunningHub]) -> None:
    """Only how old the claim is counts: a replica without the stream keeps a name that was just opened elsewhere."""
    here, there = two
    integration, reader = await here.register("TICKET_CREATED")
    await until(lambda: integration.integration_id in there.hub.registry.integrations)
    stream = await there.caller(reader.key).subscribe()
    names = here.hub.registry.readers.names
    await until(lambda: names(integration.integration_id))
    await here.hub.expire_subscriptions(Clock().now() - 60_000_000)
    assert names(integration.integration_id) == ["default"]
    assert stream.call.done() is False
