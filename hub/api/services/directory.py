"""DirectoryService: the scopes, the public directory, applications of developers, installations by guilds."""

from tickets.hub.v1 import directory_service_pb2, directory_service_pb2_grpc, permissions_pb2

from hub import permissions as table
from hub.api import convert
from hub.api.access import caller
from hub.api.filters import words_test
from hub.api.paging import Pages
from hub.api.services.guild_integrations import GuildIntegrations
from hub.api.status import Context
from hub.control.consents import Consents
from hub.control.integrations import Integrations
from hub.control.registry import Registry
from hub.errors import IntegrationNotFound, RulesNotMet
from hub.model import InstallationRecord, IntegrationRecord
from hub.privacy_model import GuildSharing
from hub.text import fold


class DirectoryService(directory_service_pb2_grpc.DirectoryServiceServicer):
    """The contract's DirectoryService."""

    def __init__(self, registry: Registry, integrations: Integrations, consents: Consents, pages: Pages) -> None:
        self._registry = registry
        self._guilds = GuildIntegrations(registry, pages)
        self._integrations = integrations
        self._consents = consents
        self._pages = pages

    async def ListScopes(
        self, request: directory_service_pb2.ListScopesRequest, context: Context
    ) -> directory_service_pb2.ListScopesResponse:
        """List the scopes and what each delivers."""
        return directory_service_pb2.ListScopesResponse(
            scopes=[
                directory_service_pb2.ScopeDescription(
                    scope=permissions_pb2.Scope.ValueType(scope.number),
                    name=scope.name,
                    level=permissions_pb2.SensitivityLevel.ValueType(scope.level),
                    title=scope.title,
                    description=scope.description,
                    fields=table.fields_of(scope.number),
                )
                for scope in table.SCOPES.values()
            ]
        )

    async def FindIntegrations(
        self, request: directory_service_pb2.FindIntegrationsRequest, context: Context
    ) -> directory_service_pb2.FindIntegrationsResponse:
        """List the public integrations whose texts have every word of the query."""
        scopes, installations = frozenset(request.scopes), self._registry.installations
        has_words = words_test(fold(request.query).split(), self._registry.catalog.search_texts.of)

        def test(record: IntegrationRecord) -> bool:
            has_scope = not scopes or any(grant.scope in scopes for grant in record.grants)
            return has_scope and self._registry.is_listed(record) and has_words(record)

        listing = ("directory", request.query, ",".join(str(scope) for scope in sorted(scopes)))
        page, token = await self._pages.by_age(
            self._registry,
            test,
            lambda found: convert.directory_entry(found.record, installations.count(found.record.integration_id)),
            request,
            *listing,
        )
        return directory_service_pb2.FindIntegrationsResponse(integrations=page, next_page_token=token)

    async def GetDirectoryEntry(
        self, request: directory_service_pb2.GetDirectoryEntryRequest, context: Context
    ) -> directory_service_pb2.GetDirectoryEntryResponse:
        """Return one public integration; others are reported as not found."""
        record = self._registry.integration(request.integration_id).record
        if not self._registry.is_listed(record):
            raise IntegrationNotFound(request.integration_id)
        count = self._registry.installations.count(request.integration_id)
        return directory_service_pb2.GetDirectoryEntryResponse(entry=convert.directory_entry(record, count))

    async def SubmitApplication(
        self, request: directory_service_pb2.SubmitApplicationRequest, context: Context
    ) -> directory_service_pb2.SubmitApplicationResponse:
        """Add an integration that waits for an admin's decision."""
        if not request.rules_accepted:
            raise RulesNotMet(
                "the developer must accept the rules of Tickets first: then set rules_accepted", ["rules_accepted"]
            )
        versioned = await self._integrations.apply_for(
            caller().on_behalf_of(request.owner_user_id),
            convert.profile(request),
            convert.scope_requests(request.scopes),
        )
        return directory_service_pb2.SubmitApplicationResponse(
            integration=convert.integration(versioned, self._registry)
        )

    async def InstallIntegration(
        self, request: directory_service_pb2.InstallIntegrationRequest, context: Context
    ) -> directory_service_pb2.InstallIntegrationResponse:
        """Record that a guild consents to an integration."""
        by = caller().on_behalf_of(request.acting_user_id)
        agreed = frozenset(request.agreed_scopes)
        record = await self._consents.install(
            by, request.integration_id, int(request.guild_id), agreed, self._integrations.charge
        )
        return directory_service_pb2.InstallIntegrationResponse(
            installation=convert.installation(record) if record is not None else None
        )

    async def UninstallIntegration(
        self, request: directory_service_pb2.UninstallIntegrationRequest, context: Context
    ) -> directory_service_pb2.UninstallIntegrationResponse:
        """Record that a guild withdraws its consent."""
        by = caller().on_behalf_of(request.acting_user_id)
        await self._consents.uninstall(by, request.integration_id, int(request.guild_id))
        return directory_service_pb2.UninstallIntegrationResponse()

    async def ListGuildIntegrations(
        self, request: directory_service_pb2.ListGuildIntegrationsRequest, context: Context
    ) -> directory_service_pb2.ListGuildIntegrationsResponse:
        """List the integrations that receive the events of a guild."""
        return await self._guilds.page(request)

    async def SetGuildSharing(
        self, request: directory_service_pb2.SetGuildSharingRequest, context: Context
    ) -> directory_service_pb2.SetGuildSharingResponse:
        """End the delivery of a guild's events to everybody, or allow it again."""
        by, sharing = caller().on_behalf_of(request.acting_user_id), GuildSharing(request.sharing)
        charge = self._integrations.charge if sharing is GuildSharing.ON else None  # ending it is never refused
        await self._consents.share(by, int(request.guild_id), sharing, charge)
        return directory_service_pb2.SetGuildSharingResponse(sharing=request.sharing)

    async def ListInstallations(
        self, request: directory_service_pb2.ListInstallationsRequest, context: Context
    ) -> directory_service_pb2.ListInstallationsResponse:
        """List installations, of one guild, of one integration or of all."""
        guild_id = int(request.guild_id) if request.guild_id else 0
        listing = ("installations", request.integration_id, request.guild_id)
        after = self._pages.after(request.page_token, *listing)

        def following(place: tuple[str, int] | None, limit: int) -> list[InstallationRecord]:
            return self._registry.installations.after(place or ("", 0), limit, request.integration_id, guild_id)

        def place(record: InstallationRecord) -> tuple[str, int]:
            return record.integration_id, record.guild_id

        found = self._pages.scans.walk(following, place, (str(after[0]), int(after[1])) if after else None)
        page, token = await self._pages.page(found, convert.installation, place, request, *listing)
        return directory_service_pb2.ListInstallationsResponse(installations=page, next_page_token=token)
