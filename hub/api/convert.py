"""Between the contract's messages and the hub's values, both ways. No decisions here, but that a time must be one."""

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import admin_service_pb2, directory_service_pb2, integration_pb2, permissions_pb2

from hub import scopes as table
from hub.control.registry import Held, Registry, etag
from hub.control.reports import Finding
from hub.errors import InvalidRequest
from hub.model import (
    Change,
    Entry,
    GuildAccess,
    InstallationRecord,
    IntegrationRecord,
    KeyRecord,
    ScopeRequestRecord,
)

MICROS = 1_000_000
_LAST_SECOND = 253_402_300_799  # the end of the year 9999, as google.protobuf.Timestamp has it


def timestamp(micros: int) -> Timestamp | None:
    """A time; None (unset) for 0."""
    if not micros:
        return None
    seconds, rest = divmod(micros, MICROS)
    return Timestamp(seconds=seconds, nanos=rest * 1_000)


def micros(time: Timestamp, field: str) -> int:
    """A time in microseconds.

    Raises:
        InvalidRequest: it is none between 1970 and 9999; names `field`.
    """
    if not (0 <= time.seconds <= _LAST_SECOND and 0 <= time.nanos < 1_000_000_000):
        raise InvalidRequest.field(field, "must be a time between 1970 and 9999, nanos below 1000000000")
    return time.seconds * MICROS + time.nanos // 1_000


def duration(seconds: float) -> Duration:
    """A span."""
    span = Duration()
    span.FromMilliseconds(round(seconds * 1_000))
    return span


def seconds(span: Duration) -> float:
    """A span in seconds."""
    return span.seconds + span.nanos / 1e9


def integration(held: Held[IntegrationRecord], registry: Registry) -> integration_pb2.Integration:
    """An integration as admins and its developer see it."""
    record = held.record
    block = registry.block_of(record.owner_user_id)
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
        etag=etag(held),
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
    """Scopes asked for."""
    return tuple(ScopeRequestRecord(request.scope, request.justification) for request in requests)


def guild_access(value: int, default: str) -> GuildAccess:
    """Whose events an integration gets; `default` ("all", "installed") where the request leaves it open."""
    return GuildAccess(value) if value else GuildAccess[default.upper()]


def key(record: KeyRecord, registry: Registry, secret: str = "") -> integration_pb2.Key:
    """A key; `secret` only in the reply that made it."""
    if record.revoke_time:
        state = integration_pb2.KEY_STATE_REVOKED
    elif registry.is_live(record):
        state = integration_pb2.KEY_STATE_ACTIVE
    else:
        state = integration_pb2.KEY_STATE_EXPIRED
    return integration_pb2.Key(
        key_id=record.key_id,
        secret=secret,
        create_time=timestamp(record.create_time),
        expire_time=timestamp(record.expire_time),
        state=state,
        last_use_time=timestamp(registry.usage.keys.get(record.key_id, 0)),
        role=permissions_pb2.Role.ValueType(record.role),
        display_name=record.display_name,
    )


def integration_of(entry: Entry) -> str:
    """The integration that a state entry belongs to; "" for none."""
    kind, _, rest = entry.key.partition("/")
    return rest.partition("/")[0] if kind in ("integration", "installation") else ""


def audit_entry(entry: Entry, change: Change) -> admin_service_pb2.AuditEntry:
    """A change, as the log has it."""
    return admin_service_pb2.AuditEntry(
        time=timestamp(entry.time),
        actor=admin_service_pb2.Actor(
            role=permissions_pb2.Role.ValueType(change.actor.role),
            key_id=change.actor.key_id,
            user_id=change.actor.user_id,
        ),
        method=change.method,
        integration_id=integration_of(entry),
        reason=change.reason,
        changes=[admin_service_pb2.FieldChange(field=c.field, before=c.before, after=c.after) for c in change.changes],
        request_id=change.request_id,
    )


def finding(found: Finding) -> admin_service_pb2.PrivilegeFinding:
    """One thing that is granted and not needed."""
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
