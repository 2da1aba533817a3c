"""What a developer does without an admin: with the integration's own key, and by the bot in the owner's name."""

import asyncio

import pytest

from hub.state import INTEGRATION
from tests.support.calls import ask, fails, read
from tests.support.governance import (
    NOBODYS_ID,
    OWNER,
    STRANGER,
    apply_for,
    block,
    changes_wait,
    own_key,
    refusal_of,
    refused,
    state,
)
from tests.support.hubs import RunningHub, scope_requests, until

SAMPLE: dict[str, object] = {"event": {"guild_id": "41", "ticket_created": {"creator_user_id": "7"}}}
CALLS: dict[str, dict[str, object]] = {
    "GetOwnIntegration": {},
    "UpdateProfile": {"integration": {"display_name": "Other"}},
    "RotateOwnKey": {},
    "RevokeOwnKey": {"key_id": NOBODYS_ID},
    "ListOwnKeys": {},
    "RequestScopes": {"scopes": scope_requests("DROP_CLAIMED")},
    "PreviewEvent": SAMPLE,
    "SendTestEvent": SAMPLE,
}
"""Every method about one integration, and the rest of a request that it would take."""


@pytest.mark.parametrize("method", CALLS)
async def test_foreign_and_unknown_ids_get_the_same_error(hub: RunningHub, method: str) -> None:
    """With an integration's key the errors for another's id and for an unknown id differ only in the id."""
    other, _ = await hub.register("TICKET_CREATED")
    _, reader = await hub.register("TICKET_CREATED")
    anothers, nobodys = [
        await refused(reader, f"DeveloperService/{method}", integration_id=one, **CALLS[method])
        for one in (other.integration_id, NOBODYS_ID)
    ]
    assert (nobodys.status, nobodys.reason) == ("NOT_FOUND", "INTEGRATION_NOT_FOUND")
    assert anothers.message.replace(other.integration_id, NOBODYS_ID) == nobodys.message
    assert anothers.metadata == {"integration_id": other.integration_id}
    assert nobodys.metadata == {"integration_id": NOBODYS_ID}
    assert (await read(hub, other.integration_id)).etag == other.etag


FOR_ADMINS_TOO = {"PreviewEvent", "SendTestEvent"}


@pytest.mark.parametrize("method", CALLS)
async def test_the_bot_may_act_only_for_the_owner(hub: RunningHub, method: str) -> None:
    """For another user the bot is refused with NOT_OWNER, and it has to say for whom and of which it speaks."""
    integration, _ = await hub.register("TICKET_CREATED")
    named, path = {"integration_id": integration.integration_id}, f"DeveloperService/{method}"
    refusal = await refused(hub.bot, path, **named, acting_user_id=STRANGER, **CALLS[method])
    assert (refusal.status, refusal.reason) == ("PERMISSION_DENIED", "NOT_OWNER")
    assert (await refused(hub.bot, path, **named, **CALLS[method])).message.startswith("acting_user_id: ")
    refusal = await refused(hub.bot, path, acting_user_id=OWNER, **CALLS[method])
    assert (refusal.reason, refusal.message.split(":")[0]) == ("INVALID_REQUEST", "integration_id")
    if method not in FOR_ADMINS_TOO:
        assert (await refused(hub.admin, path, **named, **CALLS[method])).reason == "ROLE_NOT_ALLOWED"
    assert await read(hub, integration.integration_id) == integration


@pytest.mark.parametrize("by_bot", [True, False])
async def test_owner_and_integration_get_the_same_answers(hub: RunningHub, *, by_bot: bool) -> None:
    """The owner through the bot, and the integration itself with or without its id, get the same answers."""
    integration, reader = await hub.register("TICKET_CREATED")
    named = {"integration_id": integration.integration_id}
    who, said = (hub.bot, named | {"acting_user_id": OWNER}) if by_bot else (reader, {})
    assert (await ask(who, "DeveloperService/GetOwnIntegration", **said)).integration == integration
    reply = await ask(who, "DeveloperService/UpdateProfile", **said, integration={"display_name": "Other"})
    assert reply.integration.display_name == "Other"
    reply = await ask(who, "DeveloperService/RequestScopes", **said, scopes=scope_requests("DROP_CLAIMED"))
    assert len(reply.integration.requested_scopes) == 1
    assert (await ask(who, "DeveloperService/PreviewEvent", **said, **SAMPLE)).delivered
    assert (await ask(who, "DeveloperService/SendTestEvent", **said, **SAMPLE)).stream_count == 0
    [key] = (await ask(who, "DeveloperService/ListOwnKeys", **said)).keys
    assert (key.secret, reader.key.split("_")[2]) == ("", key.key_id)
    rotated = await ask(who, "DeveloperService/RotateOwnKey", **said)
    assert rotated.key.secret.startswith(f"tkt_integration_{rotated.key.key_id}_")
    revoked = await ask(who, "DeveloperService/RevokeOwnKey", **said, key_id=rotated.key.key_id)
    assert (revoked.key.key_id, revoked.key.secret) == (rotated.key.key_id, "")
    refusal = await refused(hub.caller(rotated.key.secret), "DeveloperService/GetOwnIntegration")
    assert (refusal.status, refusal.reason) == ("UNAUTHENTICATED", "KEY_REVOKED")


async def test_an_owner_lists_exactly_their_integrations(hub: RunningHub) -> None:
    """By the bot page by page, whatever the state; an integration's key shows that integration alone."""
    mine, reader = await hub.register("TICKET_CREATED")
    theirs, _ = await hub.register("TICKET_CREATED", owner_user_id=STRANGER)
    applied = await apply_for(hub, "TICKET_CREATED", display_name="Second")
    first = await ask(hub.bot, "DeveloperService/ListOwnIntegrations", acting_user_id=OWNER, page_size=1)
    second = await ask(
        hub.bot,
        "DeveloperService/ListOwnIntegrations",
        acting_user_id=OWNER,
        page_size=1,
        page_token=first.next_page_token,
    )
    assert [*first.integrations, *second.integrations] == [mine, applied]
    assert not second.next_page_token
    assert [*(await ask(reader, "DeveloperService/ListOwnIntegrations")).integrations] == [mine]
    [other] = (await ask(hub.bot, "DeveloperService/ListOwnIntegrations", acting_user_id=STRANGER)).integrations
    assert other == theirs
    refusal = await refused(hub.bot, "DeveloperService/ListOwnIntegrations")
    assert (refusal.reason, refusal.message.split(":")[0]) == ("INVALID_REQUEST", "acting_user_id")
    refusal = await refused(
        hub.bot, "DeveloperService/ListOwnIntegrations", acting_user_id=STRANGER, page_token=first.next_page_token
    )
    assert (refusal.reason, refusal.message.split(":")[0]) == ("INVALID_REQUEST", "page_token")


async def test_a_profile_update_follows_its_mask(hub: RunningHub) -> None:
    """AIP-134: the fields of the mask, unset ones emptied; without a mask those that are set."""
    before, reader = await hub.register("TICKET_CREATED", endpoint_url="https://stats.example/in")
    new = {"display_name": "New", "description": "Not named.", "support_url": "https://help.example"}
    after = (
        await ask(
            reader,
            "DeveloperService/UpdateProfile",
            integration=new,
            update_mask={"paths": ["display_name", "endpoint_url"]},
        )
    ).integration
    assert (after.display_name, after.endpoint_url) == ("New", "")
    assert (after.description, after.support_url) == (before.description, before.support_url)
    after = (await ask(reader, "DeveloperService/UpdateProfile", integration=new)).integration
    assert (after.description, after.support_url) == ("Not named.", "https://help.example")
    assert after.documentation_url == before.documentation_url
    assert (after.grants, after.owner_user_id) == (before.grants, before.owner_user_id)


@pytest.mark.parametrize("path", ["owner_user_id", "guild_access", "state", "grants", "etag", "integration_id", "none"])
async def test_a_developer_can_change_only_the_profile(hub: RunningHub, path: str) -> None:
    """Owner, guild access, state and grants cannot be changed; the refusal names the fields that can."""
    before, reader = await hub.register("TICKET_CREATED")
    asks = {"integration": {"owner_user_id": STRANGER, "guild_access": 1}, "update_mask": {"paths": [path]}}
    refusal = await refused(reader, "DeveloperService/UpdateProfile", **asks)
    assert (refusal.reason, refusal.message.split(":")[0]) == ("INVALID_REQUEST", "update_mask")
    assert "display_name" in refusal.message
    assert await read(hub, before.integration_id) == before


async def test_a_profile_update_must_leave_a_valid_profile(hub: RunningHub) -> None:
    """A mask that would empty the documentation, or set an address that is not https, is refused by the field."""
    before, reader = await hub.register("TICKET_CREATED")
    everything = {"integration": {"display_name": "Only this"}, "update_mask": {"paths": ["*"]}}
    refusal = await refused(reader, "DeveloperService/UpdateProfile", **everything)
    assert refusal.reason == "INVALID_REQUEST"
    assert "integration.documentation_url" in refusal.message
    refusal = await refused(
        reader, "DeveloperService/UpdateProfile", integration={"endpoint_url": "http://stats.example"}
    )
    assert refusal.message.startswith("integration.endpoint_url: ")
    assert await read(hub, before.integration_id) == before


async def test_a_profile_update_checks_the_etag(hub: RunningHub) -> None:
    """The etag that was read, in the request or in the integration itself, refuses a change made in between."""
    before, reader = await hub.register("TICKET_CREATED")
    await ask(reader, "DeveloperService/UpdateProfile", integration={"display_name": "Faster"}, etag=before.etag)
    for inside, beside in (("", before.etag), (before.etag, "")):
        new = {"display_name": "Slower", "etag": inside}
        refusal = await refused(reader, "DeveloperService/UpdateProfile", integration=new, etag=beside)
        assert (refusal.status, refusal.reason) == ("ABORTED", "ETAG_MISMATCH")
    assert (await read(hub, before.integration_id)).display_name == "Faster"


async def test_own_keys_rotate_with_an_overlap(hub: RunningHub) -> None:
    """Two keys live side by side, a third has to wait; a revoked key's stream ends at once, with the reason."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    rotated = await ask(reader, "DeveloperService/RotateOwnKey")
    assert [key.HasField("expire_time") for key in rotated.previous_keys] == [True]
    newer = hub.caller(rotated.key.secret)
    await newer.subscribe(subscription_id="newer")
    refusal = await refused(newer, "DeveloperService/RotateOwnKey")
    assert (refusal.status, refusal.reason) == ("FAILED_PRECONDITION", "ROTATION_IN_PROGRESS")
    await ask(newer, "DeveloperService/RevokeOwnKey", key_id=rotated.previous_keys[0].key_id)
    ending = await stream.ending()
    assert refusal_of(ending).reason == "KEY_REVOKED"
    refusal = await refused(newer, "DeveloperService/RevokeOwnKey", key_id=NOBODYS_ID)
    assert (refusal.status, refusal.reason) == ("NOT_FOUND", "KEY_NOT_FOUND")
    assert (await refused(reader, "DeveloperService/ListOwnKeys")).reason == "KEY_REVOKED"


async def test_only_own_keys_can_be_revoked(hub: RunningHub) -> None:
    """The id of another's key, or of a service key, is not found, and that key lives on."""
    _, other = await hub.register("TICKET_CREATED")
    _, reader = await hub.register("TICKET_CREATED")
    for key in (other.key, hub.admin.key, hub.bot.key):
        refusal = await refused(reader, "DeveloperService/RevokeOwnKey", key_id=key.split("_")[2])
        assert refusal.reason == "KEY_NOT_FOUND"
    await ask(other, "DeveloperService/GetOwnIntegration")


async def test_a_suspended_integration_can_read_and_a_deleted_one_cannot(hub: RunningHub) -> None:
    """Its own key reads the reason of a suspension; after a deletion only the bot can read it."""
    integration, reader = await hub.register("TICKET_CREATED")
    named = {"integration_id": integration.integration_id}
    await ask(hub.admin, "AdminService/SuspendIntegration", **named, reason="too many complaints")
    seen = (await ask(reader, "DeveloperService/GetOwnIntegration")).integration
    assert (state(seen), seen.state_reason) == ("SUSPENDED", "too many complaints")
    refusal = await refused(reader, "DeveloperService/SendTestEvent", **SAMPLE)
    assert (refusal.status, refusal.reason) == ("PERMISSION_DENIED", "INTEGRATION_SUSPENDED")
    await ask(hub.admin, "AdminService/DeleteIntegration", **named, reason="nobody answered")
    refusal = await refused(reader, "DeveloperService/GetOwnIntegration")
    assert (refusal.status, refusal.reason) == ("PERMISSION_DENIED", "INTEGRATION_DELETED")
    seen = (await ask(hub.bot, "DeveloperService/GetOwnIntegration", **named, acting_user_id=OWNER)).integration
    assert (state(seen), seen.state_reason) == ("DELETED", "nobody answered")


async def test_a_blocked_developer_can_only_read_and_revoke_keys(hub: RunningHub) -> None:
    """Reading and revoking stay open on the blocklist; profile, new keys, requests and test events do not."""
    integration, reader = await hub.register("TICKET_CREATED")
    second = await own_key(hub, integration.integration_id)
    await block(hub)
    for method in ("UpdateProfile", "RotateOwnKey", "RequestScopes", "SendTestEvent"):
        refusal = await refused(second, f"DeveloperService/{method}", **CALLS[method])
        assert (refusal.status, refusal.reason) == ("PERMISSION_DENIED", "DEVELOPER_BLOCKED")
    assert (await ask(second, "DeveloperService/GetOwnIntegration")).integration.developer_blocked
    await ask(second, "DeveloperService/RevokeOwnKey", key_id=second.key.split("_")[2])
    assert refusal_of(await fails(ask(reader, "DeveloperService/ListOwnKeys"))).reason == "KEY_REVOKED"


async def test_a_former_owner_gets_no_key(hub: RunningHub) -> None:
    """The integration changes hands while the call waits: the owner is checked against the newest record."""
    integration, _ = await hub.register("TICKET_CREATED")
    named = {"integration_id": integration.integration_id}
    async with changes_wait(hub, INTEGRATION.key(integration.integration_id)) as waiting:
        given = named | {"owner_user_id": STRANGER}
        moved = asyncio.create_task(ask(hub.admin, "AdminService/UpdateIntegration", integration=given))
        await until(lambda: waiting() == 1)
        asked_for = refused(hub.bot, "DeveloperService/RotateOwnKey", **named, acting_user_id=OWNER)
        rotation = asyncio.create_task(asked_for)
        await until(lambda: waiting() == 2)
    assert (await rotation).reason == "NOT_OWNER"
    assert (await moved).integration.owner_user_id == STRANGER


async def test_a_key_revoked_meanwhile_gets_no_successor(hub: RunningHub) -> None:
    """It asks for one while its revocation is being stored."""
    integration, reader = await hub.register("TICKET_CREATED")
    named = {"integration_id": integration.integration_id}
    async with changes_wait(hub, INTEGRATION.key(integration.integration_id)) as waiting:
        revocation = ask(hub.admin, "AdminService/RevokeKey", **named, key_id=reader.key.split("_")[2])
        revoked = asyncio.create_task(revocation)
        await until(lambda: waiting() == 1)
        rotation = asyncio.create_task(refused(reader, "DeveloperService/RotateOwnKey"))
        await until(lambda: waiting() == 2)
    assert (await rotation).reason == "KEY_REVOKED"
    await revoked


async def test_a_developer_blocked_meanwhile_gets_no_key(hub: RunningHub) -> None:
    """The entry of the blocklist comes while the call waits."""
    integration, reader = await hub.register("TICKET_CREATED")
    async with changes_wait(hub, INTEGRATION.key(integration.integration_id)) as waiting:
        rotation = asyncio.create_task(refused(reader, "DeveloperService/RotateOwnKey"))
        await until(lambda: waiting() == 1)
        await block(hub)
    assert (await rotation).reason == "DEVELOPER_BLOCKED"
