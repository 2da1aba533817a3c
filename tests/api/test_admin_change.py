"""AdminService over the wire: changing integrations, their scopes and their state, and two admins at once."""

import asyncio
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tickets.hub.v1 import integration_pb2
from tickets.hub.v1.integration_pb2 import (
    GUILD_ACCESS_ALL,
    GUILD_ACCESS_INSTALLED,
    INTEGRATION_STATE_ACTIVE,
    INTEGRATION_STATE_DELETED,
    INTEGRATION_STATE_SUSPENDED,
    Integration,
)
from tickets.hub.v1.permissions_pb2 import ROLE_ADMIN, SCOPE_DROP_CLAIMED, SCOPE_TICKET_CREATED, SCOPE_TICKET_STATS

from tests.support.admin_calls import Code, ask, change, refusal, violations
from tests.support.calls import fails, info_of
from tests.support.hubs import FakeClock, RunningHub, StartHub, scope_requests

MISMATCH = (Code.ABORTED, "ETAG_MISMATCH")
FORBIDDEN = (Code.FAILED_PRECONDITION, "STATE_FORBIDS")
READ_ONLY = ("integration_id", "state", "grants", "create_time", "etag", "state_reason", "requested_scopes")


async def update(hub: RunningHub, before: Integration, *paths: str, **fields: Any) -> Integration:  # noqa: ANN401  of it
    """Send an update of an integration with these paths in its mask."""
    new = Integration(integration_id=before.integration_id, **fields)
    changed = await change(hub.admin, "UpdateIntegration", integration=new, update_mask=FieldMask(paths=paths))
    assert isinstance(changed, Integration)
    return changed


async def read(hub: RunningHub, integration_id: str) -> Integration:
    """An integration as it is now."""
    found = await change(hub.admin, "GetIntegration", integration_id=integration_id)
    assert isinstance(found, Integration)
    return found


def differing(one: Integration, other: Integration) -> set[str]:
    """The fields in which two integrations differ."""
    return {
        field.name for field in Integration.DESCRIPTOR.fields if getattr(one, field.name) != getattr(other, field.name)
    }


async def test_update_changes_what_the_mask_names(hub: RunningHub) -> None:
    """A field beside the mask stays as it is, one in it that is not set is cleared (AIP-134); the change is kept."""
    before, _ = await hub.register("TICKET_CREATED", endpoint_url="https://stats.example/hook")
    after = await update(hub, before, "display_name", "endpoint_url", display_name="New", description="ignored")
    assert (after.display_name, after.endpoint_url) == ("New", "")
    assert differing(before, after) == {"display_name", "endpoint_url", "update_time", "etag"}
    assert await read(hub, before.integration_id) == after


async def test_update_needs_an_id(hub: RunningHub) -> None:
    """Without an id the request is wrong, not the integration missing."""
    assert await violations(ask(hub.admin, "UpdateIntegration")) == ["integration.integration_id"]


async def test_update_without_a_mask_changes_what_is_set(hub: RunningHub) -> None:
    """An empty mask means all fields that are set (AIP-134)."""
    before, _ = await hub.register("TICKET_CREATED", endpoint_url="https://stats.example/hook")
    after = await update(hub, before, description="Other words.", guild_access=GUILD_ACCESS_INSTALLED)
    assert (after.description, after.guild_access) == ("Other words.", GUILD_ACCESS_INSTALLED)
    assert differing(before, after) == {"description", "guild_access", "update_time", "etag"}


async def test_update_with_a_star_replaces_everything(hub: RunningHub) -> None:
    """The mask "*" replaces every field that can be changed; what is left out is cleared, or the hub's default."""
    before, _ = await hub.register(
        "TICKET_CREATED", endpoint_url="https://stats.example/hook", guild_access=GUILD_ACCESS_INSTALLED
    )
    new = {
        "display_name": "A",
        "description": "B",
        "owner_user_id": "9",
        "documentation_url": "https://d.example",
        "support_url": "https://s.example",
    }
    after = await update(hub, before, "*", **new)
    assert {name: getattr(after, name) for name in new} == new
    assert (after.endpoint_url, after.guild_access) == ("", GUILD_ACCESS_ALL)
    assert await violations(update(hub, before, "*", display_name="only this")) == [
        f"integration.{name}" for name in ("description", "owner_user_id", "documentation_url", "support_url")
    ]


@pytest.mark.parametrize("path", [*READ_ONLY, "colour", "grants.scope", "", "display_name.x"])
async def test_update_refuses_other_paths(hub: RunningHub, path: str) -> None:
    """A path that does not exist or cannot be updated is refused, also beside a valid one."""
    before, _ = await hub.register("TICKET_CREATED")
    assert await violations(update(hub, before, "display_name", path, display_name="New")) == ["update_mask"]
    assert await read(hub, before.integration_id) == before


async def test_an_update_must_leave_a_valid_resource(hub: RunningHub) -> None:
    """The result of an update has to meet the rules; a bad value outside the mask is ignored."""
    before, _ = await hub.register("TICKET_CREATED")
    assert await violations(update(hub, before, "display_name")) == ["integration.display_name"]
    assert await violations(update(hub, before, support_url="http://x")) == ["integration.support_url"]
    assert (await update(hub, before, "display_name", display_name="New", support_url="http://x")).display_name == "New"


async def test_an_update_with_the_same_values_changes_nothing(hub: RunningHub) -> None:
    """The same values again leave the etag, the time and the audit trail as they were."""
    before, _ = await hub.register("TICKET_CREATED")
    assert await update(hub, before, display_name=before.display_name) == before
    assert await update(hub, before) == before
    assert len((await ask(hub.admin, "ListAuditEntries", integration_id=before.integration_id)).entries) == 1


CHANGES: dict[str, dict[str, Any]] = {
    "SetScopes": {"scopes": scope_requests("DROP_CLAIMED")},
    "SuspendIntegration": {"reason": "a test"},
    "DeleteIntegration": {"reason": "a test"},
    "RotateKey": {},
}


@pytest.mark.parametrize("method", CHANGES)
async def test_an_outdated_etag_refuses_the_change(hub: RunningHub, method: str) -> None:
    """An etag that predates another caller's change changes nothing (AIP-154); the newest etag, or none, does."""
    before, _ = await hub.register("TICKET_CREATED")
    now = await update(hub, before, display_name="New")
    request = {"integration_id": before.integration_id, **CHANGES[method]}
    assert now.etag != before.etag
    assert await refusal(ask(hub.admin, method, **request, etag=before.etag)) == MISMATCH
    assert await refusal(ask(hub.admin, method, **request, etag="made up")) == MISMATCH
    assert await read(hub, before.integration_id) == now
    await ask(hub.admin, method, **request, etag=now.etag)
    assert (await read(hub, before.integration_id)).etag != now.etag


async def test_an_update_checks_the_etag_of_request_and_resource(hub: RunningHub) -> None:
    """Both the etag of the request and that of the integration in it count."""
    before, _ = await hub.register("TICKET_CREATED")
    now = await update(hub, before, display_name="New")
    stale = Integration(integration_id=now.integration_id, display_name="Stale", etag=before.etag)
    assert await refusal(ask(hub.admin, "UpdateIntegration", integration=stale)) == MISMATCH
    stale.etag = ""
    assert await refusal(ask(hub.admin, "UpdateIntegration", integration=stale, etag=before.etag)) == MISMATCH
    stale.etag = now.etag
    assert (await change(hub.admin, "UpdateIntegration", integration=stale)).display_name == "Stale"


async def test_using_a_key_does_not_change_the_etag(hub: RunningHub) -> None:
    """The use of a key is no change of the integration."""
    before, reader = await hub.register("TICKET_CREATED")
    (await reader.subscribe()).call.cancel()
    assert (await read(hub, before.integration_id)).etag == before.etag


async def test_of_concurrent_updates_with_one_etag_one_wins(hub: RunningHub) -> None:
    """Many admins change one version at once: one change happens, the others fail with the advice to read again."""
    before, _ = await hub.register("TICKET_CREATED")
    new = [Integration(integration_id=before.integration_id, display_name=f"n{n}", etag=before.etag) for n in range(30)]
    calls = [ask(hub.admin, "UpdateIntegration", integration=one) for one in new]
    results = await asyncio.gather(*calls, return_exceptions=True)
    [won] = [result.integration for result in results if not isinstance(result, BaseException)]
    assert await read(hub, before.integration_id) == won
    lost = [await refusal(_raised(result)) for result in results if isinstance(result, BaseException)]
    assert lost == [MISMATCH] * 29


async def _raised(error: BaseException) -> None:
    raise error


async def test_concurrent_changes_without_etags_all_happen(hub: RunningHub) -> None:
    """Each change applies to the result of the one before: none undoes another."""
    before, _ = await hub.register("TICKET_CREATED")
    one: dict[str, Any] = {"integration_id": before.integration_id}
    scopes = [scope_requests("TICKET_CREATED", "TICKET_STATS"), scope_requests("DROP_CLAIMED", "TICKET_CREATED")]
    calls = [ask(hub.admin, "SetScopes", **one, scopes=scopes[n % 2], reason=f"s{n}") for n in range(20)]
    for name in ("display_name", "description"):
        named: list[dict[str, Any]] = [{name: f"{name} {n}"} for n in range(20)]
        new = [Integration(**one, **fields) for fields in named]
        calls += [
            ask(hub.admin, "UpdateIntegration", integration=each, reason=f"{name} {n}") for n, each in enumerate(new)
        ]
    await asyncio.gather(*calls)
    trail = (await ask(hub.admin, "ListAuditEntries", **one, page_size=200)).entries
    assert {entry.reason for entry in trail} >= {
        f"{name} {n}" for name in ("display_name", "description") for n in range(20)
    }
    for name in ("display_name", "description", "grants"):
        steps = [one for entry in reversed(trail) for one in entry.changes if one.field == name]
        assert [step.before for step in steps[1:]] == [step.after for step in steps[:-1]]
    now = await read(hub, before.integration_id)
    assert f'"{now.display_name}"' == next(c.after for e in trail for c in e.changes if c.field == "display_name")
    assert now.grants[0].grant_time == before.grants[0].grant_time


async def test_set_scopes_keeps_the_grants_of_remaining_scopes(start_hub: StartHub) -> None:
    """A scope that stays keeps its grant with another justification, a new one counts from now, the others are gone."""
    clock = FakeClock()
    hub = await start_hub(clock)
    before, _ = await hub.register("TICKET_CREATED", "TICKET_STATS")
    clock.wall_offset += 3_600_000_000
    other = (await ask(hub.admin, "CreateServiceKey", role=ROLE_ADMIN, display_name="another admin")).key
    wanted = scope_requests("DROP_CLAIMED", "TICKET_CREATED")
    wanted[1].justification = "another reason"
    after = await change(hub.caller(other.secret), "SetScopes", integration_id=before.integration_id, scopes=wanted)
    kept, new = after.grants
    assert (kept.scope, new.scope) == (SCOPE_TICKET_CREATED, SCOPE_DROP_CLAIMED)
    assert (kept.grant_time, kept.grantor) == (before.grants[0].grant_time, before.grants[0].grantor)
    assert kept.justification == "another reason"
    assert (new.grantor, new.grant_time.seconds - kept.grant_time.seconds >= 3_600) == (other.key_id, True)


async def test_set_scopes_revokes_and_grants_from_now(hub: RunningHub) -> None:
    """An empty list takes every scope away; a scope that is granted again counts from then."""
    before, _ = await hub.register("TICKET_CREATED")
    one = {"integration_id": before.integration_id}
    assert not (await change(hub.admin, "SetScopes", **one)).grants
    [again] = (await change(hub.admin, "SetScopes", **one, scopes=scope_requests("TICKET_CREATED"))).grants
    assert again.grant_time.ToNanoseconds() > before.grants[0].grant_time.ToNanoseconds()


async def test_set_scopes_refuses_duplicates_and_missing_justifications(hub: RunningHub) -> None:
    """Scopes named twice, or without a justification, are refused, and nothing changes."""
    before, _ = await hub.register("TICKET_CREATED")
    twice = scope_requests("DROP_CLAIMED", "DROP_CLAIMED")
    bare = [integration_pb2.ScopeRequest(scope=SCOPE_TICKET_STATS)]
    for scopes, field in ((twice, "scopes[1].scope"), (bare, "scopes[0].justification")):
        call = ask(hub.admin, "SetScopes", integration_id=before.integration_id, scopes=scopes)
        assert await violations(call) == [field]
    assert await read(hub, before.integration_id) == before


async def test_suspend_resume_and_delete_change_the_state(hub: RunningHub) -> None:
    """Each step shows its state and its reason; the grants outlive a suspension, and end with the integration."""
    before, _ = await hub.register("TICKET_CREATED")
    one = {"integration_id": before.integration_id}
    suspended = await change(hub.admin, "SuspendIntegration", **one, reason="sends too much")
    assert (suspended.state, suspended.state_reason) == (INTEGRATION_STATE_SUSPENDED, "sends too much")
    assert suspended.grants == before.grants
    resumed = await change(hub.admin, "ResumeIntegration", **one, reason="mended")
    assert (resumed.state, resumed.state_reason) == (INTEGRATION_STATE_ACTIVE, "mended")
    deleted = await change(hub.admin, "DeleteIntegration", **one, reason="closed down")
    assert (deleted.state, deleted.state_reason, list(deleted.grants)) == (INTEGRATION_STATE_DELETED, "closed down", [])
    assert await read(hub, before.integration_id) == deleted


@pytest.mark.parametrize("method", ["SuspendIntegration", "DeleteIntegration"])
@pytest.mark.parametrize("reason", ["", " ", "x" * 501, "a\x00b"])
async def test_suspension_and_deletion_need_a_reason(hub: RunningHub, method: str, reason: str) -> None:
    """Without a reason that can be shown to its developer an integration is neither suspended nor deleted."""
    before, _ = await hub.register("TICKET_CREATED")
    assert await violations(ask(hub.admin, method, integration_id=before.integration_id, reason=reason)) == ["reason"]
    assert await read(hub, before.integration_id) == before


FORBIDS = {
    (): ("ResumeIntegration",),
    ("SuspendIntegration",): ("SuspendIntegration",),
    ("DeleteIntegration",): (
        *(
            "SuspendIntegration",
            "ResumeIntegration",
            "DeleteIntegration",
            "SetScopes",
            "RotateKey",
            "UpdateIntegration",
        ),
    ),
}
"""What is forbidden after these steps from a registration."""


@pytest.mark.parametrize(
    ("steps", "method"), [(steps, one) for steps, forbidden in FORBIDS.items() for one in forbidden]
)
async def test_commands_that_the_state_does_not_allow_are_refused(
    hub: RunningHub, steps: tuple[str, ...], method: str
) -> None:
    """The refusal names the state, and the states that would allow the command."""
    before, _ = await hub.register("TICKET_CREATED")
    one: dict[str, Any] = {"integration_id": before.integration_id, "reason": "a test"}
    for step in steps:
        await ask(hub.admin, step, **one)
    now = await read(hub, before.integration_id)
    update_it = {"integration": Integration(integration_id=before.integration_id, display_name="New")}
    error = await fails(ask(hub.admin, method, **(update_it if method == "UpdateIntegration" else one)))
    assert (error.code(), info_of(error).reason) == FORBIDDEN
    state = integration_pb2.IntegrationState.Name(now.state).removeprefix("INTEGRATION_STATE_")
    assert info_of(error).metadata["state"] == state
    assert state not in info_of(error).metadata["allowed"].split(",")
    assert await read(hub, before.integration_id) == now


async def test_a_suspended_integration_can_still_be_changed(hub: RunningHub) -> None:
    """While it is suspended its scopes, texts and keys can be changed, and it can be deleted."""
    before, _ = await hub.register("TICKET_CREATED")
    one = {"integration_id": before.integration_id}
    await ask(hub.admin, "SuspendIntegration", **one, reason="a test")
    assert (
        len((await change(hub.admin, "SetScopes", **one, scopes=scope_requests("DROP_CLAIMED", "TICKET_STATS"))).grants)
        == 2
    )
    assert (await update(hub, before, display_name="New")).display_name == "New"
    assert (await ask(hub.admin, "RotateKey", **one)).key.secret
    assert (await change(hub.admin, "DeleteIntegration", **one, reason="x")).state == INTEGRATION_STATE_DELETED
