"""DirectoryService: what there is to be granted, found and installed, and how developers apply."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace
from tickets.hub.v1 import directory_service_pb2, directory_service_pb2_grpc, permissions_pb2

from hub import scopes as table
from hub.api import convert
from hub.api.access import caller
from hub.api.commands import Commands
from hub.api.failures import Context
from hub.api.paging import Pages
from hub.clock import Clock
from hub.config import Settings
from hub.control import lifecycle
from hub.control.changes import Changes
from hub.control.registry import Registry
from hub.errors import RulesNotMet, ScopeNotGranted, TooManyInstallations
from hub.model import AgreedScope, Caller, InstallationRecord, IntegrationRecord, State


class DirectoryService(directory_service_pb2_grpc.DirectoryServiceServicer):
    """The contract's DirectoryService."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self,
        registry: Registry,
        changes: Changes,
        commands: Commands,
        pages: Pages,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._changes = changes
        self._commands = commands
        self._pages = pages
        self._settings = settings
        self._clock = clock
        self._installing: defaultdict[str, Counter[int]] = defaultdict(Counter)

    async def ListScopes(  # noqa: N802  the contract's names
        self, request: directory_service_pb2.ListScopesRequest, context: Context
    ) -> directory_service_pb2.ListScopesResponse:
        """The permission table, by scope."""
        del request, context
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

    async def FindIntegrations(  # noqa: N802
        self, request: directory_service_pb2.FindIntegrationsRequest, context: Context
    ) -> directory_service_pb2.FindIntegrationsResponse:
        """The open ones that hold every word of the query."""
        del context
        words, scopes = request.query.casefold().split(), frozenset(request.scopes)

        def test(record: IntegrationRecord) -> bool:
            text = f"{record.display_name}\n{record.description}".casefold()
            return (
                self._is_listed(record)
                and all(word in text for word in words)
                and (not scopes or any(grant.scope in scopes for grant in record.grants))
            )

        listing = ("directory", request.query, ",".join(str(scope) for scope in sorted(scopes)))
        page, token = self._pages.by_age(self._registry, test, request, *listing)
        return directory_service_pb2.FindIntegrationsResponse(
            integrations=[
                convert.directory_entry(held.record, self._registry.installations.count(held.record.integration_id))
                for held in page
            ],
            next_page_token=token,
        )

    async def SubmitApplication(  # noqa: N802
        self, request: directory_service_pb2.SubmitApplicationRequest, context: Context
    ) -> directory_service_pb2.SubmitApplicationResponse:
        """An integration that waits for an admin's decision."""
        del context
        if not request.rules_accepted:
            raise RulesNotMet(
                "the developer has to accept the rules of Tickets first: then send rules_accepted", ["rules_accepted"]
            )
        wanted = convert.scope_requests(request.scopes)
        lifecycle.grants(wanted, 0, "")
        record = replace(
            self._commands.record(request, State.PENDING, self._clock.now()),
            requested_scopes=wanted,
            rules_version=self._settings.rules_version,
        )
        held = await self._commands.create(acting(caller(), request.owner_user_id), record)
        return directory_service_pb2.SubmitApplicationResponse(integration=convert.integration(held, self._registry))

    async def InstallIntegration(  # noqa: N802
        self, request: directory_service_pb2.InstallIntegrationRequest, context: Context
    ) -> directory_service_pb2.InstallIntegrationResponse:
        """A guild's consent, kept."""
        del context
        by = acting(caller(), request.acting_user_id)
        self._commands.charge(by)
        guild_id, now = int(request.guild_id), self._clock.now()

        def decide() -> tuple[InstallationRecord | None, InstallationRecord]:
            record = self._registry.require_open(request.integration_id, say_why=False)
            before = self._registry.installations.record(request.integration_id, guild_id)
            if before is None:
                self._require_room(request.integration_id, guild_id)
            held = {scope.scope: scope for scope in before.agreed} if before else {}
            chosen = chosen_scopes(record, frozenset(request.agreed_scopes))
            after = InstallationRecord(
                integration_id=request.integration_id,
                guild_id=guild_id,
                acting_user_id=request.acting_user_id,
                install_time=before.install_time if before else now,
                agree_time=now,
                agreed=tuple(held.get(scope, AgreedScope(scope)) for scope in sorted(chosen)),
            )
            return before, after

        with self._being_installed(request.integration_id, guild_id):
            await self._changes.installation(by, f"installation/{request.integration_id}/{guild_id}", decide)
        record = self._registry.installations.record(request.integration_id, guild_id)
        return directory_service_pb2.InstallIntegrationResponse(
            installation=convert.installation(record) if record is not None else None
        )

    async def UninstallIntegration(  # noqa: N802
        self, request: directory_service_pb2.UninstallIntegrationRequest, context: Context
    ) -> directory_service_pb2.UninstallIntegrationResponse:
        """A guild's consent, taken back."""
        del context
        self._registry.integration(request.integration_id)
        guild_id = int(request.guild_id)

        def decide() -> tuple[InstallationRecord | None, InstallationRecord | None]:
            before = self._registry.installations.record(request.integration_id, guild_id)
            if before is None:
                return None, None
            return before, replace(
                before, installed=False, agreed=(), acting_user_id=request.acting_user_id, agree_time=self._clock.now()
            )

        await self._changes.installation(
            acting(caller(), request.acting_user_id), f"installation/{request.integration_id}/{guild_id}", decide
        )
        return directory_service_pb2.UninstallIntegrationResponse()

    async def ListInstallations(  # noqa: N802
        self, request: directory_service_pb2.ListInstallationsRequest, context: Context
    ) -> directory_service_pb2.ListInstallationsResponse:
        """Who installed what."""
        del context
        size = self._pages.size(request.page_size)
        listing = ("installations", request.integration_id, request.guild_id)
        after = self._pages.after(request.page_token, *listing)
        place = (str(after[0]), int(after[1])) if after else ("", 0)
        found = self._registry.installations.after(
            place, size + 1, request.integration_id, int(request.guild_id) if request.guild_id else 0
        )
        page = found[:size]
        more = len(found) > size
        token = self._pages.token((page[-1].integration_id, page[-1].guild_id), *listing) if more else ""
        return directory_service_pb2.ListInstallationsResponse(
            installations=[convert.installation(record) for record in page], next_page_token=token
        )

    def _is_listed(self, record: IntegrationRecord) -> bool:
        return (
            record.state is State.ACTIVE
            and bool(record.documentation_url)
            and not self._registry.is_blocked(record.owner_user_id)
        )

    @contextmanager
    def _being_installed(self, integration_id: str, guild_id: int) -> Iterator[None]:
        """Count a guild that is being added: many at once do not slip past the limit."""
        guilds = self._installing[integration_id]
        guilds[guild_id] += 1
        try:
            yield
        finally:
            guilds[guild_id] -= 1
            if not guilds[guild_id]:
                del guilds[guild_id]
            if not guilds:
                self._installing.pop(integration_id, None)

    def _require_room(self, integration_id: str, guild_id: int) -> None:
        limit, installed = self._settings.max_installations, self._registry.installations
        others = (guild for guild in self._installing[integration_id] if guild != guild_id)
        adding = sum(installed.record(integration_id, guild) is None for guild in others)
        if installed.count(integration_id) + adding >= limit:
            raise TooManyInstallations(
                f"{limit} guilds have installed this integration: no more may", metadata={"limit": str(limit)}
            )


def acting(by: Caller, user_id: str) -> Caller:
    """The caller, speaking for a Discord user."""
    return replace(by, user_id=user_id)


def chosen_scopes(record: IntegrationRecord, agreed: frozenset[int]) -> frozenset[int]:
    """The scopes that a guild agrees to; none named = all that are granted now.

    Raises:
        ScopeNotGranted: one of them is not granted.
    """
    granted = frozenset(grant.scope for grant in record.grants)
    if agreed - granted:
        names = table.names_of(agreed - granted)
        raise ScopeNotGranted(
            f"the integration does not have: {names}; a guild can agree only to what is granted",
            metadata={"scopes": names.replace(" ", "")},
        )
    return agreed or granted
