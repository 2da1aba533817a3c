"""Which integrations receive the events of a guild, and why; for DirectoryService."""

import math
from typing import NamedTuple

from tickets.hub.v1 import directory_service_pb2, integration_pb2, permissions_pb2

from hub import permissions as table
from hub.api import convert
from hub.api.paging import Pages
from hub.control.registry import Registry
from hub.errors import Denied
from hub.model import GuildAccess, InstallationRecord, IntegrationRecord


class Receipt(NamedTuple):
    """How an integration receives a guild's events: by which scopes, and since when (microseconds)."""

    record: IntegrationRecord
    access: GuildAccess
    scopes: tuple[int, ...]
    since: int
    outdated: tuple[int, ...]


def receipt(registry: Registry, record: IntegrationRecord, guild_id: int) -> Receipt | None:
    """How an integration receives a guild's events now; None: it does not."""
    installations, integration_id = registry.installations, record.integration_id
    installation = installations.record(integration_id, guild_id)
    try:
        registry.require_open(integration_id)
    except Denied:
        return None
    if math.isinf(installations.excluded(integration_id).get(guild_id, 0)):
        return None
    granted = {grant.scope: grant.grant_time for grant in record.grants}
    agreed = {scope.scope for scope in installation.agreed} if installation is not None else set[int]()
    is_all = record.guild_access is GuildAccess.ALL
    scopes = tuple(sorted(scope for scope in granted if is_all or scope in agreed))
    if not scopes:
        return None
    outdated = tuple(sorted(granted.keys() - agreed)) if installation is not None else ()
    return Receipt(record, record.guild_access, scopes, _since(record, installation, granted, scopes), outdated)


def _since(
    record: IntegrationRecord, installation: InstallationRecord | None, granted: dict[int, int], scopes: tuple[int, ...]
) -> int:
    """Since when: since its first scope, but not before it became active or the guild decided."""
    by_guild = record.guild_access is GuildAccess.INSTALLED or (installation is not None and installation.counts_from)
    asked = installation.install_time if installation is not None and by_guild else 0
    return max(min(granted[scope] for scope in scopes), record.active_time, asked)


class GuildIntegrations:
    """Lists the integrations that receive a guild's events."""

    def __init__(self, registry: Registry, pages: Pages) -> None:
        self._registry = registry
        self._pages = pages

    async def page(
        self, request: directory_service_pb2.ListGuildIntegrationsRequest
    ) -> directory_service_pb2.ListGuildIntegrationsResponse:
        """A page of them, the oldest integrations first."""
        guild_id, registry = int(request.guild_id), self._registry
        is_on = registry.hidden.sharing.is_on(guild_id)
        found, token = await self._pages.by_age(
            registry,
            lambda record: is_on and receipt(registry, record, guild_id) is not None,
            lambda versioned: receipt_message(receipt(registry, versioned.record, guild_id)),
            request,
            "guild integrations",
            request.guild_id,
        )
        sharing = directory_service_pb2.GUILD_SHARING_ON if is_on else directory_service_pb2.GUILD_SHARING_OFF
        return directory_service_pb2.ListGuildIntegrationsResponse(
            integrations=found, next_page_token=token, sharing=sharing
        )


def receipt_message(found: Receipt | None) -> directory_service_pb2.GuildIntegration:
    """A receipt as a message."""
    assert found is not None  # noqa: S101  the test of the list let it through
    fields = dict.fromkeys(field for scope in found.scopes for field in table.fields_of(scope))
    return directory_service_pb2.GuildIntegration(
        integration_id=found.record.integration_id,
        display_name=found.record.display_name,
        guild_access=integration_pb2.GuildAccess.ValueType(found.access),
        scopes=[permissions_pb2.Scope.ValueType(scope) for scope in found.scopes],
        fields=fields,
        since_time=convert.timestamp(found.since),
        outdated_scopes=[permissions_pb2.Scope.ValueType(scope) for scope in found.outdated],
    )
