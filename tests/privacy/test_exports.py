"""Exports: everything that names a user or a guild, events first and then records, and nothing of anybody else."""

from typing import Any

from tickets.hub.v1 import privacy_service_pb2

from tests.support.calls import ask
from tests.support.events import ids
from tests.support.governance import install, uninstall
from tests.support.hubs import REGISTRATION, Caller, RunningHub
from tests.support.privacy import LONGER, USER, by, done, erase_user

Record = tuple[str, str, str, list[str]]
"""A record's method, integration and guild, and the fields that name the subject."""


async def everything(who: Caller, /, **fields: Any) -> tuple[list[str], list[Record], int]:  # noqa: ANN401  of the request
    """The ids of the events, the records, and how many pages they took."""
    events: list[str] = []
    records: list[privacy_service_pb2.SubjectRecord] = []
    token, pages = "", 0
    while token or not pages:
        reply = await ask(who, "PrivacyService/ExportSubject", page_token=token, **fields)
        events += [event.id for event in reply.events]
        records += reply.records
        token, pages = reply.next_page_token, pages + 1
    times = [record.time.ToMicroseconds() for record in records]
    assert times == sorted(times, reverse=True)
    assert all(times)
    found = [(one.method.partition("/")[2], one.integration_id, one.guild_id, list(one.fields)) for one in records]
    return events, found, pages


async def decided(hub: RunningHub) -> str:
    """An integration of one user, which others install, exclude and configure; its id."""
    made, _ = await hub.register("TICKET_CREATED", owner_user_id=USER)
    one = made.integration_id
    await install(hub, one, "51", by=LONGER)
    await uninstall(hub, one, "51")
    await ask(
        hub.bot, "DirectoryService/SetGuildSharing", guild_id="511", acting_user_id=USER, sharing="GUILD_SHARING_OFF"
    )
    await ask(hub.admin, "AdminService/BlockDeveloper", user_id=LONGER, source="us", reason=f"a friend of {USER}")
    return one


async def test_the_records_that_name_a_user(hub: RunningHub) -> None:
    """As owner, as acting user (also if another one acted since), and as blocked developer."""
    one = await decided(hub)
    assert (await everything(hub.bot, user_id=USER, acting_user_id=USER))[1] == [
        ("SetGuildSharing", "", "511", ["actor.user_id", "acting_user_id"]),
        ("RegisterIntegration", one, "", ["owner_user_id"]),
    ]
    assert (await everything(hub.admin, user_id=LONGER))[1] == [
        ("BlockDeveloper", "", "", ["user_id"]),
        ("UninstallIntegration", one, "51", ["acting_user_id"]),
        ("InstallIntegration", one, "51", ["actor.user_id", "acting_user_id"]),
    ]
    assert (await everything(hub.admin, user_id=USER[:-1]))[1] == []


async def test_the_records_that_name_a_guild(hub: RunningHub) -> None:
    """What was decided for it, and endpoints that get its events alone."""
    one = await decided(hub)
    assert [record[:3] for record in (await everything(hub.bot, guild_id="51", acting_user_id="7"))[1]] == [
        ("UninstallIntegration", one, "51"),
        ("InstallIntegration", one, "51"),
    ]
    assert (await everything(hub.admin, guild_id="511"))[1] == [("SetGuildSharing", "", "511", ["guild_id"])]
    assert (await everything(hub.admin, guild_id="5"))[1] == []


async def test_exports_are_paged(hub: RunningHub) -> None:
    """Events and records are listed once each, wherever a page ends; an erasure leaves the records."""
    mine = ids("mine", 4)
    for name in mine:
        await hub.emit(by(USER, name))
    one = await decided(hub)
    await ask(hub.admin, "AdminService/SuspendIntegration", integration_id=one, reason="a test")
    whole = await everything(hub.admin, user_id=USER)
    assert (whole[0], [record[0] for record in whole[1]], whole[2]) == (
        mine,
        ["SuspendIntegration", "SetGuildSharing", "RegisterIntegration"],
        1,
    )
    for size in range(1, 8):
        events, records, pages = await everything(hub.admin, user_id=USER, page_size=size)
        assert (events, records) == whole[:2]
        assert pages >= -(-7 // size)
    await done(hub.bot, (await erase_user(hub)).erasure_id)
    assert (await everything(hub.admin, user_id=USER))[:2] == ([], whole[1])
    owner = REGISTRATION["owner_user_id"]
    assert (await everything(hub.admin, user_id=owner))[:2] == ([], [])


async def test_deleted_records_are_still_listed(hub: RunningHub) -> None:
    """An unblocked developer and a deleted integration are still in the trail."""
    one = await decided(hub)
    await ask(hub.admin, "AdminService/UnblockDeveloper", user_id=LONGER, reason="peace")
    await ask(hub.admin, "AdminService/DeleteIntegration", integration_id=one, reason="over")
    _, owners, _ = await everything(hub.admin, user_id=USER)
    _, others, _ = await everything(hub.admin, user_id=LONGER)
    assert owners[0] == ("DeleteIntegration", one, "", ["owner_user_id"])
    assert others[0] == ("UnblockDeveloper", "", "", ["user_id"])
