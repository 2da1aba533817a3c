"""The pump: what it tells of changes, and when."""

from collections.abc import Callable

from tests.support.hubs import RunningHub, emit


async def test_the_pump_calls_every_listener(hub: RunningHub) -> None:
    """Each hears of a change, in their order, before the events of the batch are published."""
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
