"""The directory: what people find, and what nobody learns by it."""

import pytest
from tickets.hub.v1 import directory_service_pb2, integration_pb2, permissions_pb2

from tests.support.calls import ask
from tests.support.events import numbers
from tests.support.governance import STRANGER, apply_for, block, install, refused, set_scopes, short, unblock, uninstall
from tests.support.hubs import RunningHub

Found = directory_service_pb2.FindIntegrationsResponse


async def find(hub: RunningHub, **fields: object) -> list[str]:
    """The names that a search finds, page after page if it says how large those are."""
    names: list[str] = []
    token = ""
    while True:
        reply = await ask(hub.bot, "DirectoryService/FindIntegrations", page_token=token, **fields)
        names += [entry.display_name for entry in reply.integrations]
        assert len(reply.integrations) <= fields.get("page_size", 50)  # type: ignore[operator]  # a number
        token = reply.next_page_token
        if not token:
            return names


async def test_a_query_needs_all_of_its_words(hub: RunningHub) -> None:
    """Words in any order and case, in name or description; an empty query finds all, by age."""
    await hub.register("TICKET_CREATED", display_name="Ticket Charts", description="Draws graphs of your server.")
    await hub.register("TICKET_CREATED", display_name="Backup", description="Keeps transcripts of TICKETS for you.")
    await hub.register("TICKET_CREATED", display_name="Straße", description="Für alle.")
    assert await find(hub) == ["Ticket Charts", "Backup", "Straße"]
    assert await find(hub, query="ticket") == ["Ticket Charts", "Backup"]
    assert await find(hub, query=" GRAPHS  charts ") == ["Ticket Charts"]
    assert await find(hub, query="charts transcripts") == []
    assert await find(hub, query="STRASSE") == ["Straße"]
    assert await find(hub, query="chart%") == []


async def test_a_scope_filter_matches_any_of_its_scopes(hub: RunningHub) -> None:
    """Any of the scopes that are granted now; together with a query both have to hold."""
    await hub.register("TICKET_CREATED", display_name="Created")
    both, _ = await hub.register("TICKET_CREATED", "TICKET_STATS", display_name="Both")
    await hub.register("DROP_CLAIMED", display_name="Drops")
    assert await find(hub, scopes=numbers("TICKET_CREATED")) == ["Created", "Both"]
    assert await find(hub, scopes=numbers("TICKET_STATS", "DROP_CLAIMED")) == ["Both", "Drops"]
    assert await find(hub, scopes=numbers("TICKET_CREATED"), query="both") == ["Both"]
    await set_scopes(hub, both.integration_id, "TICKET_STATS")
    assert await find(hub, scopes=numbers("TICKET_CREATED")) == ["Created"]
    assert await find(hub, scopes=numbers("MEMBER_VERIFIED")) == []


async def test_search_pages_are_complete_and_belong_to_their_search(hub: RunningHub) -> None:
    """Every page has as many as asked for, none is left out or twice, and a token opens its own search alone."""
    names = [f"Number {index}" for index in range(5)]
    for name in names:
        await hub.register("TICKET_CREATED", display_name=name)
    assert await find(hub, page_size=2) == names
    assert await find(hub, page_size=2, query="number") == names
    token = (await ask(hub.bot, "DirectoryService/FindIntegrations", page_size=2)).next_page_token
    for other in ({"query": "number"}, {"scopes": numbers("TICKET_CREATED")}):
        refusal = await refused(hub.bot, "DirectoryService/FindIntegrations", page_token=token, **other)
        assert (refusal.reason, refusal.message.split(":")[0]) == ("INVALID_REQUEST", "page_token")
    assert (await refused(hub.bot, "DirectoryService/FindIntegrations", page_token="x")).reason == "INVALID_REQUEST"
    assert (await refused(hub.bot, "DirectoryService/FindIntegrations", page_size=-1)).reason == "INVALID_REQUEST"


async def test_only_active_integrations_are_listed(hub: RunningHub) -> None:
    """PENDING, REJECTED, SUSPENDED, DELETED and blocked ones are not found; opened again they are."""
    await apply_for(hub, "TICKET_CREATED", display_name="Pending")
    rejected = await apply_for(hub, "TICKET_CREATED", display_name="Rejected")
    named = {"integration_id": rejected.integration_id, "reason": "no"}
    await ask(hub.admin, "AdminService/RejectIntegration", **named)
    deleted, _ = await hub.register("TICKET_CREATED", display_name="Deleted")
    await ask(
        hub.admin, "AdminService/DeleteIntegration", integration_id=deleted.integration_id, reason="its owner asked"
    )
    suspended, _ = await hub.register("TICKET_CREATED", display_name="Suspended")
    named = {"integration_id": suspended.integration_id, "reason": "complaints"}
    await hub.register("TICKET_CREATED", display_name="Blocked", owner_user_id=STRANGER)
    assert await find(hub) == ["Suspended", "Blocked"]
    await ask(hub.admin, "AdminService/SuspendIntegration", **named)
    await block(hub, STRANGER)
    assert await find(hub) == []
    await ask(hub.admin, "AdminService/ResumeIntegration", **named)
    await unblock(hub, STRANGER)
    assert await find(hub) == ["Suspended", "Blocked"]


async def test_a_directory_entry_describes_what_an_integration_receives(hub: RunningHub) -> None:
    """Texts, links, scopes with the highest level, the fields they show, since when, and how many guilds."""
    integration, _ = await hub.register("MEMBER_VERIFIED", "TICKET_CREATED", guild_access=2)
    [entry] = (await ask(hub.bot, "DirectoryService/FindIntegrations")).integrations
    assert [short(scope) for scope in entry.scopes] == ["TICKET_CREATED", "MEMBER_VERIFIED"]
    assert entry.highest_level == permissions_pb2.SENSITIVITY_LEVEL_1
    assert list(entry.fields) == ["ticket_created.creator_user_id", "member_verified"]
    assert entry.guild_access == integration_pb2.GUILD_ACCESS_INSTALLED
    assert (entry.active_time, entry.scopes_change_time) == (integration.active_time, integration.active_time)
    assert (entry.documentation_url, entry.support_url) == (integration.documentation_url, integration.support_url)
    await set_scopes(hub, integration.integration_id, "MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY")
    for guild in ("51", "52", "53"):
        await install(hub, integration.integration_id, guild)
    await uninstall(hub, integration.integration_id, "52")
    [changed] = (await ask(hub.bot, "DirectoryService/FindIntegrations")).integrations
    assert changed.highest_level == permissions_pb2.SENSITIVITY_LEVEL_2
    assert set(changed.fields) == {"member_verified", "member_verified.user_id"}
    assert (changed.guild_count, changed.active_time) == (2, entry.active_time)
    assert changed.scopes_change_time.ToMicroseconds() > entry.scopes_change_time.ToMicroseconds()


async def test_active_time_is_the_time_of_the_approval(hub: RunningHub) -> None:
    """`active_time` is when it may first subscribe, and neither a request nor a profile moves the scopes' time."""
    made = await apply_for(hub, "TICKET_CREATED")
    named = {"integration_id": made.integration_id}
    active = (await ask(hub.admin, "AdminService/ApproveIntegration", **named)).integration
    assert active.active_time.ToMicroseconds() > made.create_time.ToMicroseconds()
    await ask(hub.admin, "AdminService/UpdateIntegration", integration={**named, "display_name": "Other"})
    [entry] = (await ask(hub.bot, "DirectoryService/FindIntegrations")).integrations
    assert (entry.active_time, entry.scopes_change_time) == (active.active_time, active.active_time)


async def test_the_directory_shows_no_private_fields(hub: RunningHub) -> None:
    """In the very bytes of a reply: no owner, endpoint, key, secret, justification, grantor or consenting admin."""
    integration, reader = await hub.register("TICKET_CREATED", endpoint_url="https://hidden.example/in")
    await install(hub, integration.integration_id, "515151515151515151", by="60351110224678999")
    _, key_id, secret = reader.key.split("_")[1:]
    hidden = {
        "owner": integration.owner_user_id,
        "endpoint": "hidden.example",
        "justification": "for the tests",
        "grantor": integration.grants[0].grantor,
        "key": key_id,
        "secret": secret,
        "etag": integration.etag,
        "guild": "515151515151515151",
        "guild admin": "60351110224678999",
    }
    for who in (hub.bot, hub.admin, (await hub.register("TICKET_CREATED"))[1]):
        reply = await ask(who, "DirectoryService/FindIntegrations", query=integration.display_name)
        [entry] = [one for one in reply.integrations if one.integration_id == integration.integration_id]
        data = entry.SerializeToString()
        assert integration.integration_id.encode() in data
        assert [name for name, text in hidden.items() if text.encode() in data] == []


@pytest.mark.parametrize("key", ["", "tkt_integration_nobody"])
async def test_the_directory_service_needs_a_key(hub: RunningHub, key: str) -> None:
    """Any valid key will do."""
    refusal = await refused(hub.caller(key), "DirectoryService/FindIntegrations")
    assert refusal.status == "UNAUTHENTICATED"


async def test_every_scope_is_described_once(hub: RunningHub) -> None:
    """ListScopes has each scope of the contract, with a level, words for people, and the fields it delivers."""
    described = (await ask(hub.bot, "DirectoryService/ListScopes")).scopes
    assert [row.scope for row in described] == [number for number in permissions_pb2.Scope.values() if number]
    assert all(row.name and row.title and row.description and row.fields for row in described)
    levels = {short(row.scope): row.level for row in described}
    assert [name for name, level in levels.items() if level > 1] == ["TICKET_STATS", "MEMBER_VERIFIED_IDENTITY"]
    fields = {short(row.scope): list(row.fields) for row in described}
    assert fields["DROP_CLAIMED"] == ["drop_claimed.xp_amount", "drop_claimed.unb_amount"]
    assert fields["MEMBER_VERIFIED_IDENTITY"] == ["member_verified.user_id"]
