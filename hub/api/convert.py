"""Converts the contract's messages to the hub's values and back."""

import secrets
from collections.abc import Iterable, Sequence
from typing import Protocol
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import admin_service_pb2, directory_service_pb2, event_pb2, integration_pb2, permissions_pb2

from hub import permissions as table
from hub.api.masks import masked
from hub.api.validation import check
from hub.control.integrations import Profile
from hub.control.privileges import Finding
from hub.control.registry import Registry, etag
from hub.control.versioned import Versioned
from hub.errors import InvalidRequest
from hub.model import (
    Entry,
    GuildAccess,
    InstallationRecord,
    IntegrationRecord,
    KeyRecord,
    Kind,
    ScopeRequestRecord,
)

DEFAULT_SUBSCRIPTION = "default"
"""The subscription of a request that names none."""

MICROS = 1_000_000
_LAST_SECOND = 253_402_300_799  # the end of the year 9999, as google.protobuf.Timestamp has it


class NewIntegration(Protocol):
    """The profile fields that RegisterIntegration and SubmitApplication share."""

    display_name: str
    description: str
    owner_user_id: str
    documentation_url: str
    support_url: str
    endpoint_url: str
    guild_access: integration_pb2.GuildAccess.ValueType


def timestamp(micros: int) -> Timestamp | None:
    """A time; None (unset) for 0."""
    if not micros:
        return None
    seconds, rest = divmod(micros, MICROS)
    return Timestamp(seconds=seconds, nanos=rest * 1_000)


def micros(time: Timestamp, field: str) -> int:
    """A time in microseconds.

    Raises:
        InvalidRequest: it is not between 1970 and 9999; the error names `field`.
    """
    seconds, nanos = time.seconds, time.nanos
    if not (0 <= seconds <= _LAST_SECOND and 0 <= nanos < 1_000_000_000):
        raise InvalidRequest.field(field, "must be a time between 1970 and 9999, nanos below 1000000000")
    return seconds * MICROS + nanos // 1_000


def optional_micros(request: Message, field: str) -> int:
    """The time in a field of a request, in microseconds; 0 where it is not set.

    Raises:
        InvalidRequest: as `micros`.
    """
    return micros(getattr(request, field), field) if request.HasField(field) else 0


def optional_span(request: Message, field: str) -> int | None:
    """The duration in a field of a request, in microseconds; None where it is not set."""
    return span(getattr(request, field)) if request.HasField(field) else None


def duration(seconds: float) -> Duration:
    """Seconds as a message, rounded to milliseconds."""
    whole, rest = divmod(round(seconds * 1_000), 1_000)
    return Duration(seconds=whole, nanos=rest * 1_000_000)


def span(length: Duration) -> int:
    """The microseconds of a message."""
    return length.seconds * MICROS + length.nanos // 1_000


def integration(versioned: Versioned[IntegrationRecord], registry: Registry) -> integration_pb2.Integration:
    """An integration as admins and its developer see it."""
    record = versioned.record
    block = registry.blocklist.block_of(record.owner_user_id)
    return integration_pb2.Integration(
        integration_id=record.integration_id,
        display_name=record.display_name,
        description=record.description,
        owner_user_id=record.owner_user_id,
        documentation_url=record.documentation_url,
        support_url=record.support_url,
        endpoint_url=record.endpoint_url,
        guild_access=integration_pb2.GuildAccess.ValueType(record.guild_access),
        state=integration_pb2.IntegrationState.ValueType(record.state),
        state_reason=record.state_reason,
        grants=[
            integration_pb2.Grant(
                scope=permissions_pb2.Scope.ValueType(grant.scope),
                justification=grant.justification,
                grant_time=timestamp(grant.grant_time),
                grantor=grant.grantor,
            )
            for grant in record.grants
        ],
        requested_scopes=[
            integration_pb2.ScopeRequest(
                scope=permissions_pb2.Scope.ValueType(request.scope), justification=request.justification
            )
            for request in record.requested_scopes
        ],
        create_time=timestamp(record.create_time),
        update_time=timestamp(record.update_time),
        etag=etag(versioned),
        developer_blocked=block is not None,
        block_source=block.source if block is not None else "",
        block_reason=block.reason if block is not None else "",
        rules_version=record.rules_version,
        active_time=timestamp(record.active_time),
        scopes_change_time=timestamp(record.scopes_time),
        refused_scopes=[permissions_pb2.Scope.ValueType(scope) for scope in record.refused_scopes],
        refusal_reason=record.refusal_reason,
        refusal_time=timestamp(record.refusal_time),
    )


def scope_requests(requests: Iterable[integration_pb2.ScopeRequest]) -> tuple[ScopeRequestRecord, ...]:
    """The requested scopes."""
    return tuple(ScopeRequestRecord(request.scope, request.justification) for request in requests)


def guild_access(value: int) -> GuildAccess | None:
    """From which guilds an integration gets events; None if the request does not say."""
    return GuildAccess(value) if value else None


def profile(request: NewIntegration) -> Profile:
    """The profile of a new integration in a request."""
    return Profile(
        request.display_name,
        request.description,
        request.owner_user_id,
        request.documentation_url,
        request.support_url,
        request.endpoint_url,
        guild_access(request.guild_access),
    )


def updates(
    new: integration_pb2.Integration, mask: FieldMask, allowed: Sequence[str]
) -> dict[str, str | GuildAccess | None]:
    """The new values of the fields that an update changes.

    Raises:
        InvalidRequest: the mask names a field that cannot be updated, or a value breaks a rule of the contract.
    """
    names = masked(new, mask, allowed)
    check(new, "integration", names)
    return {name: guild_access(new.guild_access) if name == "guild_access" else getattr(new, name) for name in names}


def keys(records: Iterable[KeyRecord], registry: Registry) -> list[integration_pb2.Key]:
    """Keys without their texts."""
    return [key(record, registry) for record in records]


def key(record: KeyRecord, registry: Registry, secret: str = "") -> integration_pb2.Key:
    """A key; `secret` only in the reply that made it."""
    if record.revoke_time:
        state = integration_pb2.KEY_STATE_REVOKED
    elif registry.keyring.is_live(record):
        state = integration_pb2.KEY_STATE_ACTIVE
    else:
        state = integration_pb2.KEY_STATE_EXPIRED
    return integration_pb2.Key(
        key_id=record.key_id,
        secret=secret,
        create_time=timestamp(record.create_time),
        expire_time=timestamp(record.expire_time),
        state=state,
        last_use_time=timestamp(registry.keyring.last_use_time(record.key_id)),
        role=permissions_pb2.Role.ValueType(record.role),
        display_name=record.display_name,
    )


def event_entry(event: event_pb2.Event, now: int, *, position: int = 0, test: bool = False) -> Entry:
    """An event as the log keeps it: without unknown fields and without its accept time.

    Args:
        event: the event of a request; it is modified.
        now: microseconds.
        position: of a sample, which is never in the log, the position that it would have.
        test: mark it as a test event.

    Raises:
        InvalidRequest: `occur_time` is out of range; the error names it alone, see `validation.below`.
    """
    if event.HasField("occur_time"):
        micros(event.occur_time, "occur_time")
    event.ClearField("accept_time")
    event.test = test
    event.DiscardUnknownFields()
    event_id = event.id
    if not event_id:
        event_id = event.id = uuid7(now)
    body = event.SerializeToString(deterministic=True)
    event_type = table.EVENT_TYPES[event.WhichOneof("payload") or ""]
    return Entry(Kind.EVENT, now, body, "", event_id, event_type, int(event.guild_id), position)


def uuid7(now: int) -> str:
    """A fresh UUIDv7 (RFC 9562), as the client makes them: ids ordered by time keep the dedupe index quick.

    Python 3.11 cannot make one by itself. `now` in microseconds.
    """
    bits = now // 1_000 << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(UUID(int=bits))


def finding(found: Finding) -> admin_service_pb2.PrivilegeFinding:
    """A finding of the privilege report."""
    return admin_service_pb2.PrivilegeFinding(
        kind=admin_service_pb2.PrivilegeFinding.Kind.ValueType(found.kind),
        integration_id=found.integration_id,
        scopes=[permissions_pb2.Scope.ValueType(scope) for scope in found.scopes],
        key_id=found.key_id,
        guild_id=str(found.guild_id) if found.guild_id else "",
        since=timestamp(found.since),
        advice=found.advice,
    )


def directory_entry(record: IntegrationRecord, guild_count: int) -> directory_service_pb2.DirectoryEntry:
    """An integration as everyone may see it."""
    scopes = frozenset(grant.scope for grant in record.grants)
    fields = dict.fromkeys(field for scope in sorted(scopes) for field in table.fields_of(scope))
    highest = max((table.SCOPES[scope].level for scope in scopes), default=0)
    return directory_service_pb2.DirectoryEntry(
        integration_id=record.integration_id,
        display_name=record.display_name,
        description=record.description,
        documentation_url=record.documentation_url,
        support_url=record.support_url,
        scopes=[permissions_pb2.Scope.ValueType(scope) for scope in sorted(scopes)],
        highest_level=permissions_pb2.SensitivityLevel.ValueType(highest),
        fields=fields,
        active_time=timestamp(record.active_time),
        scopes_change_time=timestamp(record.scopes_time),
        guild_count=guild_count,
        guild_access=integration_pb2.GuildAccess.ValueType(record.guild_access),
    )


def installation(record: InstallationRecord) -> directory_service_pb2.Installation:
    """A guild's consent."""
    return directory_service_pb2.Installation(
        integration_id=record.integration_id,
        guild_id=str(record.guild_id),
        agreed_scopes=[permissions_pb2.Scope.ValueType(scope.scope) for scope in record.agreed],
        acting_user_id=record.acting_user_id,
        install_time=timestamp(record.install_time),
        agree_time=timestamp(record.agree_time),
    )
