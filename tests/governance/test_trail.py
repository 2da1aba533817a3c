"""Who did what, for whom and why: the trail of what the bot and developers do, and the log of what was refused."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import admin_service_pb2, permissions_pb2

from hub import logs
from tests.support.calls import ask
from tests.support.governance import (
    GUILD_ADMIN,
    NOBODYS_ID,
    OWNER,
    STRANGER,
    apply_for,
    approve,
    block,
    install,
    own_key,
    refused,
    unblock,
    uninstall,
)
from tests.support.hubs import FakeClock, RunningHub, scope_requests

Trail = list[admin_service_pb2.AuditEntry]


async def trail(hub: RunningHub, **fields: Any) -> Trail:  # noqa: ANN401  of the request
    """What a filter finds, page after page, the oldest first."""
    found: Trail = []
    token = ""
    while True:
        reply = await ask(hub.admin, "AdminService/ListAuditEntries", page_token=token, **fields)
        found += reply.entries
        token = reply.next_page_token
        if not token:
            return found[::-1]


def names(entries: Trail) -> list[str]:
    """The methods of some entries, without their service."""
    return [entry.method.partition("/")[2] for entry in entries]


def fields(entry: admin_service_pb2.AuditEntry) -> dict[str, tuple[str, str]]:
    """What an entry changed, before and after."""
    return {change.field: (change.before, change.after) for change in entry.changes}


async def test_the_audit_trail_has_every_step_of_an_integration(hub: RunningHub) -> None:
    """Every step by bot, owner, integration and admin: by which key, for which Discord user, why."""
    made = await apply_for(hub, "TICKET_CREATED", "TICKET_STATS")
    one = made.integration_id
    await approve(hub, one, "TICKET_CREATED", reason="fits")
    reader = await own_key(hub, one)
    await ask(reader, "DeveloperService/UpdateProfile", integration={"display_name": "Other"})
    own = {"integration_id": one, "acting_user_id": OWNER}
    await ask(hub.bot, "DeveloperService/RequestScopes", **own, scopes=scope_requests("DROP_CLAIMED"))
    await install(hub, one, "51")
    await uninstall(hub, one, "51")
    entries = await trail(hub, integration_id=one)
    role, key = permissions_pb2.Role.Name, {who.key.split("_")[2]: who for who in (hub.admin, hub.bot, reader)}
    assert [(name, role(e.actor.role), e.actor.user_id) for name, e in zip(names(entries), entries, strict=True)] == [
        ("SubmitApplication", "ROLE_BOT", OWNER),
        ("ApproveIntegration", "ROLE_ADMIN", ""),
        ("RotateOwnKey", "ROLE_BOT", OWNER),
        ("UpdateProfile", "ROLE_INTEGRATION", ""),
        ("RequestScopes", "ROLE_BOT", OWNER),
        ("InstallIntegration", "ROLE_BOT", GUILD_ADMIN),
        ("UninstallIntegration", "ROLE_BOT", GUILD_ADMIN),
    ]
    assert [key[e.actor.key_id] for e in entries] == [
        hub.bot,
        hub.admin,
        hub.bot,
        reader,
        hub.bot,
        hub.bot,
        hub.bot,
    ]
    assert [entry.reason for entry in entries] == ["", "fits", "", "", "", "", ""]
    assert all(entry.request_id and entry.HasField("time") for entry in entries)
    assert fields(entries[1])["state"] == ('"PENDING"', '"ACTIVE"')
    assert fields(entries[3]) == {"display_name": ('"Statistics"', '"Other"')}
    assert json.loads(fields(entries[4])["requested_scopes"][1])[0]["justification"] == "for the tests"
    assert fields(entries[6])["installed"] == ("true", "false")


async def test_the_audit_trail_is_filtered_by_acting_user(hub: RunningHub) -> None:
    """A filter by acting user finds what was done for them, whatever it was, and nothing of others."""
    mine, theirs = (
        await apply_for(hub, "TICKET_CREATED"),
        await apply_for(hub, "TICKET_CREATED", owner_user_id=STRANGER),
    )
    for made in (mine, theirs):
        await approve(hub, made.integration_id)
    await install(hub, theirs.integration_id, "51", by=OWNER)
    entries = await trail(hub, acting_user_id=OWNER)
    assert [(name, e.integration_id) for name, e in zip(names(entries), entries, strict=True)] == [
        ("SubmitApplication", mine.integration_id),
        ("InstallIntegration", theirs.integration_id),
    ]
    assert names(await trail(hub, acting_user_id=OWNER, integration_id=theirs.integration_id)) == ["InstallIntegration"]
    assert names(await trail(hub, acting_user_id=OWNER, method="SubmitApplication")) == ["SubmitApplication"]
    assert names(await trail(hub, actor_key_id=hub.admin.key.split("_")[2])) == ["ApproveIntegration"] * 2


async def test_the_audit_trail_is_filtered_by_time(timed_hub: RunningHub, clock: FakeClock) -> None:
    """From the first moment on, and before the second: what happened at either end is counted once."""
    hub, moments = timed_hub, list[Timestamp]()
    for name in ("first", "second", "third"):
        clock.wall_offset += 3_600_000_000
        await hub.register("TICKET_CREATED", display_name=name)
        moments.append((await trail(hub))[-1].time)

    async def between(**times: Timestamp) -> list[str]:
        found = await trail(hub, page_size=1, method="RegisterIntegration", **times)
        return [json.loads(fields(entry)["display_name"][1]) for entry in found]

    assert await between(start_time=moments[1]) == ["second", "third"]
    assert await between(end_time=moments[1]) == ["first"]
    assert await between(start_time=moments[1], end_time=moments[2]) == ["second"]
    assert await between(start_time=moments[2], end_time=moments[1]) == []


async def test_the_blocklist_is_in_the_trail(hub: RunningHub) -> None:
    """Block, import and unblock: source and reason, before and after."""
    await block(hub)
    await ask(
        hub.admin,
        "AdminService/BatchBlockDevelopers",
        requests=[{"user_id": user, "source": "CyberShield", "reason": "list"} for user in (OWNER, STRANGER)],
    )
    await unblock(hub)
    entries = [entry for entry in await trail(hub) if "Block" in entry.method or "Unblock" in entry.method]
    assert names(entries) == ["BlockDeveloper", "BatchBlockDevelopers", "BatchBlockDevelopers", "UnblockDeveloper"]
    assert [entry.reason for entry in entries] == ["sold user data", "list", "list", "it was somebody else"]
    assert fields(entries[0])["user_id"] == ("", f'"{OWNER}"')
    assert fields(entries[1])["reason"] == ('"sold user data"', '"list"')
    assert fields(entries[3])["blocked"] == ("true", "false")


async def test_a_block_is_in_the_trail_of_each_blocked_integration(hub: RunningHub) -> None:
    """The trail of an integration has the blocks of its owner, and of no other developer."""
    made = await apply_for(hub, "TICKET_CREATED")
    await block(hub)
    await block(hub, STRANGER)
    await unblock(hub)
    entries = await trail(hub, integration_id=made.integration_id)
    assert names(entries) == ["SubmitApplication", "BlockDeveloper", "UnblockDeveloper"]
    assert [entry.integration_id for entry in entries] == [made.integration_id, "", ""]


async def test_a_rare_entry_is_found_through_a_long_trail(hub: RunningHub) -> None:
    """A filter that fits little still ends, page by page, with all that fits: the oldest entry, too."""
    integration, _ = await hub.register("TICKET_CREATED")
    for start in range(0, 3_000, 1_000):
        users = [{"user_id": str(start + n + 1), "source": "s", "reason": "r"} for n in range(1_000)]
        await ask(hub.admin, "AdminService/BatchBlockDevelopers", requests=users)
    found = await trail(hub, integration_id=integration.integration_id, page_size=1)
    assert names(found) == ["RegisterIntegration"]
    assert len(await trail(hub, method="AdminService/BatchBlockDevelopers", page_size=200)) == 3_000


@contextmanager
def heard() -> Iterator[list[dict[str, Any]]]:
    """What is logged about refusals while this lasts, once it is over."""
    lines: list[dict[str, Any]] = []
    written = io.StringIO()
    with redirect_stderr(written):
        logs.configure("info", "json")
    try:
        yield lines
    finally:
        logs.configure("info", "json")
        said = [json.loads(line) for line in written.getvalue().splitlines()]
        lines += [line for line in said if line["event"] == "refused"]


async def test_refused_calls_of_admins_are_logged(hub: RunningHub) -> None:
    """By role, by state, by a wrong field or an unknown id: a line with method, key, reason and the message."""
    made = await apply_for(hub, "TICKET_CREATED")
    named = {"integration_id": made.integration_id}
    denied = [
        (hub.bot, "SuspendIntegration", {**named, "reason": "x"}, "ROLE_NOT_ALLOWED"),
        (hub.admin, "ResumeIntegration", named, "STATE_FORBIDS"),
        (hub.admin, "RejectIntegration", named, "INVALID_REQUEST"),
        (hub.admin, "GetIntegration", {"integration_id": NOBODYS_ID}, "INTEGRATION_NOT_FOUND"),
        (hub.admin, "ApproveIntegration", {**named, "etag": "old"}, "ETAG_MISMATCH"),
    ]
    with heard() as lines:
        for who, method, request, reason in denied:
            assert (await refused(who, f"AdminService/{method}", **request)).reason == reason
    assert [(line["method"], line["reason"]) for line in lines] == [
        (f"AdminService/{method}", reason) for _, method, _, reason in denied
    ]
    for (who, *_), line in zip(denied, lines, strict=True):
        assert line["caller"].endswith(f":{who.key.split('_')[2]}")
        assert line["request_id"]
        assert line["detail"]


@pytest.mark.parametrize("key", ["", "tkt_admin_nobody"])
async def test_unauthenticated_calls_of_admin_methods_are_logged(hub: RunningHub, key: str) -> None:
    """Without a key that opens anything: a line with the method that was tried, and from where."""
    with heard() as lines:
        await refused(hub.caller(key), "AdminService/ListKeys")
    [line] = lines
    assert line["method"] == "AdminService/ListKeys"
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert line["reason"] in ("KEY_MISSING", "KEY_UNKNOWN")
