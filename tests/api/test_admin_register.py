"""AdminService over the wire: registering integrations, reading them, listing them by pages and filters."""

import pytest
from tickets.hub.v1 import integration_pb2
from tickets.hub.v1.permissions_pb2 import SCOPE_TICKET_CREATED, SCOPE_TICKET_STATS

from tests.support.admin_calls import INVALID, Code, ask, change, refusal, registration, violations
from tests.support.hubs import REGISTRATION, RunningHub, StartHub, scope_requests


async def test_a_registered_integration_is_active_with_a_working_key(hub: RunningHub) -> None:
    """A new integration is ACTIVE, says what was asked for, has its grants by scope, and a key that works."""
    fields = registration("TICKET_STATS", "TICKET_CREATED", endpoint_url="https://stats.example:8443/hook?x=1")
    reply = await ask(hub.admin, "RegisterIntegration", **fields)
    made = reply.integration
    assert {name: getattr(made, name) for name in REGISTRATION} == REGISTRATION
    assert made.endpoint_url == "https://stats.example:8443/hook?x=1"
    assert (made.state, made.guild_access) == (
        integration_pb2.INTEGRATION_STATE_ACTIVE,
        integration_pb2.GUILD_ACCESS_ALL,
    )
    assert [grant.scope for grant in made.grants] == [SCOPE_TICKET_CREATED, SCOPE_TICKET_STATS]
    [admin_key] = {grant.grantor for grant in made.grants}
    assert admin_key == hub.admin.key.split("_")[2]
    assert made.create_time == made.update_time
    assert not made.requested_scopes
    assert (reply.key.state, reply.key.secret.split("_")[:3]) == (1, ["tkt", "integration", reply.key.key_id])
    assert await change(hub.admin, "GetIntegration", integration_id=made.integration_id) == made


async def test_the_secret_is_in_one_reply_only(hub: RunningHub) -> None:
    """No later reply about the integration or its keys has the secret."""
    made = await ask(hub.admin, "RegisterIntegration", **registration())
    integration_id = made.integration.integration_id
    replies = [
        await ask(hub.admin, "GetIntegration", integration_id=integration_id),
        await ask(hub.admin, "ListIntegrations"),
        await ask(hub.admin, "ListKeys", integration_id=integration_id),
        await ask(hub.admin, "ListAuditEntries"),
        await ask(hub.admin, "RotateKey", integration_id=integration_id),
    ]
    assert made.key.secret
    assert all(made.key.secret.encode() not in reply.SerializeToString() for reply in replies)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("display_name", ""),
        ("display_name", "x" * 81),
        ("display_name", " \t\n"),
        ("display_name", "Stat\x1b[31mistics"),
        ("display_name", "Stat\x00istics"),
        ("description", ""),
        ("description", "x" * 1_001),
        ("description", "a\x07b"),
        ("owner_user_id", ""),
        ("owner_user_id", "007"),
        ("owner_user_id", "12a"),
        ("owner_user_id", "9223372036854775808"),
        ("documentation_url", ""),
        ("documentation_url", "http://stats.example/docs"),
        ("documentation_url", "https://me:secret@stats.example/docs"),
        ("documentation_url", "https://me@stats.example"),
        ("documentation_url", "https://"),
        ("documentation_url", "javascript:alert(1)"),
        ("documentation_url", "https://stats.example/" + "x" * 2_048),
        ("support_url", "stats.example"),
        ("support_url", "https://stats.example/a b"),
        ("endpoint_url", "http://stats.example"),
        ("endpoint_url", "https://me:secret@stats.example"),
        ("guild_access", 7),
    ],
)
async def test_register_refuses_a_bad_field(hub: RunningHub, field: str, value: object) -> None:
    """A field that breaks its rule is named, and nothing is registered."""
    assert await violations(ask(hub.admin, "RegisterIntegration", **registration(**{field: value}))) == [field]
    assert not (await ask(hub.admin, "ListIntegrations")).integrations


async def test_register_takes_the_longest_texts(hub: RunningHub) -> None:
    """Each text may be as long as its rule says, in any script, with line breaks in it."""
    fields = {
        "display_name": "統" * 80,
        "description": "ä\n" * 500,
        "owner_user_id": "9223372036854775807",
        "documentation_url": "https://x.example/".ljust(2_048, "x"),
    }
    made = await change(hub.admin, "RegisterIntegration", **registration(**fields))
    assert {name: getattr(made, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("scopes", "field"),
    [
        ([], "scopes"),
        (scope_requests("TICKET_CREATED", "DROP_CLAIMED", "TICKET_CREATED"), "scopes[2].scope"),
        ([integration_pb2.ScopeRequest(justification="none named")], "scopes[0].scope"),
        ([integration_pb2.ScopeRequest(scope=99, justification="unknown")], "scopes[0].scope"),  # type: ignore[arg-type]  # that is the point
        ([integration_pb2.ScopeRequest(scope=SCOPE_TICKET_CREATED)], "scopes[0].justification"),
        (
            [integration_pb2.ScopeRequest(scope=SCOPE_TICKET_CREATED, justification="x" * 501)],
            "scopes[0].justification",
        ),
    ],
)
async def test_register_refuses_bad_scopes(
    hub: RunningHub, scopes: list[integration_pb2.ScopeRequest], field: str
) -> None:
    """No scope, a duplicate, an unknown one, or one without justification is refused, naming which."""
    assert await violations(ask(hub.admin, "RegisterIntegration", **registration(scopes=scopes))) == [field]


async def test_every_bad_field_is_named_at_once(hub: RunningHub) -> None:
    """A request with three mistakes is refused with three violations."""
    fields = registration(display_name="", owner_user_id="x", support_url="x")
    named = await violations(ask(hub.admin, "RegisterIntegration", **fields))
    assert sorted(named) == ["display_name", "owner_user_id", "support_url"]


@pytest.mark.parametrize("method", ["GetIntegration", "ListKeys", "ResumeIntegration", "RotateKey"])
async def test_an_unknown_integration_is_not_found(hub: RunningHub, method: str) -> None:
    """An unknown id, or the beginning of a known one, is NOT_FOUND; a malformed id is invalid."""
    known, _ = await hub.register("TICKET_CREATED")
    for unknown in ("nobody", known.integration_id[:4]):
        not_found = (Code.NOT_FOUND, "INTEGRATION_NOT_FOUND")
        assert await refusal(ask(hub.admin, method, integration_id=unknown)) == not_found
    assert await violations(ask(hub.admin, method, integration_id="no/id")) == ["integration_id"]


async def names(hub: RunningHub, **request: object) -> list[str]:
    """The names that ListIntegrations lists on one page."""
    return [one.display_name for one in (await ask(hub.admin, "ListIntegrations", **request)).integrations]


async def test_lists_are_ordered_by_age_and_paged(hub: RunningHub) -> None:
    """The pages hold every integration once, oldest first, although some are added meanwhile."""
    for number in range(7):
        await hub.register("TICKET_CREATED", display_name=f"n{number}")
    listed: list[str] = []
    token = ""
    while token or not listed:
        page = await ask(hub.admin, "ListIntegrations", page_size=3, page_token=token)
        listed += [one.display_name for one in page.integrations]
        token = page.next_page_token
        if len(listed) == 3:
            await hub.register("TICKET_CREATED", display_name="n7")
    assert listed == [f"n{number}" for number in range(8)]


async def test_the_last_page_has_no_next_token(hub: RunningHub) -> None:
    """Also a page that holds exactly what is left has none (AIP-158)."""
    for number in range(4):
        await hub.register("TICKET_CREATED", display_name=f"n{number}")
    first = await ask(hub.admin, "ListIntegrations", page_size=2)
    second = await ask(hub.admin, "ListIntegrations", page_size=2, page_token=first.next_page_token)
    assert (len(second.integrations), second.next_page_token) == (2, "")


async def test_a_page_size_has_a_default_and_a_maximum(start_hub: StartHub) -> None:
    """0 means the default, a larger number the maximum; a negative one is refused (AIP-158)."""
    hub = await start_hub(page_size=2, max_page_size=3)
    for number in range(5):
        await hub.register("TICKET_CREATED", display_name=f"n{number}")
    assert [len(await names(hub, page_size=size)) for size in (0, 1, 3, 4, 2**31 - 1)] == [2, 1, 3, 3, 3]
    assert await violations(ask(hub.admin, "ListIntegrations", page_size=-1)) == ["page_size"]
    assert await violations(ask(hub.admin, "ListAuditEntries", page_size=-1)) == ["page_size"]


async def test_page_tokens_are_opaque_and_belong_to_one_list(hub: RunningHub) -> None:
    """A token reveals no id, and is refused if altered, with another filter, or in another list."""
    for _ in range(3):
        await hub.register("TICKET_CREATED")
    page = await ask(hub.admin, "ListIntegrations", page_size=1, filter="state=ACTIVE")
    token = page.next_page_token
    assert page.integrations[0].integration_id not in token
    assert len(await names(hub, page_token=token, filter="state=ACTIVE")) == 2
    other = "B" if token[3] != "B" else "C"
    for request in (
        {"page_token": token},
        {"page_token": token, "filter": "state = ACTIVE"},
        {"page_token": token[:3] + other + token[4:], "filter": "state=ACTIVE"},
        {"page_token": token[:-4], "filter": "state=ACTIVE"},
        {"page_token": "garbage"},
        {"page_token": "ä" * 8},
    ):
        assert await violations(ask(hub.admin, "ListIntegrations", **request)) == ["page_token"]
    assert await violations(ask(hub.admin, "ListAuditEntries", page_token=token)) == ["page_token"]


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("", "abc"),
        ("  ", "abc"),
        ("state = ACTIVE", "ac"),
        ("state=INTEGRATION_STATE_SUSPENDED", "b"),
        ("state != ACTIVE", "b"),
        ("owner_user_id = 22", "bc"),
        ("owner_user_id=22 AND state=ACTIVE", "c"),
        ("owner_user_id=22 state=ACTIVE", "c"),
        ("owner_user_id = 2", ""),
        ("scopes:drop_claimed", "ac"),
        ("scopes:SCOPE_DROP_CLAIMED", "ac"),
        ("counter", "ab"),
        ("COUNTER", "ab"),
        ('"counter of drops"', "b"),
        ('"drops counter"', ""),
        ("drops counter", "b"),
        ('"AND"', "c"),
        ("lights AND scopes:drop_claimed", "c"),
    ],
)
async def test_list_filters_are_joined_by_and(hub: RunningHub, text: str, listed: str) -> None:
    """Each term of a filter leaves what matches it; AND may be written or left out."""
    tickets, drops = "TICKET_CREATED", "DROP_CLAIMED"
    await hub.register(tickets, drops, display_name="a", description="A counter.", owner_user_id="11")
    second, _ = await hub.register(tickets, display_name="b", description="The counter of drops.", owner_user_id="22")
    await hub.register(drops, display_name="c", description="Signals and lights.", owner_user_id="22")
    await ask(hub.admin, "SuspendIntegration", integration_id=second.integration_id, reason="to tell them apart")
    assert "".join(await names(hub, filter=text)) == listed


@pytest.mark.parametrize(
    "text",
    [
        "state = SLEEPING",
        "state : ACTIVE",
        "scopes:everything",
        "scopes = ticket_created",
        "colour = red",
        'name"',
        '"unclosed',
        "state =",
        "= ACTIVE",
        "state=ACTIVE OR state=SUSPENDED",
        "NOT state=ACTIVE",
        "(state=ACTIVE)",
        "x" * 501,
    ],
)
async def test_an_invalid_filter_is_refused(hub: RunningHub, text: str) -> None:
    """A filter with a syntax error or an unknown field is refused, not read as something else."""
    assert await violations(ask(hub.admin, "ListIntegrations", filter=text)) == ["filter"]


async def test_only_admins_may_call_admin_methods(hub: RunningHub) -> None:
    """A bot and an integration are refused by every method, before their request is checked."""
    integration, reader = await hub.register("TICKET_CREATED")
    assert await refusal(ask(hub.admin, "GetIntegration", integration_id="?")) == INVALID
    for method in ("RegisterIntegration", "GetIntegration", "ListIntegrations", "SetScopes", "RotateKey", "RevokeKey"):
        fields = {"integration_id": "?"} if method not in ("RegisterIntegration", "ListIntegrations") else {}
        for caller in (hub.bot, reader):
            denied = (Code.PERMISSION_DENIED, "ROLE_NOT_ALLOWED")
            assert await refusal(ask(caller, method, **fields)) == denied
    assert await change(hub.admin, "GetIntegration", integration_id=integration.integration_id) == integration
