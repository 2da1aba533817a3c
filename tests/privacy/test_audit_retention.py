"""Retention of the audit trail: what is superseded for long goes, and with it the owners of deleted integrations."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub.archive.backup import back_up, restore
from hub.archive.migration import export_log, import_log
from hub.archive.verify import verify
from hub.config import load
from hub.errors import StartError, StorageUnavailable
from hub.model import Kind
from hub.privacy.audit_retention import PSEUDONYM, AuditRetention
from tests.support.calls import ask
from tests.support.events import closed
from tests.support.governance import apply_for, arrived, install, opened, uninstall
from tests.support.hubs import FakeClock, RunningHub, StartHub, log_of, pass_time, scope_requests
from tests.support.privacy import FRIEND, USER, by, in_the_store, owned_and_deleted
from tests.support.stores import remove_streams

EVENTS = 60
KEPT = 600
"""Seconds that events and the audit trail are kept here."""
OLD = "an-old-reason"
NEWER = "a-newer-reason"
GUILD = "51"


@pytest.fixture
def flags() -> dict[str, Any]:
    """The settings of the hubs of this module."""
    return {"retention": EVENTS, "dedupe_window": EVENTS, "audit_retention": KEPT, "write_deadline": 1e9}


@pytest.fixture
async def old_hub(start_hub: StartHub, clock: FakeClock, flags: dict[str, Any]) -> RunningHub:
    """A hub that keeps the audit trail for ten minutes."""
    return await start_hub(clock, **flags)


async def suspend(hub: RunningHub, integration_id: str, reason: str) -> None:
    """Two changes with one reason, after which all is as before."""
    for method in ("SuspendIntegration", "ResumeIntegration"):
        await ask(hub.admin, f"AdminService/{method}", integration_id=integration_id, reason=reason)


async def superseded(hub: RunningHub, integration_id: str) -> None:
    """Changes with the reason `OLD`, and others after which the newest entry does not name it any more."""
    for reason in (OLD, NEWER, NEWER):
        await suspend(hub, integration_id, reason)


async def trail(hub: RunningHub, **wanted: Any) -> list[str]:  # noqa: ANN401  fields of the request
    """The methods in the audit trail, the newest first, over all pages."""
    found, token = list[str](), ""
    while True:
        reply = await ask(hub.admin, "AdminService/ListAuditEntries", page_token=token, page_size=2, **wanted)
        found += [entry.method.partition("/")[2] for entry in reply.entries]
        token = reply.next_page_token
        if not token:
            return found


async def test_an_entry_is_removed_once_its_successor_is_too_old(old_hub: RunningHub, clock: FakeClock) -> None:
    """Not before; the newest entry below the limit stays, and no byte of those that went is in the store's files."""
    hub = old_hub
    integration, _ = await hub.register("TICKET_CREATED")
    one = {"integration_id": integration.integration_id}
    await suspend(hub, integration.integration_id, OLD)
    await pass_time(hub, clock, KEPT - 10)
    assert await trail(hub, **one) == ["ResumeIntegration", "SuspendIntegration", "RegisterIntegration"]
    await suspend(hub, integration.integration_id, NEWER)
    await pass_time(hub, clock, 20)
    assert await trail(hub, **one) == ["ResumeIntegration", "SuspendIntegration", "ResumeIntegration"]
    await pass_time(hub, clock, KEPT)
    assert await trail(hub, **one) == ["ResumeIntegration"]
    assert in_the_store(hub, OLD) == 0
    assert in_the_store(hub, NEWER) > 0
    assert (await ask(hub.admin, "AdminService/GetIntegration", **one)).integration.state == 2
    assert await verify(hub.settings) == []


async def test_pages_of_the_audit_trail_cross_what_was_removed(old_hub: RunningHub, clock: FakeClock) -> None:
    """An earlier page token continues after the removal, with the remaining entries."""
    hub = old_hub
    integration, _ = await hub.register("TICKET_CREATED")
    other, _ = await hub.register("TICKET_CREATED")
    for _ in range(3):
        await suspend(hub, integration.integration_id, OLD)
    await suspend(hub, other.integration_id, OLD)
    request: dict[str, Any] = {"page_size": 2}
    reply = await ask(hub.admin, "AdminService/ListAuditEntries", **request)
    await pass_time(hub, clock, KEPT + 1)
    reply = await ask(hub.admin, "AdminService/ListAuditEntries", **request, page_token=reply.next_page_token)
    left = [(entry.method.partition("/")[2], entry.integration_id) for entry in reply.entries]
    assert left[0] == ("ResumeIntegration", integration.integration_id)
    assert left[1][1] == "", "the first start; what lay between is gone"


async def test_the_remaining_entries_are_the_whole_state(
    start_hub: StartHub, clock: FakeClock, flags: dict[str, Any]
) -> None:
    """A hub that starts on such a store knows every integration, key, grant, installation and block as before."""
    hub = await start_hub(clock, **flags)
    integration, reader = await hub.register("TICKET_CREATED", guild_access="GUILD_ACCESS_INSTALLED")
    one = integration.integration_id
    await install(hub, one, GUILD)
    await superseded(hub, one)
    await ask(
        hub.admin, "AdminService/SetScopes", integration_id=one, scopes=scope_requests("TICKET_CREATED", "TICKET_STATS")
    )
    await pass_time(hub, clock, KEPT + 1)
    assert in_the_store(hub, OLD) == 0
    shown = await ask(hub.admin, "AdminService/GetIntegration", integration_id=one)
    await hub.close()
    hub = await start_hub(clock, **flags)
    assert await ask(hub.admin, "AdminService/GetIntegration", integration_id=one) == shown
    await hub.emit(by(USER, "mine"))
    await hub.emit(by(USER, "elsewhere", "52"))
    await hub.emit(closed("not-agreed-to", GUILD))
    stream = await opened(hub.caller(reader.key), one)
    assert await arrived(hub, clock, stream) == ["mine"]


async def test_consent_is_kept_as_long_as_events_delivered_by_it(
    start_hub: StartHub, clock: FakeClock, flags: dict[str, Any]
) -> None:
    """A guild's agreement stays for as long as there are events that were delivered by it."""
    hub = await start_hub(clock, **flags | {"audit_retention": EVENTS})
    integration, reader = await hub.register("TICKET_CREATED", guild_access="GUILD_ACCESS_INSTALLED")
    one = integration.integration_id
    await install(hub, one, GUILD)
    stream = await opened(reader, one)
    await pass_time(hub, clock, EVENTS)
    await hub.emit(by(USER, "mine"))
    assert await arrived(hub, clock, stream) == ["mine"]
    await uninstall(hub, one, GUILD)
    await pass_time(hub, clock, EVENTS - 1)
    [told] = (await ask(hub.admin, "PrivacyService/ListDisclosures", user_id=USER)).disclosures
    assert (told.integration_id, told.event_count) == (one, 1)
    await pass_time(hub, clock, 2)
    assert "InstallIntegration" not in await trail(hub)


async def test_the_owner_of_a_deleted_integration_gets_a_pseudonym(old_hub: RunningHub, clock: FakeClock) -> None:
    """After audit_retention: no byte of the id is left; the record, the deletion and other users stay."""
    hub = old_hub
    one, other = await owned_and_deleted(hub), await owned_and_deleted(hub)
    await pass_time(hub, clock, KEPT - 1)
    assert in_the_store(hub, USER) > 0
    assert (await ask(hub.admin, "AdminService/GetIntegration", integration_id=one)).integration.owner_user_id == USER
    await pass_time(hub, clock, 2)
    assert in_the_store(hub, USER) == 0
    assert not [entry for entry in await log_of(hub) if USER.encode() in entry.body]
    left = [
        (await ask(hub.admin, "AdminService/GetIntegration", integration_id=name)).integration for name in (one, other)
    ]
    assert left[0].owner_user_id.startswith(PSEUDONYM)
    assert left[0].owner_user_id == left[1].owner_user_id
    assert left[0].state_reason == f"{left[0].owner_user_id} left"
    entries = (await ask(hub.admin, "AdminService/ListAuditEntries", integration_id=one)).entries
    assert {entry.actor.user_id for entry in entries} == {"", FRIEND}
    assert (await ask(hub.admin, "PrivacyService/ExportSubject", user_id=USER)).records == []
    assert len((await ask(hub.admin, "PrivacyService/ExportSubject", user_id=FRIEND)).records) == 2


async def test_the_owner_of_an_existing_integration_is_kept(old_hub: RunningHub, clock: FakeClock) -> None:
    """What was not deleted keeps its owner, however old it is, also when another one of that owner is forgotten."""
    hub = old_hub
    kept = (await apply_for(hub, "TICKET_CREATED", owner_user_id=USER)).integration_id
    await owned_and_deleted(hub)
    await pass_time(hub, clock, 2 * KEPT)
    record = (await ask(hub.admin, "AdminService/GetIntegration", integration_id=kept)).integration
    assert record.owner_user_id == USER


class DyingLog:
    """A log that answers no write any more after some; what it did before is done."""

    def __init__(self, log: Any, writes: int) -> None:  # noqa: ANN401  a log of any backend
        self._log = log
        self._writes = writes

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  a method of the log
        """The log's own method, or the failure."""
        if name in ("append", "remove_superseded"):
            self._writes -= 1
            if self._writes < 0:
                raise StorageUnavailable
        return getattr(self._log, name)


async def test_a_hub_finishes_what_a_killed_one_began(
    start_hub: StartHub, clock: FakeClock, flags: dict[str, Any]
) -> None:
    """Before each write of the work a hub ends; in the end no byte is left, whatever the others have done before."""
    hub = await start_hub(clock, **flags)
    one = await owned_and_deleted(hub)
    clock.wall_offset += (KEPT + 1) * 1_000_000
    steps, is_done = 0, False
    while not is_done:
        log: Any = DyingLog(hub.hub.log, writes=1)
        try:
            await AuditRetention(log, hub.hub.registry, hub.settings, clock).remove_old()
            is_done = True
        except StorageUnavailable:
            steps += 1
        await hub.close()
        hub = await start_hub(clock, **flags)
        assert (await ask(hub.admin, "AdminService/GetIntegration", integration_id=one)).integration.state == 5
    assert steps > 5
    assert in_the_store(hub, USER) == 0


async def test_two_hubs_may_work_at_once(old_hub: RunningHub, clock: FakeClock) -> None:
    """Each step is conditional, or changes nothing the second time."""
    hub = old_hub
    one = await owned_and_deleted(hub)
    await superseded(hub, (await hub.register("TICKET_CREATED"))[0].integration_id)
    clock.wall_offset += (KEPT + 1) * 1_000_000
    parts = hub.hub.log, hub.hub.registry, hub.settings, clock
    await asyncio.gather(*(AuditRetention(*parts).remove_old() for _ in range(3)))
    await AuditRetention(*parts).remove_old()
    assert in_the_store(hub, USER) + in_the_store(hub, OLD) == 0
    own = [entry for entry in await log_of(hub, Kind.STATE) if entry.key == f"integration/{one}"]
    assert len(own) == 1


Move = Callable[[RunningHub, Path], Any]


async def export_and_import(hub: RunningHub, directory: Path) -> None:
    """Move the store by an export."""
    await export_log(hub.settings, directory / "x.export")
    if hub.settings.storage == "sqlite":
        hub.settings.data_dir.rename(directory / "lost")
    else:
        await remove_streams(hub.settings.storage, hub.settings.nats_stream)
    await import_log(hub.settings, directory / "x.export")


async def back_up_and_restore(hub: RunningHub, directory: Path) -> None:
    """Move the store by a backup."""
    if hub.settings.storage != "sqlite":
        pytest.skip("a backup is a file of the embedded store")
    await asyncio.to_thread(back_up, hub.settings, directory / "x.bak")
    hub.settings.data_dir.rename(directory / "lost")
    await asyncio.to_thread(restore, hub.settings, directory / "x.bak")


@pytest.mark.parametrize("move", [export_and_import, back_up_and_restore])
async def test_a_store_moves_after_entries_were_removed(
    start_hub: StartHub, clock: FakeClock, flags: dict[str, Any], tmp_path: Path, move: Move
) -> None:
    """The hub on the other store has the same trail and the same state, and nothing of what was removed."""
    hub = await start_hub(clock, **flags)
    one = await owned_and_deleted(hub)
    integration, reader = await hub.register("TICKET_CREATED")
    await superseded(hub, integration.integration_id)
    await hub.emit(by("9", "before"))
    await pass_time(hub, clock, KEPT + 1)
    await hub.emit(by("9", "after"))
    before = await trail(hub)
    await hub.close()
    await move(hub, tmp_path)
    hub = await start_hub(clock, **flags)
    assert await trail(hub) == before
    shown = (await ask(hub.admin, "AdminService/GetIntegration", integration_id=one)).integration
    assert shown.owner_user_id.startswith(PSEUDONYM)
    stream = await opened(hub.caller(reader.key), integration.integration_id)
    assert await arrived(hub, clock, stream) == ["after"]
    assert in_the_store(hub, USER) + in_the_store(hub, OLD) == 0


def test_audit_retention_cannot_be_shorter_than_retention() -> None:
    """A setting under which recipients could not be worked out is refused."""
    with pytest.raises(StartError, match="audit_retention cannot be shorter than retention"):
        load({"audit_retention": 3_600})
