"""Least privilege: what is granted and not needed, derived from the state and the time alone.

The numbers of `FindingKind` are those of ``PrivilegeFinding.Kind`` in the contract.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from hub.control.registry import Registry
from hub.model import IntegrationRecord, KeyRecord, State
from hub.permissions import names_of

DAY = 24 * 3_600 * 1_000_000
UNUSED_AFTER = 30 * DAY
OLD_AFTER = 365 * DAY

LAST = "~"
"""Sorts after the id of every integration."""


class FindingKind(IntEnum):
    """The kinds of findings."""

    GRANT_NEVER_USED = 1
    GRANT_UNUSED = 2
    KEY_UNUSED = 3
    KEY_OLD = 4
    NO_STREAM = 5
    CONSENT_OUTDATED = 6
    ERASURE_UNCONFIRMED = 7


class Finding(NamedTuple):
    """A grant, key or endpoint that is not needed; `since` in microseconds."""

    kind: FindingKind
    integration_id: str
    since: int
    advice: str
    scopes: tuple[int, ...] = ()
    key_id: str = ""
    guild_id: int = 0

    @property
    def place(self) -> tuple[str, int, int, str, int]:
        """Its sort key, by subject: stable while other findings come and go.

        By integration, the service keys last; then grants, keys, streams, guilds.
        """
        group = 4 if self.guild_id else 2 if self.key_id else 1 if self.scopes else 3
        if self.kind is FindingKind.ERASURE_UNCONFIRMED:
            group = 0
        scope = self.scopes[0] if group == 1 else 0
        return self.integration_id or LAST, group, self.guild_id, self.key_id, scope


def findings(registry: Registry, integration_id: str, now: int, grace: int = 0) -> list[Finding]:
    """The findings of an integration, or ("") those of the service keys, by place.

    Args:
        registry: the state.
        integration_id: whose.
        now: microseconds.
        grace: microseconds after a grant, a resumption or the end of a block in which nothing is a finding.
    """
    if not integration_id:
        found = _keys(registry, "", registry.keys_of(""), now)
    else:
        record = registry.integration(integration_id).record
        found = _of_integration(registry, record, now, grace) if record.state is State.ACTIVE else iter(())
    return sorted(found, key=lambda finding: finding.place)


def _of_integration(registry: Registry, record: IntegrationRecord, now: int, grace: int) -> Iterator[Finding]:
    """The findings of an integration; after it was closed, the grace time begins again."""
    yield from _unforgotten(registry, record, now)
    if now - record.resume_time >= grace and now - registry.blocklist.unblock_time(record.owner_user_id) >= grace:
        yield from _unused(registry, record, now, grace)
    yield from _consent(registry, record)


def _unused(registry: Registry, record: IntegrationRecord, now: int, grace: int) -> Iterator[Finding]:
    yield from _grants(registry, record, now, grace)
    yield from _keys(registry, record.integration_id, record.keys, now)
    last = registry.usage.streams.get(record.integration_id, record.active_time or record.create_time)
    if now - last > UNUSED_AFTER:
        advice = "it has had no stream for 30 days: ask its developer; suspend or delete it if nobody answers"
        yield Finding(FindingKind.NO_STREAM, record.integration_id, last, advice)


def _grants(registry: Registry, record: IntegrationRecord, now: int, grace: int) -> Iterator[Finding]:
    used = registry.usage.scopes.get(record.integration_id, {})
    for grant in record.grants:
        last = used.get(grant.scope, 0)
        if now - grant.grant_time < grace:
            continue
        if last < grant.grant_time:
            advice = "nothing was delivered by it yet: take it away with SetScopes if it is not needed"
            yield Finding(FindingKind.GRANT_NEVER_USED, record.integration_id, grant.grant_time, advice, (grant.scope,))
        elif now - last > UNUSED_AFTER:
            advice = "nothing was delivered by it for 30 days: take it away with SetScopes if it is not needed"
            yield Finding(FindingKind.GRANT_UNUSED, record.integration_id, last, advice, (grant.scope,))


def _keys(registry: Registry, integration_id: str, keys: tuple[KeyRecord, ...], now: int) -> Iterator[Finding]:
    for key in keys:
        if not registry.keyring.is_live(key):
            continue
        last = registry.keyring.last_use_time(key.key_id) or key.create_time
        if now - last > UNUSED_AFTER:
            advice = "it opened nothing for 30 days: revoke it with RevokeKey"
            yield Finding(FindingKind.KEY_UNUSED, integration_id, last, advice, key_id=key.key_id)
        elif now - key.create_time > OLD_AFTER:
            advice = "it is older than a year: " + (
                "rotate it with RotateKey" if integration_id else "create another with CreateServiceKey, then revoke it"
            )
            yield Finding(FindingKind.KEY_OLD, integration_id, key.create_time, advice, key_id=key.key_id)


def _unforgotten(registry: Registry, record: IntegrationRecord, now: int) -> Iterator[Finding]:
    """The erasures that it has not confirmed for 30 days."""
    erasures = registry.hidden.erasures
    if late := erasures.late(record.integration_id, now):
        since = erasures.require(late[0].erasure_id).record.request_time
        advice = f"it has not confirmed {len(late)} erasures within 30 days: ask its developer to forget, or suspend it"
        yield Finding(FindingKind.ERASURE_UNCONFIRMED, record.integration_id, since, advice)


def _consent(registry: Registry, record: IntegrationRecord) -> Iterator[Finding]:
    granted = {grant.scope: grant for grant in record.grants}
    for installation in registry.installations.of_integration(record.integration_id):
        missing = tuple(sorted(granted.keys() - {agreed.scope for agreed in installation.agreed}))
        if missing:
            names = names_of(frozenset(missing))
            advice = f"the guild has not agreed to {names}: ask its admins to install the integration again"
            yield Finding(
                FindingKind.CONSENT_OUTDATED,
                record.integration_id,
                installation.agree_time,
                advice,
                missing,
                guild_id=installation.guild_id,
            )
