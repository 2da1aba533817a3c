"""A hub that moves to another store, by its command line: what its callers find there, and which errors they get."""

import re
from pathlib import Path
from typing import Any

import pytest
from tickets.hub.v1 import admin_service_pb2, directory_service_pb2, event_pb2, event_service_pb2

from tests.support.hubs import REGISTRATION, Caller, Subscriber, scope_requests
from tests.support.migrations import WAYS, Stores
from tests.support.processes import Serving, run_hub, serving
from tests.test_backup_hub import EARLIEST, closed, emit, expired, read_ids, register, state_of


def variables(stores: Stores, backend: str, name: str) -> dict[str, str]:
    """The environment of a hub on a store of its own."""
    settings = stores.named(backend, name)
    chosen = {"HUB_STORAGE": settings.storage, "HUB_NATS_STREAM": settings.nats_stream}
    return {"HUB_DATA_DIR": str(settings.data_dir)} | (chosen if backend == "jetstream" else {})


def created(id_: str, guild: str = "5") -> event_pb2.Event:
    """A ticket was opened."""
    return event_pb2.Event(id=id_, guild_id=guild, ticket_created=event_pb2.TicketCreated(creator_user_id="9"))


async def installed_only(hub: Serving, admin: Caller) -> tuple[str, Caller]:
    """An integration for guilds that install it."""
    fields: dict[str, Any] = REGISTRATION | {"scopes": scope_requests("TICKET_CREATED"), "display_name": "Installed"}
    fields["guild_access"] = "GUILD_ACCESS_INSTALLED"
    reply = await admin.call("AdminService/RegisterIntegration", admin_service_pb2.RegisterIntegrationRequest(**fields))
    return reply.integration.integration_id, hub.caller(reply.key.secret)


async def batch(bot: Caller, *events: event_pb2.Event) -> list[event_service_pb2.EmitEventResponse]:
    """Emit; returns the result of each event."""
    request = event_service_pb2.BatchEmitEventsRequest(events=events)
    return list((await bot.call("EventService/BatchEmitEvents", request)).results)


async def whole(admin: Caller) -> Any:  # noqa: ANN401  three replies
    """All that an admin sees, but the etags: they are of the log."""
    audit, known, keys = await state_of(admin)
    for one in known.integrations:
        one.ClearField("etag")
    return audit, known, keys


async def all_shown(caller: Caller, last: str, **start: Any) -> list[str]:  # noqa: ANN401  fields of the request
    """The ids that an integration gets, from a start to an event."""
    return await read_ids(await caller.subscribe(subscription_id="look", **start), last)


class Old:
    """A hub with a past: who was granted what when, who has read how far."""

    def __init__(self, hub: Serving, keys: dict[str, str]) -> None:
        self.keys = keys
        self.admin, self.bot = (hub.caller(keys[f"HUB_{name}_KEY"]) for name in ("ADMIN", "BOT"))
        self.cursor = ""

    async def live(self, hub: Serving) -> None:
        """Let it all happen."""
        reply = await register(hub, self.admin.key, "Reader")
        self.reader, id_ = hub.caller(reply.key.secret), reply.integration.integration_id
        await batch(self.bot, *(closed(f"closed-{n}") for n in range(900)), created("too-early"))
        wanted = scope_requests("TICKET_STATS", "TICKET_CREATED")
        request = admin_service_pb2.SetScopesRequest(integration_id=id_, scopes=wanted, reason="for the tests")
        await self.admin.call("AdminService/SetScopes", request)
        name, self.installed = await installed_only(hub, self.admin)
        await batch(self.bot, created("not-installed-yet"))
        install = directory_service_pb2.InstallIntegrationRequest(
            integration_id=name, guild_id="5", acting_user_id="80351110224678912"
        )
        await self.bot.call("DirectoryService/InstallIntegration", install)
        await batch(self.bot, created("in-time"), created("elsewhere", "6"))
        await self.read_a_part()
        self.last = (await batch(self.bot, closed("last"), created("end")))[-1]
        earliest = {"earliest": event_service_pb2.Earliest()}
        self.shown = [await all_shown(one, "end", **earliest) for one in (self.reader, self.installed)]
        self.state = await whole(self.admin)

    async def read_a_part(self) -> None:
        """Commit a place in the midst of it all, keep a cursor of there, and know what follows."""
        stream: Subscriber = await self.reader.subscribe(earliest=event_service_pb2.Earliest(), max_batch_size=100)
        for _ in range(3):
            self.cursor = (await stream.frame()).cursor
        commit = event_service_pb2.CommitCursorRequest(cursor=self.cursor)
        await self.reader.call("EventService/CommitCursor", commit)


@pytest.mark.parametrize(("source", "target"), WAYS[:2])
async def test_a_hub_moves_to_another_store(tmp_path: Path, source: str, target: str) -> None:
    """Stopped, exported and imported elsewhere: keys, state, audit, grants, installations and events are as before.

    A committed cursor stays where it was, with no gap; a cursor that was kept outside ends as CURSOR_EXPIRED or a Gap,
    after which everything comes again; what is emitted again is a duplicate with its first time.
    """
    stores = Stores(tmp_path)
    try:
        before, after = variables(stores, source, "old"), variables(stores, target, "new")
        async with serving(cwd=tmp_path, **before) as hub:
            old = Old(hub, await hub.first_keys())
            await old.live(hub)
            assert (await hub.stop()).code == 0
        told = await run_hub("export", "x.export", cwd=tmp_path, **before)
        assert re.fullmatch(r"x.export: \d+ entries through \S+Z, and the hub's secret\n", told.out), told
        told = await run_hub("import", "x.export", cwd=tmp_path, **after)
        assert (told.code, " entries through " in told.out, told.err) == (0, True, "")
        async with serving(cwd=tmp_path, **after) as hub:
            await finds_all(hub, old)
            assert (await hub.stop()).out == ""
    finally:
        await stores.close()


async def finds_all(hub: Serving, old: Old) -> None:
    """Check what earlier callers find at a hub."""
    admin, bot, reader, installed = (hub.caller(one.key) for one in (old.admin, old.bot, old.reader, old.installed))
    assert await whole(admin) == old.state
    rest = await read_ids(await reader.subscribe(), "end")
    assert rest == old.shown[0][300:]
    assert await expired(reader.subscribe(cursor=old.cursor)) == {"cause": "RESTORE"}
    stream = await reader.subscribe(cursor=old.cursor, on_expired_cursor=EARLIEST)
    assert (await stream.frame()).gap.cause == event_service_pb2.GAP_CAUSE_RESTORE
    assert await read_ids(stream, "end") == old.shown[0]
    earliest = {"earliest": event_service_pb2.Earliest()}
    assert [await all_shown(one, "end", **earliest) for one in (reader, installed)] == old.shown
    assert old.shown[1] == ["in-time", "end"]
    assert ("too-early" in old.shown[0], "in-time" in old.shown[0]) == (False, True)
    [again] = await batch(bot, created("end"))
    assert (again.duplicate, again.accept_time) == (True, old.last.accept_time)
    await emit(bot, "new")
    assert await read_ids(await reader.subscribe(), "new") == [*rest, "new"]


async def test_wrong_arguments_are_reported_in_one_line(tmp_path: Path) -> None:
    """A store in use, a file that is there, a file that was cut off, a store that is not empty: one line each."""
    async with serving(cwd=tmp_path) as hub:
        await hub.first_keys()
        assert "is in use by another hub" in (await run_hub("export", "x.export", cwd=tmp_path)).complaint
        await hub.stop()
    assert (await run_hub("export", "x.export", cwd=tmp_path)).code == 0
    assert "never overwrites a file: name another one" in (await run_hub("export", "x.export", cwd=tmp_path)).complaint
    assert "is not empty" in (await run_hub("import", "x.export", cwd=tmp_path)).complaint
    whole_file = (tmp_path / "x.export").read_bytes()
    (tmp_path / "x.export").write_bytes(whole_file[:-10])
    assert "is truncated" in (await run_hub("import", "x.export", cwd=tmp_path, HUB_DATA_DIR="new")).complaint
    assert not (tmp_path / "new").exists()


async def test_an_unreachable_cluster_is_reported_in_one_line(tmp_path: Path) -> None:
    """Both commands say so, and leave no file."""
    nobody = {"HUB_STORAGE": "nats://127.0.0.1:1"}
    assert "cannot be reached" in (await run_hub("export", "x.export", cwd=tmp_path, **nobody)).complaint
    assert list(tmp_path.iterdir()) == []
