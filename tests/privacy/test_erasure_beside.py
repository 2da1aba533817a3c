"""Erasures beside other work: a reader of the file, a huge guild, a search that takes long."""

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from hub.model import Kind
from hub.privacy import erasing, lookups
from tests.support.calls import ask, detail_of, fails, reason_of
from tests.support.events import closed, ids
from tests.support.governance import arrived, opened
from tests.support.hubs import PATIENCE, FakeClock, RunningHub, emit, emit_all, log_of, require_embedded
from tests.support.privacy import DONE, USER, by, done, erase_guild, erase_user, exported, in_the_store


async def test_a_program_that_reads_the_file_delays_the_end_of_an_erasure(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a backup does. Until it has ended the erasure is not done, and afterwards no byte is left."""
    require_embedded(hub)
    monkeypatch.setattr(erasing, "FLUSH_AGAIN", 0.01)
    await emit_all(hub, [by(USER, f"{USER}-{n}") for n in range(50)])
    with closing(sqlite3.connect(hub.settings.data_dir / "hub.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM entries WHERE instr(body, ?)", (USER,)).fetchone() == (50,)
        erasure = await erase_user(hub)
        async with asyncio.timeout(PATIENCE):
            while len(await log_of(hub, Kind.ERASED)) < 50:  # noqa: ASYNC110  nothing tells how far it is
                await asyncio.sleep(0.01)
        shown = (await ask(hub.bot, "PrivacyService/GetErasure", erasure_id=erasure.erasure_id)).erasure
        assert shown.state != DONE
        assert in_the_store(hub, USER) > 0
        reader.execute("COMMIT")
    assert (await done(hub.bot, erasure.erasure_id)).events_erased == 50
    assert in_the_store(hub, USER) == 0


async def test_a_large_guild_is_erased_in_steps(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Many more events than are found, erased or appended at once; its neighbours are served as before."""
    hub = timed_hub
    require_embedded(hub)
    integration, reader = await hub.register("TICKET_STATS")
    await emit(hub, ids("a", 10), lambda name: closed(name, "52"))
    await emit(hub, ids("huge", 12_000), lambda name: closed(name, "51"))
    erasure = await erase_guild(hub, "51")
    await emit(hub, ids("b", 10), lambda name: closed(name, "52"))
    stream = await opened(reader, integration.integration_id)
    assert await arrived(hub, clock, stream) == [*ids("a", 10), *ids("b", 10)]
    assert (await done(hub.bot, erasure.erasure_id)).events_erased == 12_000
    assert await exported(hub.admin, guild_id="51") == []


async def test_a_long_search_is_answered_by_a_later_call(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call fails with a retry delay; the same search continues, and answers a later call."""
    monkeypatch.setattr(lookups, "MAX_WAIT", 0.05)
    _, reader = await hub.register("TICKET_CREATED")
    await hub.emit(by(USER, "mine"))
    await (await reader.subscribe(earliest={})).events(1)
    find, goes_on, searches = hub.hub.log.find, asyncio.Event(), 0

    async def slow(*arguments: Any) -> Any:  # noqa: ANN401  whatever the call takes and gives
        nonlocal searches
        searches += 1
        await goes_on.wait()
        return await find(*arguments)

    monkeypatch.setattr(hub.hub.log, "find", slow)
    for _ in range(3):
        error = await fails(ask(hub.admin, "PrivacyService/ListDisclosures", user_id=USER))
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "DISCLOSURES_NOT_READY")
        assert detail_of(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    assert searches == 1
    goes_on.set()
    monkeypatch.setattr(lookups, "MAX_WAIT", 60)
    [disclosure] = (await ask(hub.admin, "PrivacyService/ListDisclosures", user_id=USER)).disclosures
    assert disclosure.event_count == 1
