"""A hub is backed up under load, lost and restored: what its callers find, and which errors they get."""

import asyncio
import itertools
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
import pytest
from msgspec.structs import replace
from tickets.hub.v1 import admin_service_pb2, event_pb2, event_service_pb2

from hub.control.registry import etag
from hub.control.versioned import Versioned
from hub.model import IntegrationRecord, State
from tests.support.calls import info_of
from tests.support.hubs import REGISTRATION, Caller, Subscriber, scope_requests
from tests.support.processes import Ended, Serving, run_hub, serving

EARLIEST = event_service_pb2.ON_EXPIRED_CURSOR_EARLIEST


def closed(id_: str) -> event_pb2.Event:
    """A closed ticket."""
    return event_pb2.Event(id=id_, guild_id="5", ticket_closed=event_pb2.TicketClosed(message_count=1))


async def emit(bot: Caller, *ids: str) -> None:
    """Store some events."""
    request = event_service_pb2.BatchEmitEventsRequest(events=[closed(id_) for id_ in ids])
    await bot.call("EventService/BatchEmitEvents", request)


class Load:
    """Callers that emit for as long as it is entered, and which events were acknowledged to them."""

    def __init__(self, bot: Caller) -> None:
        self.acknowledged: list[str] = []
        self._bot = bot
        self._numbers = itertools.count()
        self._more = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._emit()) for _ in range(4)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _emit(self) -> None:
        for number in self._numbers:
            ids = f"load-{number}-a", f"load-{number}-b"
            await emit(self._bot, *ids)
            self.acknowledged += ids
            self._more.set()

    async def more(self, count: int) -> None:
        """Wait until so many more were acknowledged."""
        wanted = len(self.acknowledged) + count
        while len(self.acknowledged) < wanted:
            self._more.clear()
            await self._more.wait()


async def register(hub: Serving, admin_key: str, name: str) -> Any:  # noqa: ANN401  the reply
    """A new integration that may see closed tickets."""
    fields: dict[str, Any] = REGISTRATION | {"scopes": scope_requests("TICKET_STATS"), "display_name": name}
    request = admin_service_pb2.RegisterIntegrationRequest(**fields)
    return await hub.caller(admin_key).call("AdminService/RegisterIntegration", request)


async def state_of(admin: Caller) -> Any:  # noqa: ANN401  three replies
    """All that an admin sees of integrations, keys and the audit trail."""
    audit = await admin.call("AdminService/ListAuditEntries", admin_service_pb2.ListAuditEntriesRequest())
    known = await admin.call("AdminService/ListIntegrations", admin_service_pb2.ListIntegrationsRequest())
    keys = await admin.call("AdminService/ListKeys", admin_service_pb2.ListKeysRequest())
    for key in keys.keys:
        key.ClearField("last_use_time")
    return audit, known, keys


async def read_ids(stream: Subscriber, last: str) -> list[str]:
    """The ids of all events up to one."""
    ids: list[str] = []
    while last not in ids:
        ids += [event.id for event in (await stream.frame()).events]
    return ids


async def expired(call: Any) -> dict[str, str]:  # noqa: ANN401  anything that ends with an error
    """The error of a caller whose cursor has expired."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert info_of(caught.value).reason == "CURSOR_EXPIRED"
    return dict(info_of(caught.value).metadata)


class Lost(NamedTuple):
    """What is known of a hub that was backed up under load and then killed."""

    keys: dict[str, str]
    reader_key: str
    late_key: str
    acknowledged: list[str]
    cursors: list[str]
    state: Any
    told: Ended


async def backed_up_and_lost(directory: Path) -> Lost:
    """Run a hub under load, back it up to x.bak, go on for a while, and kill it."""
    async with serving(cwd=directory) as hub:
        keys = await hub.first_keys()
        admin, bot = hub.caller(keys["HUB_ADMIN_KEY"]), hub.caller(keys["HUB_BOT_KEY"])
        reader = hub.caller((await register(hub, admin.key, "Reader")).key.secret)
        suspended = (await register(hub, admin.key, "Suspended")).integration.integration_id
        request = admin_service_pb2.SuspendIntegrationRequest(integration_id=suspended, reason="for the tests")
        await admin.call("AdminService/SuspendIntegration", request)
        state = await state_of(admin)
        stream = await reader.subscribe(earliest=event_service_pb2.Earliest())
        async with Load(bot) as load:
            await load.more(200)
            early = (await stream.frame()).cursor
            await reader.call("EventService/CommitCursor", event_service_pb2.CommitCursorRequest(cursor=early))
            acknowledged = list(load.acknowledged)
            told = await run_hub("backup", "x.bak", cwd=directory)
            await load.more(200)
        late_key = (await register(hub, admin.key, "Late")).key.secret
        await emit(bot, "after-the-backup")
        await read_ids(stream, "after-the-backup")
        late = stream.frames[-1].cursor
        assert [line for line in hub.log if line["level"] != "info"] == []
        hub.process.kill()
    return Lost(keys, reader.key, late_key, acknowledged, [early, late], state, told)


async def test_a_lost_hub_comes_back_from_its_backup(tmp_path: Path) -> None:
    """Backed up under load and restored elsewhere: keys, state, audit and all that was acknowledged are there again.

    What came after the backup is gone, and every caller learns it: each earlier cursor, committed or not, ends as
    CURSOR_EXPIRED or a Gap that names the restore, also once its position was assigned again.
    """
    lost = await backed_up_and_lost(tmp_path)
    assert (lost.told.code, lost.told.err) == (0, "")
    assert lost.told.out.endswith(", and the hub's secret\n")
    restored = await run_hub("restore", "x.bak", "--data-dir", "new", cwd=tmp_path)
    assert (restored.code, restored.err, restored.out[:5]) == (0, "", "new: ")
    async with serving(cwd=tmp_path, HUB_DATA_DIR="new") as hub:
        admin, bot, reader, late = (hub.caller(key) for key in (*lost.keys.values(), lost.reader_key, lost.late_key))
        assert await state_of(admin) == lost.state
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await late.subscribe()
        assert info_of(unknown.value).reason == "KEY_UNKNOWN"
        await emit(bot, *(f"new-{number}" for number in range(1_000)))  # more than was lost
        for start in ({"cursor": lost.cursors[0]}, {"cursor": lost.cursors[1]}, {}):
            told = await expired(reader.subscribe(**start))
            assert told == {"cause": "RESTORE"}
            stream = await reader.subscribe(**start, on_expired_cursor=EARLIEST)
            gap = (await stream.frame()).gap
            assert gap.cause == event_service_pb2.GAP_CAUSE_RESTORE
            ids = await read_ids(stream, "new-999")
            assert set(lost.acknowledged) <= set(ids)
            assert "after-the-backup" not in ids
            assert len(ids) == len(set(ids))
        assert (await hub.stop()).code == 0


async def test_commits_work_after_a_restore(tmp_path: Path) -> None:
    """A cursor from before the restore cannot be committed; one from after it can, even with a smaller position."""
    lost = await backed_up_and_lost(tmp_path)
    await run_hub("restore", "x.bak", "--data-dir", "new", cwd=tmp_path)
    async with serving(cwd=tmp_path, HUB_DATA_DIR="new") as hub:
        bot, reader = hub.caller(lost.keys["HUB_BOT_KEY"]), hub.caller(lost.reader_key)
        for cursor in lost.cursors:
            commit = event_service_pb2.CommitCursorRequest(cursor=cursor)
            assert await expired(reader.call("EventService/CommitCursor", commit)) == {"cause": "RESTORE"}
        stream = await reader.subscribe(
            subscription_id="other", earliest=event_service_pb2.Earliest(), max_batch_size=1
        )
        first = await stream.frame()
        commit = event_service_pb2.CommitCursorRequest(cursor=first.cursor)
        kept = await reader.call("EventService/CommitCursor", commit)
        assert kept.committed
        await emit(bot, "new")
        ids = await read_ids(await reader.subscribe(), "new")
        assert first.events[0].id not in ids
        assert len(ids) == len(await read_ids(stream, "new"))


def test_an_etag_of_a_lost_change_matches_no_other() -> None:
    """After a restore another change may get the position of a lost one; its etag differs."""
    lost = IntegrationRecord("x", "X", "", "1", "", "", 1, 2, State.ACTIVE)
    assert etag(Versioned(lost, 7)) == etag(Versioned(lost, 7))
    assert etag(Versioned(lost, 7)) != etag(Versioned(replace(lost, update_time=3), 7))
