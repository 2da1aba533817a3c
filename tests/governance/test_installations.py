"""Installations: a guild's consent, kept as its proof, and what it lets through, live and in replay."""

import asyncio

import pytest
from tickets.hub.v1 import permissions_pb2

from tests.support.calls import ask, fails
from tests.support.events import closed, event, numbers, ticket, verified
from tests.support.governance import (
    GUILD_ADMIN,
    NOBODYS_ID,
    OWNER,
    STRANGER,
    apply_for,
    arrived,
    block,
    granted,
    install,
    opened,
    refusal_of,
    refused,
    set_scopes,
    short,
    uninstall,
)
from tests.support.hubs import Caller, FakeClock, RunningHub, StartHub

INSTALLED = 2
"""GUILD_ACCESS_INSTALLED."""


async def everything(hub: RunningHub, clock: FakeClock, reader: Caller, integration_id: str) -> list[str]:
    """What a stream from the beginning brings."""
    stream = await opened(reader, integration_id, subscription_id="replay")
    found = await arrived(hub, clock, stream)
    stream.close()
    return found


async def test_consent_records_admin_time_and_scopes(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Agreeing again changes admin, time and scopes, but not the time of the installation."""
    hub = timed_hub
    integration, _ = await hub.register("TICKET_CREATED", "TICKET_STATS")
    one = integration.integration_id
    first = await install(hub, one, "51", "TICKET_CREATED")
    assert (first.integration_id, first.guild_id, first.acting_user_id) == (one, "51", GUILD_ADMIN)
    assert ([short(scope) for scope in first.agreed_scopes], first.install_time) == (
        ["TICKET_CREATED"],
        first.agree_time,
    )
    clock.wall_offset += 1_000_000
    second = await install(hub, one, "51", by=STRANGER)
    assert (second.acting_user_id, second.install_time) == (STRANGER, first.install_time)
    assert [short(scope) for scope in second.agreed_scopes] == ["TICKET_CREATED", "TICKET_STATS"]
    assert second.agree_time.ToMicroseconds() >= first.agree_time.ToMicroseconds() + 1_000_000
    [kept] = (await ask(hub.bot, "DirectoryService/ListInstallations", integration_id=one)).installations
    assert kept == second


async def test_installations_are_listed_by_integration_and_by_guild(hub: RunningHub) -> None:
    """Of one integration, of one guild, of both, of all; page by page, with nothing left out or twice."""
    one, two = [(await hub.register("TICKET_CREATED"))[0].integration_id for _ in range(2)]
    places = [(one, "51"), (one, "52"), (one, "9"), (two, "51")]
    for integration_id, guild in places:
        await install(hub, integration_id, guild)

    async def listed(**fields: object) -> list[tuple[str, str]]:
        found, token = [], ""
        while True:
            reply = await ask(hub.bot, "DirectoryService/ListInstallations", page_size=1, page_token=token, **fields)
            assert len(reply.installations) <= 1
            found += [(shown.integration_id, shown.guild_id) for shown in reply.installations]
            token = reply.next_page_token
            if not token:
                return found

    assert sorted(await listed()) == sorted(places)
    assert await listed(integration_id=one) == [(one, "9"), (one, "51"), (one, "52")]
    assert sorted(await listed(guild_id="51")) == sorted([(one, "51"), (two, "51")])
    assert await listed(integration_id=two, guild_id="51") == [(two, "51")]
    await uninstall(hub, one, "51")
    assert await listed(guild_id="51") == [(two, "51")]


async def test_events_are_delivered_between_installation_and_removal(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Live: only the guild that installed it, from then until it does not. Replay: nothing of a guild that is off."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED", guild_access=INSTALLED)
    one = integration.integration_id
    live = await opened(reader, one, latest={})
    await hub.emit(ticket("before", "51"))
    await install(hub, one, "51")
    await hub.emit(ticket("with", "51"))
    await hub.emit(ticket("elsewhere", "52"))
    assert await arrived(hub, clock, live) == ["with"]
    assert await everything(hub, clock, reader, one) == ["with"]
    await uninstall(hub, one, "51")
    await hub.emit(ticket("after", "51"))
    assert await arrived(hub, clock, live) == ["with"]
    assert await everything(hub, clock, reader, one) == []
    await install(hub, one, "51")
    await hub.emit(ticket("again", "51"))
    assert await arrived(hub, clock, live) == ["with", "again"]
    assert await everything(hub, clock, reader, one) == ["again"]


async def test_added_scopes_need_a_new_consent(timed_hub: RunningHub, clock: FakeClock) -> None:
    """A scope granted later counts from the guild's new consent; earlier scopes are unaffected."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED", guild_access=INSTALLED)
    one = integration.integration_id
    await install(hub, one, "51")
    live = await opened(reader, one, latest={})
    await set_scopes(hub, one, "TICKET_CREATED", "TICKET_STATS")
    await install(hub, one, "52")
    for sent in (ticket("t1", "51"), closed("c1", "51"), closed("c2", "52")):
        await hub.emit(sent)
    await install(hub, one, "51")
    for sent in (ticket("t2", "51"), closed("c3", "51")):
        await hub.emit(sent)
    assert await arrived(hub, clock, live) == ["t1", "c2", "t2", "c3"]
    assert await everything(hub, clock, reader, one) == ["t1", "c2", "t2", "c3"]


async def test_a_guild_may_agree_to_fewer_scopes(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Only the scopes agreed to count in that guild, fields too; agreeing again to fewer takes some back."""
    hub = timed_hub
    integration, reader = await hub.register("MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY", guild_access=INSTALLED)
    one = integration.integration_id
    await install(hub, one, "51", "MEMBER_VERIFIED")
    await install(hub, one, "52")
    live = await opened(reader, one, latest={})
    await hub.emit(verified("v1", "51"))
    await hub.emit(verified("v2", "52"))
    assert await arrived(hub, clock, live) == ["v1", "v2"]  # what is sent after the change is by the new agreement
    await install(hub, one, "52", "MEMBER_VERIFIED")
    await hub.emit(verified("v3", "52"))
    assert await arrived(hub, clock, live) == ["v1", "v2", "v3"]
    users = {shown.id: shown.member_verified.HasField("user_id") for shown in live.events}
    assert users == {"v1": False, "v2": True, "v3": False}
    replay = await opened(reader, one, subscription_id="replay")
    await arrived(hub, clock, replay)
    assert not any(shown.member_verified.HasField("user_id") for shown in replay.events)


async def test_a_scope_granted_again_counts_from_the_new_grant(timed_hub: RunningHub, clock: FakeClock) -> None:
    """What a guild agreed to stays agreed, but a scope taken away and granted again counts from the new grant."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED", guild_access=INSTALLED)
    one = integration.integration_id
    await install(hub, one, "51")
    await hub.emit(ticket("t1", "51"))
    await set_scopes(hub, one)
    await hub.emit(ticket("t2", "51"))
    await set_scopes(hub, one, "TICKET_CREATED")
    await hub.emit(ticket("t3", "51"))
    assert await everything(hub, clock, reader, one) == ["t3"]


async def test_with_access_to_all_guilds_an_installation_is_no_filter(timed_hub: RunningHub, clock: FakeClock) -> None:
    """GUILD_ACCESS_ALL brings every guild's events, whether or not a guild installed it, until it uninstalls it."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    await install(hub, integration.integration_id, "51")
    await hub.emit(ticket("t1", "51"))
    await hub.emit(ticket("t2", "52"))
    assert await everything(hub, clock, reader, integration.integration_id) == ["t1", "t2"]
    await uninstall(hub, integration.integration_id, "51")
    assert await everything(hub, clock, reader, integration.integration_id) == ["t2"]


@pytest.mark.parametrize("narrowing", [{"guild_ids": ["51", "53"]}, {"shard": {"index": 0, "count": 1}}], ids=str)
async def test_a_narrowed_stream_still_needs_consent(
    timed_hub: RunningHub, clock: FakeClock, narrowing: dict[str, object]
) -> None:
    """A stream that names guilds, or a shard, gets those of them that installed it and no others, live and replay."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED", guild_access=INSTALLED)
    one = integration.integration_id
    live = await opened(reader, one, latest={}, **narrowing)
    await install(hub, one, "51")
    for guild in ("51", "53"):
        await hub.emit(ticket(f"in-{guild}", guild))
    assert await arrived(hub, clock, live) == ["in-51"]
    again = await opened(reader, one, subscription_id="again", **narrowing)
    assert await arrived(hub, clock, again) == ["in-51"]


async def test_access_to_all_guilds_does_not_reach_back(timed_hub: RunningHub, clock: FakeClock) -> None:
    """From INSTALLED to ALL: events of guilds that had not installed it come from the change on, live and in replay."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED", guild_access=INSTALLED)
    one = integration.integration_id
    await install(hub, one, "51")
    await hub.emit(ticket("with", "51"))
    await hub.emit(ticket("without", "52"))
    live = await opened(reader, one, latest={})
    await ask(hub.admin, "AdminService/UpdateIntegration", integration={"integration_id": one, "guild_access": 1})
    await hub.emit(ticket("open", "52"))
    assert await arrived(hub, clock, live) == ["open"]
    assert await everything(hub, clock, reader, one) == ["with", "open"]


async def test_consent_is_limited_to_granted_scopes(hub: RunningHub) -> None:
    """A guild cannot agree to a scope that the integration does not have; the refusal names it, nothing is kept."""
    integration, _ = await hub.register("TICKET_CREATED")
    asks = {"integration_id": integration.integration_id, "guild_id": "51", "acting_user_id": GUILD_ADMIN}
    refusal = await refused(
        hub.bot, "DirectoryService/InstallIntegration", **asks, agreed_scopes=numbers("TICKET_CREATED", "DROP_CLAIMED")
    )
    assert (refusal.status, refusal.reason) == ("PERMISSION_DENIED", "SCOPE_NOT_GRANTED")
    assert refusal.metadata == {"scopes": "drop_claimed"}
    assert not (await ask(hub.bot, "DirectoryService/ListInstallations")).installations


async def test_only_active_integrations_can_be_installed(hub: RunningHub) -> None:
    """Other states, and a blocked developer, are refused with their own reasons; an unknown id is not found."""
    pending = await apply_for(hub, "TICKET_CREATED")
    active, _ = await hub.register("TICKET_CREATED")
    asks = {"guild_id": "51", "acting_user_id": GUILD_ADMIN}

    async def reason_for(integration_id: str) -> str:
        return (
            await refused(hub.bot, "DirectoryService/InstallIntegration", integration_id=integration_id, **asks)
        ).reason

    assert await reason_for(pending.integration_id) == "INTEGRATION_PENDING"
    await block(hub, OWNER)
    assert await reason_for(active.integration_id) == "DEVELOPER_BLOCKED"
    assert await reason_for(NOBODYS_ID) == "INTEGRATION_NOT_FOUND"
    refusal = await refused(hub.bot, "DirectoryService/UninstallIntegration", integration_id=NOBODYS_ID, **asks)
    assert (refusal.status, refusal.reason) == ("NOT_FOUND", "INTEGRATION_NOT_FOUND")
    for who in (hub.admin, hub.caller("")):
        error = await fails(
            ask(who, "DirectoryService/InstallIntegration", integration_id=active.integration_id, **asks)
        )
        assert refusal_of(error).status in ("PERMISSION_DENIED", "UNAUTHENTICATED")


async def test_uninstalling_works_in_every_state_and_twice(hub: RunningHub) -> None:
    """A guild takes its consent back from a suspended integration, too, and what is off stays off."""
    integration, _ = await hub.register("TICKET_CREATED")
    one = integration.integration_id
    await install(hub, one, "51")
    await ask(hub.admin, "AdminService/SuspendIntegration", integration_id=one, reason="complaints")
    await uninstall(hub, one, "51")
    await uninstall(hub, one, "51")
    assert not (await ask(hub.bot, "DirectoryService/ListInstallations")).installations


async def test_the_limit_of_installations_holds_for_concurrent_installs(start_hub: StartHub) -> None:
    """Of many guilds that install at one moment as many get in as there is room for; agreeing again needs none."""
    hub = await start_hub(max_installations=3)
    integration, _ = await hub.register("TICKET_CREATED")
    one = integration.integration_id
    outcomes = await asyncio.gather(*(install(hub, one, str(51 + n)) for n in range(12)), return_exceptions=True)
    refusals = [refusal_of(error) for error in outcomes if isinstance(error, BaseException)]  # type: ignore[arg-type]  # of gRPC
    assert {(refusal.status, refusal.reason) for refusal in refusals} == {
        ("RESOURCE_EXHAUSTED", "TOO_MANY_INSTALLATIONS")
    }
    assert (len(refusals), refusals[0].metadata) == (9, {"limit": "3"})
    kept = (await ask(hub.bot, "DirectoryService/ListInstallations")).installations
    assert len(kept) == 3
    await install(hub, one, kept[0].guild_id)
    await uninstall(hub, one, kept[0].guild_id)
    await install(hub, one, "99")


async def test_an_installation_does_not_change_the_etag(hub: RunningHub) -> None:
    """An etag that was read before an installation still holds after it."""
    integration, _ = await hub.register("TICKET_CREATED", "TICKET_STATS")
    await install(hub, integration.integration_id, "51")
    reply = await ask(
        hub.admin,
        "AdminService/SetScopes",
        integration_id=integration.integration_id,
        scopes=[{"scope": permissions_pb2.SCOPE_TICKET_CREATED, "justification": "less"}],
        etag=integration.etag,
    )
    assert granted(reply.integration) == ["TICKET_CREATED"]


async def test_consent_survives_a_restart(start_hub: StartHub, clock: FakeClock) -> None:
    """After a start on the same store the same guilds count, from the same places in the log."""
    hub = await start_hub(clock, write_deadline=1e9)
    integration, reader = await hub.register("TICKET_CREATED", guild_access=INSTALLED)
    one = integration.integration_id
    await hub.emit(event("before", "51", ticket_created={"creator_user_id": "7"}))
    await install(hub, one, "51")
    await hub.emit(ticket("with", "51"))
    await uninstall(hub, one, "52")
    await hub.close()
    hub = await start_hub(clock, write_deadline=1e9)
    assert await everything(hub, clock, hub.caller(reader.key), one) == ["with"]
