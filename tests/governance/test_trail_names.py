"""The audit trail in the contract's names: what a program reads in it is what it reads everywhere else."""

from typing import Any

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.json_format import MessageToDict
from tickets.hub.v1 import admin_service_pb2, directory_service_pb2, integration_pb2, permissions_pb2

from tests.support.calls import ask
from tests.support.governance import install, set_scopes
from tests.support.hubs import RunningHub

ENUMS: dict[str, EnumDescriptor] = {
    "scope": permissions_pb2.Scope.DESCRIPTOR,
    "refused_scopes": permissions_pb2.Scope.DESCRIPTOR,
    "agreed_scopes": permissions_pb2.Scope.DESCRIPTOR,
    "role": permissions_pb2.Role.DESCRIPTOR,
    "sharing": directory_service_pb2.GuildSharing.DESCRIPTOR,
    "guild_access": integration_pb2.GuildAccess.DESCRIPTOR,
}
SHOWN = [
    integration_pb2.Integration.DESCRIPTOR,
    directory_service_pb2.Installation.DESCRIPTOR,
    directory_service_pb2.SetGuildSharingRequest.DESCRIPTOR,
    admin_service_pb2.BlockedDeveloper.DESCRIPTOR,
    admin_service_pb2.ListKeysResponse.DESCRIPTOR,
]
NESTED = {
    "grants": integration_pb2.Grant.DESCRIPTOR,
    "requested_scopes": integration_pb2.ScopeRequest.DESCRIPTOR,
    "keys": integration_pb2.Key.DESCRIPTOR,
}


async def a_life(hub: RunningHub) -> str:
    """An integration to which most of what can happen has happened; returns its id."""
    integration, reader = await hub.register("TICKET_CREATED", guild_access=2)
    one = integration.integration_id
    await install(hub, one, "51")
    await set_scopes(hub, one, "TICKET_CREATED", "TICKET_STATS")
    asked = [{"scope": "SCOPE_DROP_CLAIMED", "justification": "x"}]
    await ask(reader, "DeveloperService/RequestScopes", scopes=asked)
    await ask(hub.admin, "AdminService/RejectIntegration", integration_id=one, reason="x")
    await ask(hub.admin, "AdminService/RotateKey", integration_id=one)
    await ask(hub.admin, "AdminService/RevokeKey", integration_id=one, key_id=reader.key.split("_")[2])
    await ask(hub.admin, "AdminService/SuspendIntegration", integration_id=one, reason="x")
    await ask(hub.admin, "AdminService/BlockDeveloper", user_id="7", source="x", reason="x")
    await ask(hub.admin, "AdminService/UnblockDeveloper", user_id="7", reason="x")
    await ask(hub.bot, "DirectoryService/UninstallIntegration", integration_id=one, guild_id="51", acting_user_id="7")
    off = {"guild_id": "51", "acting_user_id": "7", "sharing": 1}
    await ask(hub.bot, "DirectoryService/SetGuildSharing", **off)
    await ask(hub.admin, "AdminService/CreateServiceKey", role=1, display_name="second bot")
    return one


def strange(name: str, value: Any) -> list[str]:  # noqa: ANN401  any JSON value
    """What in a value is not in the contract's words."""
    if isinstance(value, list):
        return [found for one in value for found in strange(name, one)]
    if isinstance(value, dict):
        fields = NESTED[name].fields_by_name
        return [key for key in value if key not in fields] + [
            found for key, one in value.items() for found in strange(key, one)
        ]
    known = ENUMS.get(name)
    return [f"{name}={value}"] if known is not None and value not in known.values_by_name else []


async def test_audit_changes_use_the_names_of_the_contract(hub: RunningHub) -> None:
    """Fields are those of the messages that show them, enum values are spelt in full, ids are texts."""
    await a_life(hub)
    entries = (await ask(hub.admin, "AdminService/ListAuditEntries", page_size=200)).entries
    changes = [change for entry in entries for change in entry.changes]
    names = {name for message in SHOWN for name in message.fields_by_name}
    paths = {change.path for change in changes}
    assert {"scopes_change_time", "grants", "agreed_scopes", "keys", "refused_scopes", "guild_access"} <= paths
    assert paths - names == {"", "user_id"} - names
    assert {change.field for change in changes if not change.path} == {"installed", "excluded", "blocked"}
    values: list[tuple[str, Any]] = [
        (change.path, MessageToDict(value))
        for change in changes
        for value in (change.old_value, change.new_value)
        if value.WhichOneof("kind")
    ]
    assert [found for path, value in values for found in strange(path, value)] == []
    states = {value for path, value in values if path == "state"}
    assert states == {"INTEGRATION_STATE_ACTIVE", "INTEGRATION_STATE_SUSPENDED"}
    guilds = {value for path, value in values if path == "guild_id"}
    assert guilds == {"51"}


async def test_the_older_fields_of_a_change_are_unchanged(hub: RunningHub) -> None:
    """A program that reads `field`, `before` and `after` finds them as before, beside the new ones."""
    await a_life(hub)
    request = {"method": "SuspendIntegration"}
    [entry] = (await ask(hub.admin, "AdminService/ListAuditEntries", **request)).entries
    [change] = [change for change in entry.changes if change.field == "state"]
    assert (change.before, change.after) == ('"ACTIVE"', '"SUSPENDED"')
    assert change.new_value.string_value == "INTEGRATION_STATE_SUSPENDED"


async def test_an_actor_has_the_name_of_its_key(hub: RunningHub) -> None:
    """A change names the key that made it: by its own name, or by that of its integration."""
    one = await a_life(hub)
    entries = (await ask(hub.admin, "AdminService/ListAuditEntries", page_size=200)).entries
    called = {entry.method.partition("/")[2]: entry.actor.key_name for entry in entries}
    assert called["SuspendIntegration"] == "first admin key"
    assert called["InstallIntegration"] == "first bot key"
    held = (await ask(hub.admin, "AdminService/GetIntegration", integration_id=one)).integration
    assert called["RequestScopes"] == held.display_name
