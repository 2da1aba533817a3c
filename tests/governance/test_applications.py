"""From an application to an approval: what is asked for, who decides, and that no key exists before."""

import pytest
from tickets.hub.v1 import event_pb2, integration_pb2

from tests.support.calls import ask, read
from tests.support.events import numbers, ticket
from tests.support.governance import (
    NOBODYS_ID,
    OWNER,
    apply_for,
    approve,
    granted,
    opened,
    own_key,
    refused,
    requested,
    state,
)
from tests.support.hubs import REGISTRATION, FakeClock, RunningHub, StartHub, scope_requests


async def test_an_application_is_pending_with_its_whole_content(hub: RunningHub) -> None:
    """PENDING, with texts, requests and the version of the rules; nothing granted, no key, for its owner to see."""
    made = await apply_for(hub, "TICKET_CREATED", "TICKET_STATS", endpoint_url="https://stats.example/in")
    assert (state(made), requested(made), granted(made)) == ("PENDING", ["TICKET_CREATED", "TICKET_STATS"], [])
    assert {name: getattr(made, name) for name in REGISTRATION} == REGISTRATION
    assert (made.endpoint_url, made.rules_version) == ("https://stats.example/in", "1")
    assert [request.justification for request in made.requested_scopes] == ["for the tests"] * 2
    assert made.HasField("create_time")
    assert not made.HasField("active_time")
    own = {"integration_id": made.integration_id, "acting_user_id": OWNER}
    assert (await ask(hub.bot, "DeveloperService/GetOwnIntegration", **own)).integration == made
    assert not (await ask(hub.bot, "DeveloperService/ListOwnKeys", **own)).keys
    refusal = await refused(hub.bot, "DeveloperService/RotateOwnKey", **own)
    assert (refusal.status, refusal.reason) == ("FAILED_PRECONDITION", "STATE_FORBIDS")
    assert refusal.metadata == {"state": "PENDING", "allowed": "ACTIVE,SUSPENDED"}


async def test_an_application_has_to_accept_the_rules(hub: RunningHub) -> None:
    """Without rules_accepted nothing is taken, and the refusal names what is missing."""
    application = {**REGISTRATION, "scopes": scope_requests("TICKET_CREATED")}
    refusal = await refused(hub.bot, "DirectoryService/SubmitApplication", **application)
    assert (refusal.status, refusal.reason) == ("FAILED_PRECONDITION", "RULES_NOT_MET")
    assert refusal.metadata == {"rules": "rules_accepted"}
    assert not (await ask(hub.admin, "AdminService/ListIntegrations")).integrations


async def test_an_application_records_the_version_of_the_rules(start_hub: StartHub) -> None:
    """An application carries the version that was set when it was made."""
    hub = await start_hub(rules_version="2026-11")
    assert (await apply_for(hub, "TICKET_CREATED")).rules_version == "2026-11"


@pytest.mark.parametrize(
    "wrong",
    [
        {"documentation_url": "http://stats.example/docs"},
        {"documentation_url": ""},
        {"support_url": "https://user:pass@stats.example"},
        {"endpoint_url": "ftp://stats.example"},
        {"display_name": "  "},
        {"description": ""},
        {"owner_user_id": "0"},
        {"scopes": []},
        {"scopes": [{"scope": 0, "justification": "x"}]},
        {"scopes": [{"scope": 1, "justification": " "}]},
        {"scopes": [{"scope": 1, "justification": "x"}, {"scope": 1, "justification": "y"}]},
    ],
)
async def test_an_application_with_a_wrong_field_is_refused(hub: RunningHub, wrong: dict[str, object]) -> None:
    """Documentation, support, texts, an owner, and a justification for each scope, once: the rules of the contract."""
    application = {**REGISTRATION, "scopes": scope_requests("TICKET_CREATED"), "rules_accepted": True, **wrong}
    refusal = await refused(hub.bot, "DirectoryService/SubmitApplication", **application)
    assert (refusal.status, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert refusal.message.startswith(next(iter(wrong)))


async def test_an_approval_grants_a_subset_and_the_owner_takes_the_first_key(hub: RunningHub) -> None:
    """Of what was asked for some is granted, the rest is off the table; the owner learns why, and takes a key."""
    made = await apply_for(hub, "TICKET_CREATED", "TICKET_STATS", "MEMBER_VERIFIED")
    await approve(hub, made.integration_id, "TICKET_CREATED", reason="statistics need no more")
    own = {"integration_id": made.integration_id, "acting_user_id": OWNER}
    seen = (await ask(hub.bot, "DeveloperService/GetOwnIntegration", **own)).integration
    assert (state(seen), granted(seen), requested(seen)) == ("ACTIVE", ["TICKET_CREATED"], [])
    assert (seen.state_reason, seen.grants[0].justification) == ("statistics need no more", "for the tests")
    [admin_key] = [
        key for key in (await ask(hub.admin, "AdminService/ListKeys")).keys if f"_{key.key_id}_" in hub.admin.key
    ]
    assert seen.grants[0].grantor == admin_key.key_id
    assert not (await ask(hub.bot, "DeveloperService/ListOwnKeys", **own)).keys
    reader = await own_key(hub, made.integration_id)
    stream = await reader.subscribe()
    await hub.emit(ticket("t1"))
    assert [event.id for event in await stream.events(1)] == ["t1"]


async def test_an_approval_without_scopes_grants_all_that_were_requested(hub: RunningHub) -> None:
    """No scopes named: all of them; what was accepted before the approval is not delivered by it."""
    made = await apply_for(hub, "TICKET_CREATED", "TICKET_STATS")
    await hub.emit(ticket("before"))
    assert granted(await approve(hub, made.integration_id)) == ["TICKET_CREATED", "TICKET_STATS"]
    await hub.emit(ticket("after"))
    reader = await own_key(hub, made.integration_id)
    stream = await opened(reader, made.integration_id)
    while not stream.events:
        await stream.frame()
    assert [event.id for event in stream.events] == ["after"]


async def test_only_requested_scopes_can_be_approved(hub: RunningHub) -> None:
    """A scope that was not requested cannot be approved; the application stays pending."""
    made = await apply_for(hub, "TICKET_CREATED")
    refusal = await refused(
        hub.admin,
        "AdminService/ApproveIntegration",
        integration_id=made.integration_id,
        scopes=numbers("TICKET_CREATED", "DROP_CLAIMED"),
    )
    assert (refusal.status, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert "drop_claimed" in refusal.message
    assert state(await read(hub, made.integration_id)) == "PENDING"


async def test_a_rejection_needs_a_reason_and_the_owner_sees_it(hub: RunningHub) -> None:
    """REJECTED with the admin's reason, no grants, no keys; only a new application helps."""
    made = await apply_for(hub, "TICKET_CREATED")
    named = {"integration_id": made.integration_id}
    assert (await refused(hub.admin, "AdminService/RejectIntegration", **named)).reason == "INVALID_REQUEST"
    await ask(hub.admin, "AdminService/RejectIntegration", **named, reason="no documentation yet")
    own = named | {"acting_user_id": OWNER}
    seen = (await ask(hub.bot, "DeveloperService/GetOwnIntegration", **own)).integration
    assert (state(seen), seen.state_reason) == ("REJECTED", "no documentation yet")
    assert (granted(seen), requested(seen)) == ([], [])
    assert (await refused(hub.bot, "DeveloperService/RotateOwnKey", **own)).reason == "STATE_FORBIDS"
    assert (await refused(hub.admin, "AdminService/ApproveIntegration", **named)).reason == "STATE_FORBIDS"
    assert state(await apply_for(hub, "TICKET_CREATED")) == "PENDING"


async def test_a_request_for_more_scopes_changes_no_grant(hub: RunningHub) -> None:
    """An open stream continues, and gets a notice once an admin has decided."""
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    reply = await ask(
        reader, "DeveloperService/RequestScopes", scopes=scope_requests("TICKET_STATS", "MEMBER_VERIFIED")
    )
    assert granted(reply.integration) == ["TICKET_CREATED"]
    assert requested(reply.integration) == ["TICKET_STATS", "MEMBER_VERIFIED"]
    await hub.emit(event_pb2.Event(id="c1", guild_id="41", ticket_closed=event_pb2.TicketClosed(message_count=1)))
    await hub.emit(ticket("t1"))
    assert [event.id for event in await stream.events(1)] == ["t1"]
    old = integration.grants[0]
    changed = await approve(hub, integration.integration_id, "TICKET_STATS", reason="fits what it does")
    assert (granted(changed), requested(changed)) == (["TICKET_CREATED", "TICKET_STATS"], [])
    assert changed.grants[0] == old
    notice = (await stream.frame()).grants_changed
    assert (list(notice.added), notice.reason) == (numbers("TICKET_STATS"), "fits what it does")
    await hub.emit(event_pb2.Event(id="c2", guild_id="41", ticket_closed=event_pb2.TicketClosed(message_count=1)))
    assert [event.id for event in await stream.events(1)] == ["c2"]


async def test_rejecting_requests_of_an_active_integration_keeps_its_grants(hub: RunningHub) -> None:
    """Some requests are refused, the others still wait; state, grants and open streams stay as they are."""
    integration, reader = await hub.register("TICKET_CREATED")
    await ask(reader, "DeveloperService/RequestScopes", scopes=scope_requests("TICKET_STATS", "DROP_CLAIMED"))
    named = {"integration_id": integration.integration_id}
    reply = await ask(
        hub.admin, "AdminService/RejectIntegration", **named, scopes=numbers("TICKET_STATS"), reason="not needed"
    )
    assert (state(reply.integration), granted(reply.integration)) == ("ACTIVE", ["TICKET_CREATED"])
    assert requested(reply.integration) == ["DROP_CLAIMED"]
    reply = await ask(hub.admin, "AdminService/RejectIntegration", **named, reason="nor that")
    assert (state(reply.integration), requested(reply.integration)) == ("ACTIVE", [])
    refusal = await refused(hub.admin, "AdminService/RejectIntegration", **named, reason="again")
    assert (refusal.reason, refusal.metadata["state"]) == ("STATE_FORBIDS", "ACTIVE")
    assert (await reader.subscribe()).frames[0].ready.effective_scopes == numbers("TICKET_CREATED")


async def test_a_new_request_replaces_the_pending_one(hub: RunningHub) -> None:
    """The newest request counts; what is granted already, or named twice, is refused by the field's name."""
    _, reader = await hub.register("TICKET_CREATED")
    await ask(reader, "DeveloperService/RequestScopes", scopes=scope_requests("TICKET_STATS"))
    reply = await ask(reader, "DeveloperService/RequestScopes", scopes=scope_requests("DROP_CLAIMED"))
    assert requested(reply.integration) == ["DROP_CLAIMED"]
    for wrong in (scope_requests("TICKET_STATS", "TICKET_CREATED"), scope_requests("TICKET_STATS", "TICKET_STATS")):
        refusal = await refused(reader, "DeveloperService/RequestScopes", scopes=wrong)
        assert (refusal.reason, refusal.message.split(":")[0]) == ("INVALID_REQUEST", "scopes[1].scope")


async def test_only_admins_decide_about_applications(hub: RunningHub) -> None:
    """The bot and an integration are refused by their role; an unknown id is not found."""
    made = await apply_for(hub, "TICKET_CREATED")
    _, reader = await hub.register("TICKET_CREATED")
    for who in (hub.bot, reader):
        refusal = await refused(who, "AdminService/ApproveIntegration", integration_id=made.integration_id)
        assert (refusal.status, refusal.reason) == ("PERMISSION_DENIED", "ROLE_NOT_ALLOWED")
    refusal = await refused(reader, "DirectoryService/SubmitApplication", rules_accepted=True)
    assert refusal.reason == "ROLE_NOT_ALLOWED"
    refusal = await refused(hub.admin, "AdminService/ApproveIntegration", integration_id=NOBODYS_ID)
    assert (refusal.status, refusal.reason) == ("NOT_FOUND", "INTEGRATION_NOT_FOUND")
    application = {**REGISTRATION, "scopes": scope_requests("TICKET_CREATED"), "rules_accepted": True}
    reply = await ask(hub.admin, "DirectoryService/SubmitApplication", **application)
    assert reply.integration.state == integration_pb2.INTEGRATION_STATE_PENDING


async def test_the_developer_sees_why_scopes_were_refused(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Refused alone or beside others that were granted: which, why and when, until the next decision."""
    integration, reader = await timed_hub.register("TICKET_CREATED")

    async def decided(what: str, *scopes: str, reason: str) -> integration_pb2.Integration:
        wanted = scope_requests("DROP_CLAIMED", "TICKET_STATS")
        if not (await read(timed_hub, integration.integration_id)).requested_scopes:
            await ask(reader, "DeveloperService/RequestScopes", scopes=wanted)
        which = {"integration_id": integration.integration_id, "scopes": numbers(*scopes)}
        await ask(timed_hub.admin, f"AdminService/{what}Integration", reason=reason, **which)
        return (await ask(reader, "DeveloperService/GetOwnIntegration")).integration  # type: ignore[no-any-return]

    refused_both = await decided("Reject", reason="too broad")
    assert refused_both.refusal_reason == "too broad"
    assert list(refused_both.refused_scopes) == numbers("DROP_CLAIMED", "TICKET_STATS")
    assert abs(refused_both.refusal_time.ToMicroseconds() - clock.now()) < 60 * 10**6
    one_granted = await decided("Approve", "DROP_CLAIMED", reason="drops only")
    assert (one_granted.refusal_reason, list(one_granted.refused_scopes)) == ("drops only", numbers("TICKET_STATS"))
    assert one_granted.state_reason == ""
