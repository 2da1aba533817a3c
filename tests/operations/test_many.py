"""A hub with ten thousand integrations, each with a reader: a scrape and the directory hold up nobody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from hub.delivery.overview import SLICE, Observer
from hub.http.directory.snapshot import Snapshots
from hub.model import Entry, IntegrationRecord, Kind
from tests.operations.scraping import PATIENCE, scrape
from tests.support.hubs import RunningHub, StartHub, log_of

MANY = 10_000
AT_ONCE = 1_000
AT_ONCE_LISTED = 50
LONGEST = 3 * SLICE
"""Records that may be looked at in one turn of the event loop: three kinds of them lie side by side."""


async def multiply(hub: RunningHub) -> None:
    """Ten thousand integrations with a reader each, like the one that is there, appended to the log."""
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(subscription_id="main")
    stream.call.cancel()
    own = integration.integration_id
    entries = [entry for entry in await log_of(hub, Kind.STATE) if own in entry.key and "/" in entry.key]
    copies = [like(entry, own, number) for number in range(1, MANY) for entry in entries]
    for start in range(0, len(copies), AT_ONCE):
        [*_, last] = await hub.hub.log.append(copies[start : start + AT_ONCE])
        await hub.hub.registry.wait_applied(last.position)


def like(entry: Entry, own: str, number: int) -> Entry:
    """An entry of an integration of another id, with a key of another id."""
    name, key_id = f"{own[:-6]}{number:06d}", f"K{number:011d}"
    body = entry.body.replace(own.encode(), name.encode())
    before, mark, rest = body.partition(b'"key_id":"')
    body = before + mark + key_id.encode() + rest[12:] if mark else body
    return Entry(Kind.STATE, entry.time, body, key=entry.key.replace(own, name))


class Turns:
    """How often others got their turn.

    Attributes:
        seen: what was looked at since the last turn; a test counts it.
        most: the most that was looked at between two turns.
    """

    count = seen = most = 0

    @asynccontextmanager
    async def counted(self) -> AsyncIterator[None]:
        """Take a turn whenever there is one, meanwhile."""
        taking = asyncio.create_task(self._take())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            taking.cancel()
            with suppress(asyncio.CancelledError):
                await taking

    async def _take(self) -> None:
        while True:
            self.count += 1
            self.most, self.seen = max(self.most, self.seen), 0
            await asyncio.sleep(0)


@pytest.mark.timeout(400)
async def test_ten_thousand_integrations_are_scraped_and_listed_in_slices(start_hub: StartHub) -> None:
    """The scrape and the directory cover all of them, in slices between which other tasks run."""
    hub = await start_hub(http_listen="127.0.0.1:0")
    await multiply(hub)
    async with asyncio.timeout(PATIENCE):
        while (found := await scrape(hub.hub.http.port)).value("hub_readers") < MANY:  # noqa: ASYNC110  a look
            await asyncio.sleep(0.05)
    assert found.value("hub_integrations", state="ACTIVE") == MANY
    assert found.value("hub_readers") == MANY
    assert len(found.families["hub_integrations"].samples) < 10
    parts = hub.hub
    observer = Observer(parts.log, parts.registry, parts.feed, parts.streams, hub.settings, parts._clock)
    turns = Turns()
    async with turns.counted():
        picture = await observer.overview()
    assert len(picture.readers) == MANY
    assert turns.count >= MANY / LONGEST
    await the_directory_gives_turns(hub)


async def the_directory_gives_turns(hub: RunningHub) -> None:
    """Its snapshot has everybody; between two turns of the others it looks at a few."""
    registry, turns = hub.hub.registry, Turns()
    is_listed = registry.is_listed

    def counted(record: IntegrationRecord) -> bool:
        turns.seen += 1
        return is_listed(record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "is_listed", counted)
        async with turns.counted():
            made = await Snapshots(registry, hub.hub._clock).newest()
    assert len(made.listed) == len(made.by_id) == MANY
    assert 0 < turns.most <= AT_ONCE_LISTED
