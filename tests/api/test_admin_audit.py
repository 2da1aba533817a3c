"""AdminService over the wire: the audit trail; and the permission table that everyone may read."""

import json
import re
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import directory_service_pb2
from tickets.hub.v1.integration_pb2 import Integration
from tickets.hub.v1.permissions_pb2 import (
    ROLE_ADMIN,
    ROLE_BOT,
    ROLE_UNSPECIFIED,
    SCOPE_MEMBER_VERIFIED_IDENTITY,
    SCOPE_TICKET_STATS,
    Scope,
)

from tests.support.admin_calls import Code, ask, refusal, violations
from tests.support.hubs import RunningHub, scope_requests


async def trail(hub: RunningHub, **request: Any) -> list[Any]:  # noqa: ANN401  fields of it; the entries
    """The audit trail, the newest first."""
    return list((await ask(hub.admin, "ListAuditEntries", **request)).entries)


def told(entry: Any) -> dict[str, tuple[Any, Any]]:  # noqa: ANN401  an AuditEntry; what stood before and after
    """What an entry says has changed, out of its JSON; None = it was not there."""
    return {one.field: (json.loads(one.before or "null"), json.loads(one.after or "null")) for one in entry.changes}


async def test_an_audit_entry_holds_the_whole_change(hub: RunningHub) -> None:
    """An entry says when, who, by which method, for whom, why, in which call, and each field before and after."""
    integration, _ = await hub.register("TICKET_CREATED")
    heir = (await ask(hub.admin, "CreateServiceKey", role=ROLE_ADMIN, display_name="another admin")).key
    new = Integration(integration_id=integration.integration_id, display_name="New", endpoint_url="https://n.example")
    changed = await ask(hub.caller(heir.secret), "UpdateIntegration", integration=new, reason="it moved")
    [entry] = await trail(hub, page_size=1)
    assert (entry.actor.role, entry.actor.key_id, entry.actor.user_id) == (ROLE_ADMIN, heir.key_id, "")
    assert (entry.method, entry.reason) == ("AdminService/UpdateIntegration", "it moved")
    assert entry.integration_id == integration.integration_id
    assert told(entry) == {"display_name": ("Statistics", "New"), "endpoint_url": (None, "https://n.example")}
    assert entry.time.ToNanoseconds() >= changed.integration.update_time.ToNanoseconds()
    assert entry.request_id
    assert len({one.request_id for one in (await trail(hub))[:3]}) == 3


async def test_every_changing_method_leaves_one_audit_entry(hub: RunningHub) -> None:
    """Entries are in order, under the method's name, and say what changed."""
    integration, _ = await hub.register("TICKET_CREATED")
    one = {"integration_id": integration.integration_id}
    await ask(hub.admin, "SetScopes", **one, scopes=scope_requests("TICKET_STATS"), reason="wrong one")
    key = (await ask(hub.admin, "RotateKey", **one, reason="routine")).key
    await ask(hub.admin, "RevokeKey", **one, key_id=key.key_id, reason="leaked")
    await ask(hub.admin, "SuspendIntegration", **one, reason="sends too much")
    await ask(hub.admin, "ResumeIntegration", **one, reason="mended")
    await ask(hub.admin, "DeleteIntegration", **one, reason="closed down")
    entries = (await trail(hub, **one))[::-1]
    assert [(entry.method.removeprefix("AdminService/"), entry.reason) for entry in entries] == [
        ("RegisterIntegration", ""),
        ("SetScopes", "wrong one"),
        ("RotateKey", "routine"),
        ("RevokeKey", "leaked"),
        ("SuspendIntegration", "sends too much"),
        ("ResumeIntegration", "mended"),
        ("DeleteIntegration", "closed down"),
    ]
    granted = [[grant["scope"] for grant in grants] for grants in told(entries[1])["grants"]]
    assert granted == [["ticket_created"], ["ticket_stats"]]
    assert told(entries[3]).keys() == {"keys"}
    assert [told(entry)["state"] for entry in entries[4:]] == [
        ("ACTIVE", "SUSPENDED"),
        ("SUSPENDED", "ACTIVE"),
        ("ACTIVE", "DELETED"),
    ]


async def test_audit_entries_use_names_and_readable_times(hub: RunningHub) -> None:
    """Scopes, roles and states appear by name, times in RFC 3339; positions of the log do not appear."""
    integration, _ = await hub.register("TICKET_CREATED")
    [entry] = await trail(hub, integration_id=integration.integration_id)
    after = {name: new for name, (_, new) in told(entry).items()}
    [grant], [key] = after["grants"], after["keys"]
    assert grant.keys() == {"scope", "justification", "grant_time", "grantor"}
    assert (grant["scope"], key["role"], after["state"]) == ("ticket_created", "INTEGRATION", "ACTIVE")
    assert after["create_time"] == integration.create_time.ToJsonString()
    assert key["create_time"] == grant["grant_time"] == integration.active_time.ToJsonString()
    assert re.search(r"\d{10}", str([change.after for change in entry.changes if "time" in change.field])) is None


@pytest.mark.parametrize("method", ["Nope", "AdminService/Nope", "AdminService/EmitEvent", "setscopes"])
async def test_a_filter_by_an_unknown_method_is_refused(hub: RunningHub, method: str) -> None:
    """An empty result would look as if nobody had called it."""
    assert await violations(ask(hub.admin, "ListAuditEntries", method=method)) == ["method"]
    assert len(await trail(hub, method="hub")) == 2


async def test_refused_changes_and_reads_leave_no_audit_entry(hub: RunningHub) -> None:
    """A refused change and a read leave the trail unchanged."""
    integration, _ = await hub.register("TICKET_CREATED")
    before = await trail(hub)
    one = {"integration_id": integration.integration_id}
    forbidden = (Code.FAILED_PRECONDITION, "STATE_FORBIDS")
    assert await refusal(ask(hub.admin, "ResumeIntegration", **one)) == forbidden
    assert await violations(ask(hub.admin, "SuspendIntegration", **one)) == ["reason"]
    assert await refusal(ask(hub.bot, "DeleteIntegration", **one)) == (Code.PERMISSION_DENIED, "ROLE_NOT_ALLOWED")
    await ask(hub.admin, "ListKeys", **one)
    assert await trail(hub) == before


async def test_the_audit_trail_holds_no_secret(hub: RunningHub) -> None:
    """Keys appear by id: neither their text nor their digest is in the trail."""
    reply = await ask(hub.admin, "CreateServiceKey", role=ROLE_BOT, display_name="spare")
    _, reader = await hub.register("TICKET_CREATED")
    held = [key.digest for key in hub.hub.registry.service.record.keys]
    text = str(await trail(hub))
    assert reply.key.key_id in text
    secrets = [key.split("_")[3][:28] for key in (reply.key.secret, reader.key, *hub.keys.values())]
    assert [secret for secret in (*secrets, *held) if secret in text] == []


async def test_the_first_start_is_in_the_audit_trail(hub: RunningHub) -> None:
    """A change that the hub made by itself has an actor without key and role."""
    entries = await trail(hub)
    assert {(entry.actor.role, entry.actor.key_id, entry.reason) for entry in entries} == {
        (ROLE_UNSPECIFIED, "", "first start")
    }


async def test_the_audit_trail_is_paged(hub: RunningHub) -> None:
    """The pages together equal the whole trail, newest first, although changes are made meanwhile."""
    mine, _ = await hub.register("TICKET_CREATED")
    one = {"integration_id": mine.integration_id}
    for number in range(7):
        scopes = scope_requests("TICKET_CREATED", *(["DROP_CLAIMED"] if number % 2 else []), "TICKET_STATS")[
            : 1 + number % 3
        ]
        await ask(hub.admin, "SetScopes", **one, scopes=scopes, reason=f"change {number}")
        await hub.register("TICKET_CREATED")
    whole = await trail(hub, **one)
    assert [entry.time.ToNanoseconds() for entry in whole] == sorted(
        (entry.time.ToNanoseconds() for entry in whole), reverse=True
    )
    paged, token = list[Any](), ""
    while token or not paged:
        page = await ask(hub.admin, "ListAuditEntries", **one, page_size=2, page_token=token)
        assert len(page.entries) <= 2
        paged += page.entries
        token = page.next_page_token
        await ask(hub.admin, "RotateKey", **one)
    assert paged == whole


async def test_the_audit_trail_is_filtered_by_integration(hub: RunningHub) -> None:
    """With an id only its changes are listed; an invalid id is refused; a token is valid for that list alone."""
    mine, _ = await hub.register("TICKET_CREATED")
    other, _ = await hub.register("TICKET_CREATED")
    await ask(hub.admin, "RotateKey", integration_id=mine.integration_id)
    assert {entry.integration_id for entry in await trail(hub)} == {"", mine.integration_id, other.integration_id}
    entries = await trail(hub, integration_id=mine.integration_id)
    assert [entry.integration_id for entry in entries] == [mine.integration_id] * 2
    none = await refusal(ask(hub.admin, "ListAuditEntries", integration_id=mine.integration_id[:-1]))
    assert none == (Code.NOT_FOUND, "INTEGRATION_NOT_FOUND")
    page = await ask(hub.admin, "ListAuditEntries", integration_id=mine.integration_id, page_size=1)
    stolen = {"integration_id": other.integration_id, "page_token": page.next_page_token}
    assert await violations(ask(hub.admin, "ListAuditEntries", **stolen)) == ["page_token"]


async def test_the_audit_trail_is_filtered_by_key_method_and_time(hub: RunningHub) -> None:
    """Each further term of the request leaves only the entries that match it."""
    mine, _ = await hub.register("TICKET_CREATED")
    heir = (await ask(hub.admin, "CreateServiceKey", role=ROLE_ADMIN, display_name="another admin")).key
    await ask(hub.caller(heir.secret), "RotateKey", integration_id=mine.integration_id)
    newest, *older = await trail(hub)
    assert await trail(hub, actor_key_id=heir.key_id) == [newest]
    assert await trail(hub, method="RotateKey") == await trail(hub, method="AdminService/RotateKey") == [newest]
    assert await trail(hub, start_time=newest.time) == [newest]
    assert await trail(hub, end_time=newest.time) == older
    assert await trail(hub, end_time=older[-1].time) == []
    assert await violations(ask(hub.admin, "ListAuditEntries", start_time=Timestamp(seconds=-1))) == ["start_time"]


@pytest.mark.parametrize("who", ["admin", "bot", "integration", "nobody"])
async def test_list_scopes_needs_a_key_of_any_role(hub: RunningHub, who: str) -> None:
    """ListScopes gives each role the whole permission table, and callers without a key nothing."""
    _, reader = await hub.register("TICKET_CREATED")
    caller = {"admin": hub.admin, "bot": hub.bot, "integration": reader, "nobody": hub.caller("")}[who]
    call = caller.call("DirectoryService/ListScopes", directory_service_pb2.ListScopesRequest())
    if who == "nobody":
        assert await refusal(call) == (Code.UNAUTHENTICATED, "KEY_MISSING")
        return
    scopes = (await call).scopes
    assert [one.scope for one in scopes] == [number for number in Scope.values() if number]
    assert all(one.title and one.description and one.level for one in scopes)
    told_of = {one.scope: (one.name, one.level, list(one.fields)) for one in scopes}
    assert told_of[SCOPE_TICKET_STATS] == ("ticket_stats", 2, ["ticket_closed.message_count"])
    assert told_of[SCOPE_MEMBER_VERIFIED_IDENTITY][2] == ["member_verified.user_id"]
