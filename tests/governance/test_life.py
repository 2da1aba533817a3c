"""The life of an integration: every cell of the table in docs/governance.md, walked over the wire."""

from pathlib import Path
from typing import Any

import pytest
from tickets.hub.v1 import integration_pb2

from tests.support.calls import ask, fails, read
from tests.support.events import ticket
from tests.support.governance import GUILD_ADMIN, OWNER, apply_for, approve, install, refusal_of, state
from tests.support.hubs import RunningHub, scope_requests

DOCUMENT = Path(__file__).parents[2] / "docs" / "governance.md"
SAMPLE = {"event": ticket("")}

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ApproveIntegration": ("AdminService", {}),
    "RejectIntegration": ("AdminService", {"reason": "not needed"}),
    "SuspendIntegration": ("AdminService", {"reason": "complaints"}),
    "ResumeIntegration": ("AdminService", {}),
    "DeleteIntegration": ("AdminService", {"reason": "its owner asked"}),
    "SetScopes": ("AdminService", {"scopes": scope_requests("TICKET_CREATED", "MEMBER_VERIFIED")}),
    "RequestScopes": ("DeveloperService", {"scopes": scope_requests("DROP_CLAIMED")}),
    "UpdateIntegration": ("AdminService", {"integration": {"display_name": "Other"}}),
    "UpdateProfile": ("DeveloperService", {"integration": {"display_name": "Other"}}),
    "RotateKey": ("AdminService", {}),
    "RotateOwnKey": ("DeveloperService", {}),
    "InstallIntegration": ("DirectoryService", {"guild_id": "51", "acting_user_id": GUILD_ADMIN}),
    "UninstallIntegration": ("DirectoryService", {"guild_id": "51", "acting_user_id": GUILD_ADMIN}),
    "SendTestEvent": ("DeveloperService", SAMPLE),
    "PreviewEvent": ("DeveloperService", SAMPLE),
}
"""What each command of the table asks for, beside the integration."""

PATHS: dict[str, list[str]] = {
    "PENDING": [],
    "ACTIVE": ["ApproveIntegration"],
    "ACTIVE*": ["ApproveIntegration", "RequestScopes"],
    "SUSPENDED": ["ApproveIntegration", "SuspendIntegration"],
    "REJECTED": ["RejectIntegration"],
    "DELETED": ["ApproveIntegration", "DeleteIntegration"],
}
"""How an application comes into each state."""

UNCHANGING = {"SendTestEvent", "PreviewEvent", "InstallIntegration", "UninstallIntegration"}
"""Commands that leave the integration's own record as it is."""


def table() -> dict[tuple[str, str], str]:
    """The document's table: by command and state, what comes of it."""
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    start = next(index for index, row in enumerate(rows) if row.startswith("| command | PENDING"))
    states = [cell.strip() for cell in rows[start].strip("|").split("|")][1:]
    cells = {}
    for row in rows[start + 2 : start + 2 + len(REQUESTS)]:
        command, *outcomes = [cell.strip(" `") for cell in row.strip("|").split("|")]
        cells.update({(command, before): after for before, after in zip(states, outcomes, strict=True)})
    return cells


async def command(hub: RunningHub, integration_id: str, name: str) -> Any:  # noqa: ANN401  any reply
    """Give a command of the table."""
    service, fields = REQUESTS[name]
    request = {"integration_id": integration_id, **fields}
    if name == "UpdateIntegration":
        request = {"integration": {"integration_id": integration_id, **fields["integration"]}}
    if service == "DeveloperService":
        request["acting_user_id"] = OWNER
    return await ask(hub.admin if service == "AdminService" else hub.bot, f"{service}/{name}", **request)


def shown(integration: integration_pb2.Integration) -> str:
    """The state of an integration, in the words of the table."""
    return state(integration) + ("*" if state(integration) == "ACTIVE" and integration.requested_scopes else "")


def test_the_lifecycle_table_is_complete() -> None:
    """Every command has an outcome for every state, and every state that the contract knows is there."""
    assert set(table()) == {(name, before) for name in REQUESTS for before in PATHS}
    known = {name.removeprefix("INTEGRATION_STATE_") for name in integration_pb2.IntegrationState.keys()}  # noqa: SIM118  an enum
    assert {before.rstrip("*") for before in PATHS} == known - {"UNSPECIFIED"}


@pytest.mark.parametrize("before", PATHS)
async def test_every_transition_follows_the_lifecycle_table(hub: RunningHub, before: str) -> None:
    """From one state each command in turn, on an integration of its own: the new state, or the reason and no change."""
    outcomes: dict[str, str] = {}
    for name in REQUESTS:
        made = await apply_for(hub, "TICKET_CREATED")
        for step in PATHS[before]:
            await command(hub, made.integration_id, step)
        found = await read(hub, made.integration_id)
        assert shown(found) == before
        if table()[name, before] in PATHS:
            await command(hub, made.integration_id, name)
            after = await read(hub, made.integration_id)
            same = name in UNCHANGING or (name, before) == ("RequestScopes", "ACTIVE*")  # asked for once more
            assert (after.etag == found.etag) == same
            outcomes[name] = shown(after)
        else:
            refusal = refusal_of(await fails(command(hub, made.integration_id, name)))
            assert refusal.status == (
                "FAILED_PRECONDITION" if refusal.reason == "STATE_FORBIDS" else "PERMISSION_DENIED"
            )
            assert await read(hub, made.integration_id) == found
            outcomes[name] = refusal.reason
    assert outcomes == {name: table()[name, before] for name in REQUESTS}


async def test_requested_scopes_survive_a_suspension(hub: RunningHub) -> None:
    """A request made before or while it is suspended is decided once it is resumed."""
    made = await apply_for(hub, "TICKET_CREATED")
    await approve(hub, made.integration_id)
    for name in ("SuspendIntegration", "RequestScopes", "ResumeIntegration"):
        await command(hub, made.integration_id, name)
    assert shown(await read(hub, made.integration_id)) == "ACTIVE*"
    after = await approve(hub, made.integration_id)
    assert (shown(after), len(after.grants)) == ("ACTIVE", 2)


async def test_a_deleted_integration_keeps_no_grants(hub: RunningHub) -> None:
    """Grants and requests are gone with it, and what guilds agreed to shows nothing any more."""
    made = await apply_for(hub, "TICKET_CREATED", guild_access=2)
    await approve(hub, made.integration_id)
    await install(hub, made.integration_id, "51")
    for name in ("RequestScopes", "DeleteIntegration"):
        await command(hub, made.integration_id, name)
    after = await read(hub, made.integration_id)
    assert (list(after.grants), list(after.requested_scopes)) == ([], [])
    reply = await ask(
        hub.bot,
        "DeveloperService/PreviewEvent",
        integration_id=made.integration_id,
        acting_user_id=OWNER,
        event=ticket("", "51"),
    )
    assert not reply.delivered
