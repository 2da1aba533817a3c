"""The life of an integration: which command is allowed in which state, and the record that it makes.

Pure functions: no clock, no log, no caller.
"""

from collections.abc import Collection, Iterable, Sequence

from msgspec.structs import replace

from hub.errors import (
    IntegrationDeleted,
    IntegrationPending,
    IntegrationRejected,
    IntegrationSuspended,
    InvalidRequest,
    StateForbids,
)
from hub.model import GrantRecord, GuildAccess, IntegrationRecord, ScopeRequestRecord, State
from hub.permissions import names_of

ALLOWED: dict[str, frozenset[State]] = {
    "update": frozenset({State.PENDING, State.ACTIVE, State.SUSPENDED, State.REJECTED}),
    "approve": frozenset({State.PENDING, State.ACTIVE}),
    "reject": frozenset({State.PENDING, State.ACTIVE}),
    "request_scopes": frozenset({State.ACTIVE, State.SUSPENDED}),
    "install": frozenset({State.ACTIVE}),
    "suspend": frozenset({State.ACTIVE}),
    "resume": frozenset({State.SUSPENDED}),
    "delete": frozenset({State.PENDING, State.ACTIVE, State.SUSPENDED, State.REJECTED}),
    "set_scopes": frozenset({State.ACTIVE, State.SUSPENDED}),
    "rotate_key": frozenset({State.ACTIVE, State.SUSPENDED}),
    "revoke_key": frozenset(State),
}
"""In which states each command is allowed: the table of ``docs/governance.md``."""

_CLOSED = {
    State.PENDING: (IntegrationPending, "the integration waits for an admin's decision"),
    State.SUSPENDED: (
        IntegrationSuspended,
        "the integration is suspended; what happens meanwhile is delivered afterwards",
    ),
    State.REJECTED: (IntegrationRejected, "the integration's application was rejected"),
    State.DELETED: (IntegrationDeleted, "the integration was deleted"),
}


def require(command: str, record: IntegrationRecord) -> None:
    """Check that a command is allowed in the record's state.

    Raises:
        StateForbids: it is not; the metadata has the state and the states that would allow it.
    """
    allowed = ALLOWED[command]
    if record.state not in allowed:
        names = ", ".join(state.name for state in sorted(allowed))
        raise StateForbids(
            f"the integration is {record.state.name}; this is possible only while it is {names.replace(', ', ' or ')}",
            metadata={"state": record.state.name, "allowed": names.replace(" ", "")},
        )


def require_open(record: IntegrationRecord, *, say_why: bool = True) -> None:
    """Check that the integration may receive events.

    Args:
        record: the integration's.
        say_why: include the admin's reason, which is for the integration's developer only.

    Raises:
        IntegrationPending, IntegrationSuspended, IntegrationRejected, IntegrationDeleted: it may not.
    """
    if record.state in _CLOSED:
        failure, sentence = _CLOSED[record.state]
        reason = f": {record.state_reason}" if say_why and record.state_reason else ""
        raise failure(sentence + reason, metadata={"integration_id": record.integration_id})


def approve(
    record: IntegrationRecord, scopes: Collection[int], reason: str, now: int, grantor: str
) -> IntegrationRecord:
    """Grant these of the requested scopes (empty: all of them); an application becomes an integration.

    The other requested scopes are refused by the same decision.
    """
    require("approve", record)
    chosen = _chosen(record, scopes)
    made = {grant.scope: grant for grant in grants(chosen, now, grantor)}
    current = {grant.scope: grant for grant in record.grants}
    given = tuple((made | current)[scope] for scope in sorted(made | current))
    refused = {request.scope for request in record.requested_scopes} - made.keys()
    decided = replace(_refused(record, refused, reason, now), grants=given, requested_scopes=(), scopes_time=now)
    if record.state is State.ACTIVE:
        return decided
    return replace(decided, state=State.ACTIVE, state_reason=reason, active_time=now)


def reject(record: IntegrationRecord, scopes: Collection[int], reason: str, now: int) -> IntegrationRecord:
    """Reject an application; or, of an ACTIVE integration, these of the requested scopes (empty: all)."""
    require("reject", record)
    refused = {request.scope for request in _chosen(record, scopes)}
    record = _refused(record, refused, reason, now)
    if record.state is State.ACTIVE:
        left = tuple(request for request in record.requested_scopes if request.scope not in refused)
        return replace(record, requested_scopes=left)
    return replace(record, state=State.REJECTED, state_reason=reason, requested_scopes=())


def _refused(record: IntegrationRecord, scopes: Collection[int], reason: str, now: int) -> IntegrationRecord:
    """The record after a decision that refused these scopes (none: it granted all), with the reason."""
    if not scopes:
        return replace(record, refused_scopes=(), refusal_reason="", refusal_time=0)
    return replace(record, refused_scopes=tuple(sorted(scopes)), refusal_reason=reason, refusal_time=now)


def _chosen(record: IntegrationRecord, scopes: Collection[int]) -> tuple[ScopeRequestRecord, ...]:
    """The requests that a decision is about.

    Raises:
        StateForbids: no scope is requested.
        InvalidRequest: a scope is named that is not requested.
    """
    if not record.requested_scopes:
        raise StateForbids(
            f"the integration is {record.state.name} and has requested no scopes: there is nothing to decide",
            metadata={"state": record.state.name, "allowed": State.PENDING.name},
        )
    strange = set(scopes) - {request.scope for request in record.requested_scopes}
    if strange:
        names = names_of(frozenset(strange))
        raise InvalidRequest.field("scopes", f"not requested: {names}; choose from requested_scopes, or use SetScopes")
    return tuple(request for request in record.requested_scopes if not scopes or request.scope in scopes)


def request_scopes(record: IntegrationRecord, requests: Sequence[ScopeRequestRecord]) -> IntegrationRecord:
    """Request more scopes; these replace earlier requests that are not decided.

    Raises:
        InvalidRequest: a scope is named twice, or granted already.
    """
    require("request_scopes", record)
    current = {grant.scope for grant in record.grants}
    for index, request in enumerate(requests):
        if request.scope in current:
            raise InvalidRequest.field(f"scopes[{index}].scope", "is granted already: request only missing scopes")
    grants(requests, 0, "")
    return replace(record, requested_scopes=tuple(requests))


def set_guild_access(record: IntegrationRecord, access: GuildAccess) -> IntegrationRecord:
    """Set the guild access; events of every guild count from the entry that will store the record."""
    opened = access is GuildAccess.ALL and record.guild_access is GuildAccess.INSTALLED
    return replace(record, guild_access=access, all_guilds_from=-1 if opened else record.all_guilds_from)


def suspend(record: IntegrationRecord, reason: str) -> IntegrationRecord:
    """Suspend it; its grants keep their positions."""
    require("suspend", record)
    return replace(record, state=State.SUSPENDED, state_reason=reason)


def resume(record: IntegrationRecord, reason: str, now: int) -> IntegrationRecord:
    """Resume it after a suspension."""
    require("resume", record)
    return replace(record, state=State.ACTIVE, state_reason=reason, resume_time=now)


def delete(record: IntegrationRecord, reason: str) -> IntegrationRecord:
    """Delete it: its keys are no longer valid, its grants are gone."""
    require("delete", record)
    return replace(record, state=State.DELETED, state_reason=reason, grants=(), requested_scopes=())


def set_scopes(
    record: IntegrationRecord, requests: Sequence[ScopeRequestRecord], now: int, grantor: str
) -> IntegrationRecord:
    """Grant exactly these scopes. One that stays keeps its grant, with the new justification; others start now."""
    require("set_scopes", record)
    current = {grant.scope: grant for grant in record.grants}
    fresh = {grant.scope: grant for grant in grants(requests, now, grantor)}
    kept = {
        scope: replace(current[scope], justification=grant.justification)
        for scope, grant in fresh.items()
        if scope in current
    }
    still_asked = tuple(request for request in record.requested_scopes if request.scope not in fresh)
    given = tuple((fresh | kept).values())
    changed = {grant.scope for grant in given} != set(current)
    return replace(
        record, grants=given, requested_scopes=still_asked, scopes_time=now if changed else record.scopes_time
    )


def grants(requests: Iterable[ScopeRequestRecord], now: int, grantor: str) -> tuple[GrantRecord, ...]:
    """New grants, by scope, counting from the entry that will store them.

    Raises:
        InvalidRequest: a scope is named twice.
    """
    made: dict[int, GrantRecord] = {}
    for index, request in enumerate(requests):
        if request.scope in made:
            raise InvalidRequest.field(f"scopes[{index}].scope", "is named twice: name each scope once")
        made[request.scope] = GrantRecord(request.scope, request.justification, now, grantor)
    return tuple(made[scope] for scope in sorted(made))
