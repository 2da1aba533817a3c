"""The entries of the directory: what the hub enforces, not what a developer claims."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict
from tickets.hub.v1.event_pb2 import Event

from hub import permissions as table
from hub.api import convert
from hub.clock import rfc3339
from hub.http.directory.changes import History, ScopeChange
from hub.http.directory.snapshot import Listed
from hub.model import GrantRecord, GuildAccess
from hub.permissions import Scope

ENVELOPE = tuple(
    field.name for field in Event.DESCRIPTOR.fields if field.containing_oneof is None and field.name != "test"
)
"""The fields that every event has, whatever the scopes."""


class Granted(NamedTuple):
    """A scope that an integration has, the fields that it delivers, and since when (microseconds)."""

    scope: Scope
    fields: tuple[str, ...]
    since: int


class DirectoryEntry(NamedTuple):
    """An integration for a page.

    Attributes:
        level: the highest of its scopes; 0 where it has none.
        every_guild: whether it gets the events of every guild, installed or not.
        withheld: the fields that are left out of its events.
    """

    integration_id: str
    name: str
    description: str
    documentation_url: str
    support_url: str
    granted: tuple[Granted, ...]
    level: int
    every_guild: bool
    guild_count: int
    active_time: int
    withheld: tuple[str, ...]


def entry_of(one: Listed) -> DirectoryEntry:
    """The entry of an integration."""
    record = one.record
    granted = tuple(_granted(grant) for grant in record.grants if grant.scope in table.SCOPES)
    return DirectoryEntry(
        record.integration_id,
        record.display_name,
        record.description,
        record.documentation_url,
        record.support_url,
        granted,
        max((one.scope.level for one in granted), default=0),
        record.guild_access is GuildAccess.ALL,
        one.guild_count,
        record.active_time,
        table.withheld_fields(frozenset(grant.scope.number for grant in granted)),
    )


def as_json(one: Listed) -> dict[str, Any]:
    """An integration as ``DirectoryService.GetDirectoryEntry`` spells it, with the time of each grant."""
    entry = MessageToDict(
        convert.directory_entry(one.record, one.guild_count),
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
    grants = [
        {
            "scope": grant.scope.name,
            "level": grant.scope.level,
            "fields": grant.fields,
            "grant_time": rfc3339(grant.since),
        }
        for grant in entry_of(one).granted
    ]
    return {**entry, "grants": grants}


def changes_as_json(history: History) -> dict[str, Any]:
    """The changes of scopes, the newest first."""
    return {"changes": [_change_as_json(change) for change in history.changes], "changes_are_cut": history.cut}


def _change_as_json(change: ScopeChange) -> dict[str, Any]:
    return {"time": rfc3339(change.time), "given": _names(change.given), "taken": _names(change.taken)}


def _names(scopes: Iterable[Scope]) -> list[str]:
    return [scope.name for scope in scopes]


def _granted(grant: GrantRecord) -> Granted:
    return Granted(table.SCOPES[grant.scope], table.fields_of(grant.scope), grant.grant_time)
