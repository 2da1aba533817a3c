"""The audit trail: what a change of state did, field by field, in words; and the filter for lists of changes."""

from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from hub import state
from hub.clock import rfc3339
from hub.control.links import redacted
from hub.model import Caller, Change, Entry, FieldChange
from hub.permissions import SCOPES


class TrailFilter(NamedTuple):
    """A filter for the changes in a list; "" and 0 leave a condition out.

    Attributes:
        integration_id: the integration that was changed.
        owner: its owner, whose blocks concern it without an entry of their own.
        actor_key_id: the key that made the change.
        acting_user_id: the Discord user for whom the bot made it.
        method: "SetScopes" or "AdminService/SetScopes".
        start, end: microseconds; `end` is not part of the span.
    """

    integration_id: str
    owner: str
    actor_key_id: str
    acting_user_id: str
    method: str
    start: int
    end: int

    def passes(self, entry: Entry, change: Change) -> bool:
        """Whether a change passes the filter."""
        return (
            self._concerns(entry.key)
            and self.actor_key_id in ("", change.actor.key_id)
            and self.acting_user_id in ("", change.actor.user_id)
            and self.method in ("", change.method, change.method.partition("/")[2])
            and self.start <= entry.time
            and (not self.end or entry.time < self.end)
        )

    def _concerns(self, key: str) -> bool:
        if self.integration_id in ("", state.integration_of(key)):
            return True
        return bool(self.owner) and key == state.BLOCK.key(self.owner)


def encode_change(by: Caller, before: msgspec.Struct | None, after: msgspec.Struct, reason: str) -> bytes:
    """The body of an audited entry: the record, who changed it and why, and what differs from the record before."""
    change = Change(by.actor, by.method, reason=reason, request_id=by.request_id, changes=differences(before, after))
    return state.encode_change(change, after)


def differences(before: msgspec.Struct | None, after: msgspec.Struct) -> tuple[FieldChange, ...]:
    """The fields in which two records of one kind differ, as JSON; digests of keys and times of update are left out."""
    old, new = (_readable_fields(record) for record in (before, after))
    sides = ((name, _json(old.get(name)), _json(new.get(name))) for name in new if name != "update_time")
    return tuple(FieldChange(name, was, now) for name, was, now in sides if was != now)


def _readable_fields(record: msgspec.Struct | None) -> dict[str, Any]:
    if record is None:
        return {}
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return {name: _readable(name, value) for name, value in fields.items() if name not in _HIDDEN}


_HIDDEN = {
    *("check", "digest", "sealed", "all_guilds_from", "counts_from", "position", "resume_time"),
    *("signing", "previous", "start_epoch", "start_position", "start_time", "generation", "verified_url"),
    *("forgeries", "activations", "by_admin", "deleted", "verify_time"),
}
"""Secrets, and what the contract does not name: positions in the log, and when an integration was resumed."""


def _readable(name: str, value: Any) -> Any:  # noqa: ANN401  the value of any field
    """A value in readable form: names instead of numbers."""
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, tuple):
        return [_readable(name, one) for one in value]
    if isinstance(value, msgspec.Struct):
        return {inner: shown for inner, shown in _readable_fields(value).items() if shown not in _NOTHING}
    if name.endswith("_time"):
        return rfc3339(value) if value else None
    if name in ("scope", "refused_scopes", "scopes"):
        return SCOPES[value].name if value in SCOPES else value  # an old record may have a scope that no longer exists
    return redacted(value) if name in ("url", "endpoint_url") else value


_NOTHING: tuple[object, ...] = (None, "", [])


def _json(value: Any) -> str:  # noqa: ANN401  any JSON value
    return "" if value in _NOTHING else msgspec.json.encode(value).decode()
