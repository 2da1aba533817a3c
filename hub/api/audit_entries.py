"""Converts changes of the audit trail to the contract's messages, with the contract's names."""

from typing import Any

import msgspec
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from tickets.hub.v1 import admin_service_pb2, permissions_pb2

from hub.api import convert
from hub.control.registry import Registry
from hub.model import Actor, Change, Entry, FieldChange
from hub.state import ENDPOINT, integration_of

PATHS = {"scopes_time": "scopes_change_time", "agreed": "agreed_scopes"}
"""Fields of records that have another name in the contract."""

HIDDEN = {"installed", "excluded", "blocked"}
"""Fields of records that no message shows, because the method (Uninstall, Unblock) says the same."""

PREFIXES = {
    "scope": "SCOPE_",
    "refused_scopes": "SCOPE_",
    "agreed_scopes": "SCOPE_",
    "role": "ROLE_",
    "state": "INTEGRATION_STATE_",
    "endpoint_state": "ENDPOINT_STATE_",
    "scopes": "SCOPE_",
    "format": "BODY_FORMAT_",
    "guild_access": "GUILD_ACCESS_",
    "sharing": "GUILD_SHARING_",
}
"""The prefix of the names of enum values, by field."""


def entry_message(entry: Entry, change: Change, registry: Registry) -> admin_service_pb2.AuditEntry:
    """A stored change as a message."""
    return admin_service_pb2.AuditEntry(
        time=convert.timestamp(entry.time),
        actor=_actor(change.actor, registry),
        method=change.method,
        integration_id=integration_of(entry.key),
        reason=change.reason,
        changes=[field_change(one, is_endpoint=ENDPOINT.has(entry.key)) for one in change.changes],
        request_id=change.request_id,
    )


def _actor(actor: Actor, registry: Registry) -> admin_service_pb2.Actor:
    return admin_service_pb2.Actor(
        role=permissions_pb2.Role.ValueType(actor.role),
        key_id=actor.key_id,
        user_id=actor.user_id,
        key_name=registry.key_name(actor.key_id),
    )


def field_change(change: FieldChange, *, is_endpoint: bool = False) -> admin_service_pb2.FieldChange:
    """A changed field: as it is stored, and in the contract's names and values."""
    path = "" if change.field in HIDDEN else PATHS.get(change.field, change.field)
    words = "endpoint_state" if is_endpoint and path == "state" else path
    return admin_service_pb2.FieldChange(
        field=change.field,
        before=change.before,
        after=change.after,
        path=path,
        old_value=_value(words, change.before),
        new_value=_value(words, change.after),
    )


def _value(path: str, stored: str) -> Value | None:
    """A stored value in the contract's words; None if there is none."""
    if not stored or not path:
        return None
    return ParseDict(_worded(path, msgspec.json.decode(stored)), Value())


def _worded(name: str, value: Any) -> Any:  # noqa: ANN401  any JSON value
    if isinstance(value, list):
        if name == "agreed_scopes":
            value = [one["scope"] for one in value]
        return [_worded(name, one) for one in value]
    if isinstance(value, dict):
        return _key(value) if "key_id" in value else {inner: _worded(inner, one) for inner, one in value.items()}
    if name in PREFIXES and isinstance(value, str):
        return PREFIXES[name] + value.upper()
    if isinstance(value, int) and name.endswith(("_id", "_ids")):
        return str(value)  # ids are texts in the contract
    return value


def _key(record: dict[str, Any]) -> dict[str, Any]:
    """A key with its state, such as revoked."""
    shown = {name: _worded(name, value) for name, value in record.items() if name != "revoke_time"}
    return shown | ({"state": "KEY_STATE_REVOKED"} if "revoke_time" in record else {})
