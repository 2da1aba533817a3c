"""The guild's say: who receives its events, excluding one integration, and sharing with nobody."""

from typing import Any

from tests.support.calls import ask
from tests.support.events import ticket, verified
from tests.support.governance import GUILD_ADMIN, arrived, install, opened, refused, set_scopes, short, uninstall
from tests.support.hubs import Caller, FakeClock, RunningHub, StartHub, only_in_the_log

OFF, ON = 1, 2
INSTALLED = 2


async def share(hub: RunningHub, guild_id: str, sharing: int) -> None:
    """A guild's admin decides about all integrations at once."""
    fields = {"guild_id": guild_id, "acting_user_id": GUILD_ADMIN, "sharing": sharing}
    reply = await ask(hub.bot, "DirectoryService/SetGuildSharing", **fields)
    assert reply.sharing == sharing


async def replayed(hub: RunningHub, clock: FakeClock, reader: Caller, integration_id: str) -> list[str]:
    """What a stream from the beginning brings."""
    stream = await opened(reader, integration_id, subscription_id="replay")
    found = await arrived(hub, clock, stream)
    stream.close()
    return found


async def receivers(who: Caller, guild_id: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401  of the messages
    """The integrations that receive a guild's events, by id."""
    reply = await ask(who, "DirectoryService/ListGuildIntegrations", guild_id=guild_id, **fields)
    return {one.integration_id: one for one in reply.integrations}


async def test_a_guild_excludes_an_integration_that_gets_everything(timed_hub: RunningHub, clock: FakeClock) -> None:
    """It gets nothing of the guild any more, live or in a replay; lifting the exclusion covers later events."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    one = integration.integration_id
    live = await opened(reader, one, latest={})
    await hub.emit(ticket("before", "51"))
    assert await arrived(hub, clock, live) == ["before"]
    await uninstall(hub, one, "51")
    await hub.emit(ticket("excluded", "51"))
    await hub.emit(ticket("elsewhere", "52"))
    assert await arrived(hub, clock, live) == ["before", "elsewhere"]
    assert await replayed(hub, clock, reader, one) == ["elsewhere"]
    await install(hub, one, "51")
    await hub.emit(ticket("again", "51"))
    assert await arrived(hub, clock, live) == ["before", "elsewhere", "again"]
    only_in_the_log(hub)
    assert await replayed(hub, clock, reader, one) == ["elsewhere", "again"]


async def test_an_exclusion_survives_a_restart_and_a_change_of_guild_access(
    start_hub: StartHub, clock: FakeClock
) -> None:
    """It is state; a guild that uninstalled stays excluded when installations are no longer needed."""
    hub = await start_hub(clock, write_deadline=1e9)
    integration, reader = await hub.register("TICKET_CREATED", guild_access=INSTALLED)
    one = integration.integration_id
    await install(hub, one, "51")
    await uninstall(hub, one, "51")
    opens = {"integration_id": one, "guild_access": 1}
    await ask(hub.admin, "AdminService/UpdateIntegration", integration=opens)
    await hub.emit(ticket("excluded", "51"))
    await hub.emit(ticket("elsewhere", "52"))
    await hub.close()
    hub = await start_hub(clock, write_deadline=1e9)
    assert await replayed(hub, clock, hub.caller(reader.key), one) == ["elsewhere"]


async def test_sharing_off_ends_delivery_to_every_integration(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Of the guild nothing comes, whenever it was accepted; ON counts from itself on; other guilds are as before."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    one = integration.integration_id
    live = await opened(reader, one, latest={})
    await hub.emit(ticket("before", "51"))
    assert await arrived(hub, clock, live) == ["before"]
    await share(hub, "51", OFF)
    assert await replayed(hub, clock, reader, one) == []
    await hub.emit(ticket("off", "51"))
    await hub.emit(ticket("elsewhere", "52"))
    assert await arrived(hub, clock, live) == ["before", "elsewhere"]
    await share(hub, "51", ON)
    await hub.emit(ticket("on", "51"))
    assert await arrived(hub, clock, live) == ["before", "elsewhere", "on"]
    assert await replayed(hub, clock, reader, one) == ["elsewhere", "on"]


async def test_sharing_off_survives_a_restart_and_applies_to_replays(start_hub: StartHub, clock: FakeClock) -> None:
    """After a restart what was off is off, and what is read from the log is filtered, too."""
    hub = await start_hub(clock, write_deadline=1e9)
    integration, reader = await hub.register("TICKET_CREATED")
    for name, guild in (("a", "51"), ("b", "52")):
        await hub.emit(ticket(name, guild))
    await share(hub, "51", OFF)
    await hub.close()
    hub = await start_hub(clock, write_deadline=1e9)
    reader = hub.caller(reader.key)
    assert await replayed(hub, clock, reader, integration.integration_id) == ["b"]
    await share(hub, "51", ON)
    assert await replayed(hub, clock, reader, integration.integration_id) == ["b"]


async def test_list_guild_integrations_lists_every_recipient(hub: RunningHub) -> None:
    """Every integration that does, why, by which scopes, exactly what, since when; the bot and admins may ask."""
    everywhere, _ = await hub.register("MEMBER_VERIFIED", display_name="Everywhere")
    by_consent, reader = await hub.register("TICKET_CREATED", "TICKET_STATS", guild_access=INSTALLED)
    agreed = await install(hub, by_consent.integration_id, "51", "TICKET_CREATED")
    found = await receivers(hub.bot, "51")
    assert list(found) == [everywhere.integration_id, by_consent.integration_id]
    first, second = found.values()
    assert (first.display_name, first.guild_access, list(first.fields)) == ("Everywhere", 1, ["member_verified"])
    assert first.since_time == everywhere.active_time
    assert (second.guild_access, second.since_time) == (INSTALLED, agreed.install_time)
    assert [short(scope) for scope in second.scopes] == ["TICKET_CREATED"]
    assert [short(scope) for scope in second.outdated_scopes] == ["TICKET_STATS"]
    assert list(await receivers(hub.admin, "52")) == [everywhere.integration_id]
    refusal = await refused(reader, "DirectoryService/ListGuildIntegrations", guild_id="51")
    assert refusal.reason == "ROLE_NOT_ALLOWED"


async def test_list_guild_integrations_follows_every_change(hub: RunningHub) -> None:
    """Only recipients are listed; a guild that has to agree again is marked; with sharing off the list is empty."""
    integration, _ = await hub.register("TICKET_CREATED")
    one = integration.integration_id
    await install(hub, one, "51")
    await set_scopes(hub, one, "TICKET_CREATED", "TICKET_STATS")
    assert [short(scope) for scope in (await receivers(hub.bot, "51"))[one].outdated_scopes] == ["TICKET_STATS"]
    assert not (await receivers(hub.bot, "52"))[one].outdated_scopes
    await uninstall(hub, one, "51")
    assert (list(await receivers(hub.bot, "51")), list(await receivers(hub.bot, "52"))) == ([], [one])
    lifted = await install(hub, one, "51")
    assert (await receivers(hub.bot, "51"))[one].since_time == lifted.install_time
    await share(hub, "51", OFF)
    reply = await ask(hub.bot, "DirectoryService/ListGuildIntegrations", guild_id="51")
    assert (list(reply.integrations), reply.sharing) == ([], OFF)
    await share(hub, "51", ON)
    await ask(hub.admin, "AdminService/SuspendIntegration", integration_id=one, reason="x")
    assert not await receivers(hub.bot, "51")


async def test_list_guild_integrations_is_paged(hub: RunningHub) -> None:
    """One at a time, each once; a token is of one guild."""
    made = [(await hub.register("TICKET_CREATED"))[0].integration_id for _ in range(3)]
    found, token = [], ""
    while True:
        fields = {"guild_id": "51", "page_size": 1, "page_token": token}
        reply = await ask(hub.bot, "DirectoryService/ListGuildIntegrations", **fields)
        found += [one.integration_id for one in reply.integrations]
        token = reply.next_page_token
        if not token:
            break
        other = await refused(hub.bot, "DirectoryService/ListGuildIntegrations", guild_id="52", page_token=token)
        assert other.reason == "INVALID_REQUEST"
    assert found == made


async def test_decisions_of_guilds_are_in_the_audit_trail(hub: RunningHub) -> None:
    """Exclusions and changes of sharing are audited like any other change."""
    integration, _ = await hub.register("TICKET_CREATED")
    await uninstall(hub, integration.integration_id, "51")
    await share(hub, "51", OFF)
    await share(hub, "51", OFF)  # says nothing new
    entries = (await ask(hub.admin, "AdminService/ListAuditEntries", acting_user_id=GUILD_ADMIN)).entries
    assert [entry.method for entry in entries] == [
        "DirectoryService/SetGuildSharing",
        "DirectoryService/UninstallIntegration",
    ]
    assert {(change.path, change.new_value.string_value) for change in entries[0].changes} >= {
        ("sharing", "GUILD_SHARING_OFF")
    }


async def test_invalid_guild_requests_name_their_field(hub: RunningHub) -> None:
    """An invalid guild, an invalid sharing, and an admin's key without the guild's admin."""
    bad: list[tuple[dict[str, Any], str]] = [
        ({"guild_id": "51x", "acting_user_id": "7", "sharing": OFF}, "guild_id"),
        ({"guild_id": "51", "sharing": OFF}, "acting_user_id"),
        ({"guild_id": "51", "acting_user_id": "7"}, "sharing"),
        ({"guild_id": "51", "acting_user_id": "7", "sharing": 9}, "sharing"),
    ]
    for fields, field in bad:
        refusal = await refused(hub.bot, "DirectoryService/SetGuildSharing", **fields)
        assert (refusal.reason, field in refusal.message) == ("INVALID_REQUEST", True)
    good = {"guild_id": "51", "acting_user_id": "7", "sharing": OFF}
    assert (await refused(hub.admin, "DirectoryService/SetGuildSharing", **good)).reason == "ROLE_NOT_ALLOWED"


async def test_an_exclusion_does_not_reveal_withheld_users(timed_hub: RunningHub, clock: FakeClock) -> None:
    """An exclusion changes nothing about the fields of other guilds."""
    hub = timed_hub
    integration, reader = await hub.register("MEMBER_VERIFIED")
    one = integration.integration_id
    await uninstall(hub, one, "51")
    await hub.emit(verified("v1", "51"))
    await hub.emit(verified("v2", "52"))
    stream = await opened(reader, one)
    assert await arrived(hub, clock, stream) == ["v2"]
    assert not stream.events[0].member_verified.HasField("user_id")
