"""The blocklist: what a developer owns is closed at once, and is as it was once the block ends."""

import asyncio

from tickets.hub.v1 import admin_service_pb2

from hub.state import BLOCK
from tests.support.calls import ask, read
from tests.support.events import ticket
from tests.support.governance import (
    OWNER,
    STRANGER,
    apply_for,
    arrived,
    block,
    changes_wait,
    opened,
    refusal_of,
    refused,
    state,
    unblock,
)
from tests.support.hubs import REGISTRATION, FakeClock, RunningHub, StartHub, scope_requests, until


async def blocklist(hub: RunningHub) -> list[admin_service_pb2.BlockedDeveloper]:
    """Who is blocked, as an admin reads it, two on a page."""
    found: list[admin_service_pb2.BlockedDeveloper] = []
    token = ""
    while True:
        reply = await ask(hub.admin, "AdminService/ListBlockedDevelopers", page_size=2, page_token=token)
        found += reply.developers
        token = reply.next_page_token
        if not token:
            return found


async def test_a_block_ends_every_stream_of_the_developer_at_once(hub: RunningHub) -> None:
    """All streams of their integrations end with DEVELOPER_BLOCKED, new ones are refused; others continue."""
    one, first = await hub.register("TICKET_CREATED")
    two, second = await hub.register("TICKET_CREATED")
    _, another = await hub.register("TICKET_CREATED", owner_user_id=STRANGER)
    streams = [await first.subscribe(), await first.subscribe(subscription_id="b"), await second.subscribe()]
    other = await another.subscribe()
    entry = await block(hub)
    assert (entry.user_id, entry.source, entry.reason) == (OWNER, "CyberShield", "sold user data")
    assert sorted(entry.integration_ids) == sorted([one.integration_id, two.integration_id])
    for stream in streams:
        refusal = refusal_of(await stream.ending())
        assert (refusal.status, refusal.reason) == ("PERMISSION_DENIED", "DEVELOPER_BLOCKED")
    assert refusal_of(await first.open().ending()).reason == "DEVELOPER_BLOCKED"
    await hub.emit(ticket("t1"))
    assert [event.id for event in await other.events(1)] == ["t1"]


async def test_only_the_developer_sees_source_and_reason_of_a_block(hub: RunningHub) -> None:
    """At the end of a stream, with each refusal, in their own record; not to guilds, nor in the directory."""
    integration, reader = await hub.register("TICKET_CREATED")
    _, another = await hub.register("TICKET_CREATED", owner_user_id=STRANGER)
    stream = await reader.subscribe()
    await block(hub)
    owner = {"integration_id": integration.integration_id, "acting_user_id": OWNER}
    for refusal in (
        refusal_of(await stream.ending()),
        refusal_of(await reader.open().ending()),
        await refused(hub.bot, "DeveloperService/RotateOwnKey", **owner),
    ):
        assert "CyberShield: sold user data" in refusal.message
        assert refusal.metadata == {"source": "CyberShield", "reason": "sold user data"}
    own = (await ask(reader, "DeveloperService/GetOwnIntegration")).integration
    assert (own.block_source, own.block_reason) == ("CyberShield", "sold user data")
    install = {"integration_id": integration.integration_id, "guild_id": "41", "acting_user_id": STRANGER}
    refusal = await refused(hub.bot, "DirectoryService/InstallIntegration", **install)
    assert (refusal.reason, refusal.metadata) == ("DEVELOPER_BLOCKED", {})
    assert "sold" not in refusal.message
    assert "sold" not in str(await ask(another, "DirectoryService/FindIntegrations"))
    await ask(hub.admin, "AdminService/SuspendIntegration", integration_id=integration.integration_id, reason="sold")
    assert refusal_of(await reader.open().ending()).message.endswith(": sold")
    assert "sold" not in (await refused(hub.bot, "DirectoryService/InstallIntegration", **install)).message
    await unblock(hub)
    own = (await ask(reader, "DeveloperService/GetOwnIntegration")).integration
    assert (own.developer_blocked, own.block_source, own.block_reason) == (False, "", "")


async def test_a_blocked_developer_cannot_apply(hub: RunningHub) -> None:
    """Neither an application nor a registration for them; the blocklist is by the owner, not by the bot."""
    await block(hub)
    form = {**REGISTRATION, "scopes": scope_requests("TICKET_CREATED")}
    for who in (hub.bot, hub.admin):
        refusal = await refused(who, "DirectoryService/SubmitApplication", **form, rules_accepted=True)
        assert (refusal.status, refusal.reason) == ("PERMISSION_DENIED", "DEVELOPER_BLOCKED")
    refusal = await refused(hub.admin, "AdminService/RegisterIntegration", **form)
    assert (refusal.status, refusal.reason) == ("PERMISSION_DENIED", "DEVELOPER_BLOCKED")
    assert not (await ask(hub.admin, "AdminService/ListIntegrations")).integrations
    assert state(await apply_for(hub, "TICKET_CREATED", owner_user_id=STRANGER)) == "PENDING"
    await unblock(hub)
    assert state(await apply_for(hub, "TICKET_CREATED")) == "PENDING"


async def test_unblocking_restores_the_earlier_state(hub: RunningHub) -> None:
    """Each integration has its state, grants and etag: a block is derived, not copied."""
    pending = await apply_for(hub, "TICKET_CREATED")
    suspended, _ = await hub.register("TICKET_CREATED")
    named = {"integration_id": suspended.integration_id, "reason": "complaints"}
    await ask(hub.admin, "AdminService/SuspendIntegration", **named)
    active, reader = await hub.register("TICKET_CREATED")
    ids = [one.integration_id for one in (pending, suspended, active)]
    before = [await read(hub, one) for one in ids]
    await block(hub)
    during = [await read(hub, one) for one in ids]
    assert [one.developer_blocked for one in during] == [True] * 3
    assert [(one.state, one.etag) for one in during] == [(one.state, one.etag) for one in before]
    await unblock(hub)
    assert [await read(hub, one) for one in ids] == before
    await reader.subscribe()
    assert await blocklist(hub) == []


async def test_events_of_a_block_are_delivered_afterwards(timed_hub: RunningHub, clock: FakeClock) -> None:
    """A stream resumed after the block brings what was accepted before, meanwhile and since, once and in order."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await opened(reader, integration.integration_id, latest={})
    cursor = stream.frames[-1].cursor
    await hub.emit(ticket("before"))
    await block(hub)
    await hub.emit(ticket("meanwhile"))
    await unblock(hub)
    await hub.emit(ticket("since"))
    resumed = await opened(reader, integration.integration_id, cursor=cursor)
    assert await arrived(hub, clock, resumed) == ["before", "meanwhile", "since"]


async def test_a_blocklist_import_is_all_or_nothing(hub: RunningHub) -> None:
    """One wrong entry, or a duplicate user, and no entry is stored."""
    entries = [{"user_id": str(900 + n), "source": "CyberShield", "reason": f"case {n}"} for n in range(5)]
    wrong: list[list[dict[str, str]]] = [
        [*entries, {"user_id": "12a", "source": "CyberShield", "reason": "x"}],
        [*entries, {"user_id": "990", "source": "", "reason": "x"}],
        [*entries, entries[0]],
        [],
        [{"user_id": str(1_000 + n), "source": "s", "reason": "r"} for n in range(1_001)],
    ]
    for requests in wrong:
        refusal = await refused(hub.admin, "AdminService/BatchBlockDevelopers", requests=requests)
        assert (refusal.status, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        assert await blocklist(hub) == []
    integration, reader = await hub.register("TICKET_CREATED", owner_user_id="903")
    stream = await reader.subscribe()
    reply = await ask(hub.admin, "AdminService/BatchBlockDevelopers", requests=entries)
    assert [(one.user_id, one.reason) for one in reply.developers] == [(e["user_id"], e["reason"]) for e in entries]
    assert list(reply.developers[3].integration_ids) == [integration.integration_id]
    assert refusal_of(await stream.ending()).reason == "DEVELOPER_BLOCKED"
    assert await blocklist(hub) == list(reply.developers)


async def test_blocking_again_keeps_the_time_and_updates_the_reason(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Importing a list again does not make a block younger; after an unblock the block is new."""
    hub = timed_hub
    first = await block(hub)
    clock.wall_offset += 3_600_000_000
    again = {"user_id": OWNER, "source": "Tickets", "reason": "and once more"}
    second = (await ask(hub.admin, "AdminService/BlockDeveloper", **again)).developer
    assert (second.source, second.reason, second.block_time) == ("Tickets", "and once more", first.block_time)
    [reply] = (await ask(hub.admin, "AdminService/BatchBlockDevelopers", requests=[again])).developers
    assert reply == second
    assert not (await ask(hub.admin, "AdminService/ListAuditEntries", method="BatchBlockDevelopers")).entries
    await unblock(hub)
    third = await block(hub)
    assert third.block_time.ToMicroseconds() >= first.block_time.ToMicroseconds() + 3_600_000_000


async def test_a_block_needs_source_reason_and_an_admin(hub: RunningHub) -> None:
    """Source and reason are required; neither bot nor integration can block."""
    for missing in ("user_id", "source", "reason"):
        asks = {"user_id": OWNER, "source": "CyberShield", "reason": "why"} | {missing: ""}
        refusal = await refused(hub.admin, "AdminService/BlockDeveloper", **asks)
        assert (refusal.reason, refusal.message.split(":")[0]) == ("INVALID_REQUEST", missing)
    _, reader = await hub.register("TICKET_CREATED")
    for who in (hub.bot, reader):
        for method in ("BlockDeveloper", "UnblockDeveloper", "ListBlockedDevelopers", "BatchBlockDevelopers"):
            assert (await refused(who, f"AdminService/{method}")).reason == "ROLE_NOT_ALLOWED"


async def test_unblocking_a_user_who_is_not_blocked_changes_nothing(hub: RunningHub) -> None:
    """No error, and no entry in the audit trail."""
    await unblock(hub)
    assert not (await ask(hub.admin, "AdminService/ListAuditEntries", method="UnblockDeveloper")).entries


async def test_an_integration_given_to_a_blocked_owner_is_blocked(hub: RunningHub) -> None:
    """An integration given to a blocked owner ends its streams; given back it opens."""
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    await block(hub, STRANGER)
    given = {"integration_id": integration.integration_id, "owner_user_id": STRANGER}
    await ask(hub.admin, "AdminService/UpdateIntegration", integration=given)
    assert refusal_of(await stream.ending()).reason == "DEVELOPER_BLOCKED"
    assert [list(one.integration_ids) for one in await blocklist(hub)] == [[integration.integration_id]]
    await ask(hub.admin, "AdminService/UpdateIntegration", integration=given | {"owner_user_id": OWNER})
    await reader.subscribe()
    assert [list(one.integration_ids) for one in await blocklist(hub)] == [[]]


async def test_a_block_survives_a_restart(start_hub: StartHub) -> None:
    """After a restart the developer is still blocked, with source, reason and time."""
    hub = await start_hub()
    _, reader = await hub.register("TICKET_CREATED")
    entry = await block(hub)
    await hub.close()
    hub = await start_hub()
    assert await blocklist(hub) == [entry]
    assert refusal_of(await hub.caller(reader.key).open().ending()).reason == "DEVELOPER_BLOCKED"


async def test_concurrent_blocks_and_unblocks_are_serialised(hub: RunningHub) -> None:
    """The end of a block that is still being stored ends it; of two blocks the first one's time stays."""
    async with changes_wait(hub, BLOCK.name) as waiting:
        begun = asyncio.create_task(block(hub))
        await until(lambda: waiting() == 1)
        ended = asyncio.create_task(unblock(hub))
        await until(lambda: waiting() == 2)
    await asyncio.gather(begun, ended)
    assert await blocklist(hub) == []
    both = await asyncio.gather(block(hub), block(hub))
    assert both[0].block_time == both[1].block_time
