"""Least privilege: what is granted and not needed is found, with what to do about it; what is used is not."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tickets.hub.v1 import admin_service_pb2

from tests.support.calls import ask
from tests.support.events import closed, ticket, verified
from tests.support.governance import NOBODYS_ID, apply_for, install, refused, set_scopes, short
from tests.support.hubs import PATIENCE, Caller, FakeClock, RunningHub, StartHub


@pytest.fixture
async def hub(start_hub: StartHub) -> RunningHub:
    """A hub whose report judges a grant from its first moment on."""
    return await start_hub(report_grace=0)


DAY = 24 * 3_600 * 1_000_000
Finding = admin_service_pb2.PrivilegeFinding


async def report(hub: RunningHub, integration_id: str = "", **fields: Any) -> list[Finding]:  # noqa: ANN401  of the request
    """All findings, page by page."""
    found: list[Finding] = []
    token = fields.pop("page_token", "")
    while True:
        request = {"integration_id": integration_id, "page_token": token, **fields}
        reply = await ask(hub.admin, "AdminService/GetPrivilegeReport", **request)
        found += reply.findings
        token = reply.next_page_token
        if not token:
            return found


def kinds(findings: list[Finding]) -> list[str]:
    """What was found, by name and scopes."""
    return [
        " ".join([Finding.Kind.Name(one.kind).removeprefix("KIND_"), *(short(scope) for scope in one.scopes)])
        for one in findings
    ]


async def until(hub: RunningHub, integration_id: str, fits: Callable[[list[str]], bool]) -> list[str]:
    """Ask until the report says so: use is noted now and then, not at once."""
    async with asyncio.timeout(PATIENCE):
        while not fits(found := kinds(await report(hub, integration_id))):
            pass
    return found


async def deliver(hub: RunningHub, reader: Caller, *sent: Any, **request: Any) -> None:  # noqa: ANN401  events; of Subscribe
    """Emit events, and read them on a stream that ends afterwards."""
    stream = await reader.subscribe(**request)
    for one in sent:
        await hub.emit(one)
    await stream.events(len(sent))
    stream.call.cancel()


async def test_a_delivery_counts_as_use_of_its_grant(hub: RunningHub) -> None:
    """A grant that delivered something to a reading stream is not a finding any more; the others still are."""
    integration, reader = await hub.register("TICKET_CREATED", "TICKET_STATS")
    one = integration.integration_id
    assert kinds(await report(hub, one)) == ["GRANT_NEVER_USED TICKET_CREATED", "GRANT_NEVER_USED TICKET_STATS"]
    stream = await reader.subscribe()
    await hub.emit(ticket("t1"))
    await stream.events(1)
    found = await until(hub, one, lambda found: len(found) == 1)
    assert found == ["GRANT_NEVER_USED TICKET_STATS"]
    [finding] = await report(hub, one)
    assert finding.since == integration.grants[1].grant_time
    assert "SetScopes" in finding.advice


async def test_a_delivered_field_counts_as_use_of_its_scope(hub: RunningHub) -> None:
    """A verification uses the identity scope only on a stream that is shown the user."""
    integration, reader = await hub.register("MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY")
    one = integration.integration_id
    await deliver(hub, reader, verified("v1"), scopes=[integration.grants[0].scope])
    found = await until(hub, one, lambda found: len(found) == 1)
    assert found == ["GRANT_NEVER_USED MEMBER_VERIFIED_IDENTITY"]
    await deliver(hub, reader, verified("v2"))
    assert await until(hub, one, lambda found: not found) == []


async def test_a_scope_without_consent_does_not_count_as_used(hub: RunningHub) -> None:
    """Where guilds install it a grant is used by what it delivers from a guild that agreed to it, by nothing else."""
    integration, reader = await hub.register("MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY", guild_access=2)
    one = integration.integration_id
    await install(hub, one, "51", "MEMBER_VERIFIED_IDENTITY")
    await deliver(hub, reader, verified("v1", "51"))
    found = await until(hub, one, lambda found: len(found) < 3)
    assert found == ["GRANT_NEVER_USED MEMBER_VERIFIED", "CONSENT_OUTDATED MEMBER_VERIFIED"]


async def test_a_test_event_does_not_count_as_use(hub: RunningHub) -> None:
    """What a developer sends to themselves shows no need for a grant."""
    integration, reader = await hub.register("TICKET_CREATED", "TICKET_STATS")
    stream = await reader.subscribe()
    await ask(reader, "DeveloperService/SendTestEvent", event=ticket(""))
    await stream.events(1)
    await ask(reader, "DeveloperService/SendTestEvent", event=closed(""))
    await stream.events(1)
    await hub.emit(ticket("t1"))
    await stream.events(1)
    found = await until(hub, integration.integration_id, lambda found: len(found) < 2)
    assert found == ["GRANT_NEVER_USED TICKET_STATS"]


async def test_thirty_days_without_use_are_a_finding(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Grant, key and stream: fine for thirty days after the last use, findings since then afterwards."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    one = integration.integration_id
    await deliver(hub, reader, ticket("t1"))
    await until(hub, one, lambda found: not found)
    clock.wall_offset += 29 * DAY
    assert kinds(await report(hub, one)) == []
    clock.wall_offset += 2 * DAY
    found = await report(hub, one)
    assert kinds(found) == ["GRANT_UNUSED TICKET_CREATED", "KEY_UNUSED", "NO_STREAM"]
    advice = [("SetScopes", ""), ("RevokeKey", reader.key.split("_")[2]), ("suspend", "")]
    assert [(word in finding.advice, finding.key_id) for finding, (word, _) in zip(found, advice, strict=True)] == [
        (True, key) for _, key in advice
    ]
    now = clock.now()
    assert all(30 * DAY < now - finding.since.ToMicroseconds() < 32 * DAY for finding in found)
    await deliver(hub, reader, ticket("t2"))
    assert await until(hub, one, lambda found: not found) == []


async def test_unused_time_counts_from_the_creation(timed_hub: RunningHub, clock: FakeClock) -> None:
    """A key and an integration that were never used are findings thirty days after their creation."""
    hub = timed_hub
    integration, _ = await hub.register("TICKET_CREATED")
    clock.wall_offset += 31 * DAY
    found = await report(hub, integration.integration_id)
    assert kinds(found) == ["GRANT_NEVER_USED TICKET_CREATED", "KEY_UNUSED", "NO_STREAM"]
    made = integration.create_time.ToMicroseconds()
    assert [abs(finding.since.ToMicroseconds() - made) < DAY for finding in found] == [True] * 3


async def test_unused_and_old_service_keys_are_findings(timed_hub: RunningHub, clock: FakeClock) -> None:
    """An unused key of the bot, and keys older than a year, each with what to do."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    bot, admin = (who.key.split("_")[2] for who in (hub.bot, hub.admin))
    clock.wall_offset += 31 * DAY
    [unused] = [finding for finding in await report(hub) if not finding.integration_id]
    assert (kinds([unused]), unused.key_id) == (["KEY_UNUSED"], bot)
    clock.wall_offset += 335 * DAY
    await ask(hub.bot, "DirectoryService/ListScopes")
    await ask(reader, "DirectoryService/ListScopes")
    old = [finding for finding in await report(hub) if finding.kind == Finding.KIND_KEY_OLD]
    assert {(finding.integration_id, finding.key_id) for finding in old} == {
        ("", bot),
        ("", admin),
        (integration.integration_id, reader.key.split("_")[2]),
    }
    assert all(("RotateKey" if finding.integration_id else "CreateServiceKey") in finding.advice for finding in old)


async def test_ended_keys_are_no_finding(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Ended keys are not looked at, however old and unused."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    named = {"integration_id": integration.integration_id}
    await ask(hub.admin, "AdminService/RevokeKey", **named, key_id=reader.key.split("_")[2])
    clock.wall_offset += 400 * DAY
    assert "KEY" not in " ".join(kinds(await report(hub, integration.integration_id)))


async def test_consent_to_fewer_scopes_than_granted_is_a_finding(hub: RunningHub) -> None:
    """Each guild that agreed to less than is granted, with what it lacks, until it agrees again."""
    integration, _ = await hub.register("TICKET_CREATED", guild_access=2)
    one = integration.integration_id
    first = await install(hub, one, "51")
    await set_scopes(hub, one, "TICKET_CREATED", "TICKET_STATS", "DROP_CLAIMED")
    await install(hub, one, "52")
    await install(hub, one, "53", "TICKET_CREATED", "TICKET_STATS")
    found = [finding for finding in await report(hub, one) if finding.guild_id]
    assert kinds(found) == ["CONSENT_OUTDATED DROP_CLAIMED TICKET_STATS", "CONSENT_OUTDATED DROP_CLAIMED"]
    assert ([finding.guild_id for finding in found], found[0].since) == (["51", "53"], first.agree_time)
    assert "agreed to drop_claimed, ticket_stats" in found[0].advice
    await install(hub, one, "51")
    assert [finding.guild_id for finding in await report(hub, one) if finding.guild_id] == ["53"]


async def test_only_active_integrations_are_reported(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Applications and suspended integrations hold nothing open: no findings; one page at a time for the rest."""
    hub = timed_hub
    await apply_for(hub, "TICKET_CREATED")
    suspended, _ = await hub.register("TICKET_CREATED")
    await ask(
        hub.admin, "AdminService/SuspendIntegration", integration_id=suspended.integration_id, reason="complaints"
    )
    for _ in range(2):
        await hub.register("TICKET_CREATED", "TICKET_STATS")
    clock.wall_offset += 31 * DAY
    found = await report(hub)
    assert len(found) == 2 * 4 + 1
    assert suspended.integration_id not in {finding.integration_id for finding in found}
    assert await report(hub, page_size=2) == found
    refusal = await refused(hub.admin, "AdminService/GetPrivilegeReport", integration_id=NOBODYS_ID)
    assert (refusal.status, refusal.reason) == ("NOT_FOUND", "INTEGRATION_NOT_FOUND")
    assert (await refused(hub.bot, "AdminService/GetPrivilegeReport")).reason == "ROLE_NOT_ALLOWED"


async def test_use_survives_a_restart(start_hub: StartHub) -> None:
    """What was delivered until the hub was stopped is known to the next start, however short before it was."""
    hub = await start_hub(report_grace=0)
    integration, reader = await hub.register("TICKET_CREATED", "TICKET_STATS", "DROP_CLAIMED")
    one = integration.integration_id
    await deliver(hub, reader, ticket("t1"))
    assert len(await until(hub, one, lambda found: len(found) == 2)) == 2
    await hub.hub.changes.save_usage()
    await deliver(hub, reader, closed("c1"))
    await hub.close()
    hub = await start_hub(report_grace=0)
    assert kinds(await report(hub, one)) == ["GRANT_NEVER_USED DROP_CLAIMED"]


async def test_pages_of_findings_are_stable_while_findings_change(hub: RunningHub) -> None:
    """What is mended or found between two pages neither hides a later finding nor shows an earlier one again."""
    ids = sorted([(await hub.register("TICKET_CREATED", "TICKET_STATS"))[0].integration_id for _ in range(3)])
    first = await ask(hub.admin, "AdminService/GetPrivilegeReport", page_size=3)
    assert [one.integration_id for one in first.findings] == [ids[0], ids[0], ids[1]]
    await set_scopes(hub, ids[0])
    rest = await report(hub, page_token=first.next_page_token)
    assert [(one.integration_id, *kinds([one])) for one in rest] == [
        (ids[1], "GRANT_NEVER_USED TICKET_STATS"),
        (ids[2], "GRANT_NEVER_USED TICKET_CREATED"),
        (ids[2], "GRANT_NEVER_USED TICKET_STATS"),
    ]
    await set_scopes(hub, ids[0], "TICKET_CREATED", "TICKET_STATS", "DROP_CLAIMED")
    assert await report(hub, page_token=first.next_page_token) == rest


async def test_a_new_grant_is_no_finding_for_a_week(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Neither a first nor a later grant; after a week it is one."""
    hub = timed_hub
    integration, _ = await hub.register("TICKET_CREATED")
    one = integration.integration_id
    clock.wall_offset += 6 * DAY
    assert await report(hub, one) == []
    await set_scopes(hub, one, "TICKET_CREATED", "TICKET_STATS")
    clock.wall_offset += 2 * DAY
    assert kinds(await report(hub, one)) == ["GRANT_NEVER_USED TICKET_CREATED"]
    clock.wall_offset += 6 * DAY
    assert kinds(await report(hub, one)) == ["GRANT_NEVER_USED TICKET_CREATED", "GRANT_NEVER_USED TICKET_STATS"]


@pytest.mark.parametrize("how", ["suspension", "block"])
async def test_an_integration_has_a_week_after_a_suspension_or_block(
    timed_hub: RunningHub, clock: FakeClock, how: str
) -> None:
    """After 40 days of suspension or block nothing counts as unused for another week."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    one, owner = integration.integration_id, integration.owner_user_id
    await deliver(hub, reader, ticket("t1"))
    await until(hub, one, lambda found: not found)
    ways = {
        "suspension": ("SuspendIntegration", "ResumeIntegration", {"integration_id": one, "reason": "x"}),
        "block": ("BlockDeveloper", "UnblockDeveloper", {"user_id": owner, "reason": "x"}),
    }
    close, reopen, fields = ways[how]
    source = {"source": "x"} if how == "block" else {}
    await ask(hub.admin, f"AdminService/{close}", **fields, **source)
    clock.wall_offset += 40 * DAY
    await ask(hub.admin, f"AdminService/{reopen}", **fields)
    assert await report(hub, one) == []
    clock.wall_offset += 8 * DAY
    assert kinds(await report(hub, one)) == ["GRANT_UNUSED TICKET_CREATED", "KEY_UNUSED", "NO_STREAM"]
