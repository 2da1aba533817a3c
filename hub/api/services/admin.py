"""AdminService: turns requests into changes (``control/``) and lists, and results into responses."""

from functools import partial
from typing import Protocol

from tickets.hub.v1 import admin_service_pb2, admin_service_pb2_grpc, hub_status_pb2, integration_pb2

from hub.api import convert, filters
from hub.api.access import caller
from hub.api.masks import masked
from hub.api.paging import Pages
from hub.api.services.admin_audit import AuditTrail
from hub.api.services.admin_blocks import Blocks
from hub.api.services.admin_reports import Reports
from hub.api.services.hub_status import HubWatch
from hub.api.status import Context
from hub.api.validation import check
from hub.clock import Clock
from hub.control import lifecycle
from hub.control.integrations import UPDATABLE, Integrations
from hub.control.readers import END_STREAM
from hub.control.registry import Registry
from hub.control.service_keys import ServiceKeys
from hub.control.transactions import Changes, DecideIntegration, Intent
from hub.errors import InvalidRequest
from hub.model import IntegrationRecord, OversightRecord, Role


class Decision(Protocol):
    """The fields that requests with a decision about an integration share."""

    integration_id: str
    reason: str
    etag: str


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    """The contract's AdminService."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self,
        registry: Registry,
        changes: Changes,
        integrations: Integrations,
        service_keys: ServiceKeys,
        blocks: Blocks,
        trail: AuditTrail,
        reports: Reports,
        pages: Pages,
        watch: HubWatch,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._changes = changes
        self._integrations = integrations
        self._service_keys = service_keys
        self._blocks = blocks
        self._trail = trail
        self._reports = reports
        self._pages = pages
        self._watch = watch
        self._clock = clock

    async def WatchHub(  # type: ignore[override]  # it writes its messages instead of yielding them
        self, request: hub_status_pb2.WatchHubRequest, context: Context
    ) -> None:
        """Stream the status of this replica."""
        await self._watch.write(request, context)

    async def status(self, request: hub_status_pb2.WatchHubRequest, context: object) -> hub_status_pb2.HubStatus:
        """WatchHub for callers that poll: the current message."""
        return await self._watch.current()

    async def RegisterIntegration(
        self, request: admin_service_pb2.RegisterIntegrationRequest, context: Context
    ) -> admin_service_pb2.RegisterIntegrationResponse:
        """Add an integration that is ACTIVE, with its first key."""
        minted, versioned = await self._integrations.register(
            caller(),
            convert.profile(request),
            convert.scope_requests(request.scopes),
            convert.optional_micros(request, "key_expire_time"),
        )
        return admin_service_pb2.RegisterIntegrationResponse(
            integration=convert.integration(versioned, self._registry),
            key=convert.key(minted.record, self._registry, minted.text),
        )

    async def GetIntegration(
        self, request: admin_service_pb2.GetIntegrationRequest, context: Context
    ) -> admin_service_pb2.GetIntegrationResponse:
        """Return one integration."""
        versioned = self._registry.integration(request.integration_id)
        return admin_service_pb2.GetIntegrationResponse(integration=convert.integration(versioned, self._registry))

    async def ListIntegrations(
        self, request: admin_service_pb2.ListIntegrationsRequest, context: Context
    ) -> admin_service_pb2.ListIntegrationsResponse:
        """List integrations that pass a filter, the oldest first."""
        test = filters.parse(request.filter, self._registry.catalog.search_texts.of)
        show = partial(convert.integration, registry=self._registry)
        listing = ("integrations", request.filter)
        page, token = await self._pages.by_age(self._registry, test, show, request, *listing)
        return admin_service_pb2.ListIntegrationsResponse(integrations=page, next_page_token=token)

    async def UpdateIntegration(
        self, request: admin_service_pb2.UpdateIntegrationRequest, context: Context
    ) -> admin_service_pb2.UpdateIntegrationResponse:
        """Change texts, links, owner or guild access."""
        new = request.integration
        if not new.integration_id:
            raise InvalidRequest.field("integration.integration_id", "is required")
        fields = convert.updates(new, request.update_mask, UPDATABLE)
        intent = Intent(caller(), request.reason, request.etag or new.etag)
        versioned = await self._integrations.update(intent, new.integration_id, fields)
        return admin_service_pb2.UpdateIntegrationResponse(integration=convert.integration(versioned, self._registry))

    async def ApproveIntegration(
        self, request: admin_service_pb2.ApproveIntegrationRequest, context: Context
    ) -> admin_service_pb2.ApproveIntegrationResponse:
        """Grant some or all of the requested scopes."""

        def decide(record: IntegrationRecord) -> IntegrationRecord:
            now, grantor = self._clock.now(), caller().key_id
            return lifecycle.approve(record, request.scopes, request.reason, now, grantor)

        return admin_service_pb2.ApproveIntegrationResponse(integration=await self._decide(request, decide))

    async def RejectIntegration(
        self, request: admin_service_pb2.RejectIntegrationRequest, context: Context
    ) -> admin_service_pb2.RejectIntegrationResponse:
        """Refuse some or all of the requested scopes."""

        def decide(record: IntegrationRecord) -> IntegrationRecord:
            return lifecycle.reject(record, request.scopes, request.reason, self._clock.now())

        return admin_service_pb2.RejectIntegrationResponse(integration=await self._decide(request, decide))

    async def SuspendIntegration(
        self, request: admin_service_pb2.SuspendIntegrationRequest, context: Context
    ) -> admin_service_pb2.SuspendIntegrationResponse:
        """Suspend an integration."""
        decide = partial(lifecycle.suspend, reason=request.reason)
        return admin_service_pb2.SuspendIntegrationResponse(integration=await self._decide(request, decide))

    async def ResumeIntegration(
        self, request: admin_service_pb2.ResumeIntegrationRequest, context: Context
    ) -> admin_service_pb2.ResumeIntegrationResponse:
        """Resume a suspended integration."""

        def decide(record: IntegrationRecord) -> IntegrationRecord:
            return lifecycle.resume(record, request.reason, self._clock.now())

        return admin_service_pb2.ResumeIntegrationResponse(integration=await self._decide(request, decide))

    async def DeleteIntegration(
        self, request: admin_service_pb2.DeleteIntegrationRequest, context: Context
    ) -> admin_service_pb2.DeleteIntegrationResponse:
        """Delete an integration for good."""
        decide = partial(lifecycle.delete, reason=request.reason)
        return admin_service_pb2.DeleteIntegrationResponse(integration=await self._decide(request, decide))

    async def SetScopes(
        self, request: admin_service_pb2.SetScopesRequest, context: Context
    ) -> admin_service_pb2.SetScopesResponse:
        """Grant exactly these scopes."""
        wanted = convert.scope_requests(request.scopes)

        def decide(record: IntegrationRecord) -> IntegrationRecord:
            return lifecycle.set_scopes(record, wanted, self._clock.now(), caller().key_id)

        return admin_service_pb2.SetScopesResponse(integration=await self._decide(request, decide))

    async def RotateKey(
        self, request: admin_service_pb2.RotateKeyRequest, context: Context
    ) -> admin_service_pb2.RotateKeyResponse:
        """Add a key that replaces the others."""
        rotated = await self._integrations.rotate(
            Intent(caller(), request.reason, request.etag),
            request.integration_id,
            convert.optional_span(request, "overlap"),
            convert.optional_micros(request, "expire_time"),
        )
        return admin_service_pb2.RotateKeyResponse(
            key=convert.key(rotated.minted.record, self._registry, rotated.minted.text),
            previous_keys=convert.keys(rotated.previous, self._registry),
        )

    async def RevokeKey(
        self, request: admin_service_pb2.RevokeKeyRequest, context: Context
    ) -> admin_service_pb2.RevokeKeyResponse:
        """End a key of an integration, or a service key."""
        if request.integration_id:
            intent = Intent(caller(), request.reason, request.etag)
            key = await self._integrations.revoke(intent, request.integration_id, request.key_id)
        else:
            key = await self._service_keys.revoke(Intent(caller(), request.reason), request.key_id)
        return admin_service_pb2.RevokeKeyResponse(key=convert.key(key, self._registry))

    async def ListKeys(
        self, request: admin_service_pb2.ListKeysRequest, context: Context
    ) -> admin_service_pb2.ListKeysResponse:
        """List the keys of an integration, or the service keys, without their texts."""
        keys = self._registry.keys_of(request.integration_id)
        return admin_service_pb2.ListKeysResponse(keys=convert.keys(keys, self._registry))

    async def CreateServiceKey(
        self, request: admin_service_pb2.CreateServiceKeyRequest, context: Context
    ) -> admin_service_pb2.CreateServiceKeyResponse:
        """Add a key for a bot or an admin."""
        minted = await self._service_keys.create(
            Intent(caller(), request.reason),
            Role(request.role),
            request.display_name,
            convert.optional_micros(request, "expire_time"),
        )
        return admin_service_pb2.CreateServiceKeyResponse(key=convert.key(minted.record, self._registry, minted.text))

    async def UpdateServiceKey(
        self, request: admin_service_pb2.UpdateServiceKeyRequest, context: Context
    ) -> admin_service_pb2.UpdateServiceKeyResponse:
        """Give a service key another name."""
        new = request.key
        if not new.key_id:
            raise InvalidRequest.field("key.key_id", "is required")
        names = masked(new, request.update_mask, ("display_name",))
        check(new, "key", ["key_id", *names])
        intent, name = Intent(caller(), request.reason), new.display_name if names else None
        key = await self._service_keys.rename(intent, new.key_id, name)
        return admin_service_pb2.UpdateServiceKeyResponse(key=convert.key(key, self._registry))

    async def BlockDeveloper(
        self, request: admin_service_pb2.BlockDeveloperRequest, context: Context
    ) -> admin_service_pb2.BlockDeveloperResponse:
        """Block a developer, which closes all their integrations."""
        return await self._blocks.block(request)

    async def BatchBlockDevelopers(
        self, request: admin_service_pb2.BatchBlockDevelopersRequest, context: Context
    ) -> admin_service_pb2.BatchBlockDevelopersResponse:
        """Block several developers, all or none."""
        return await self._blocks.batch_block(request)

    async def UnblockDeveloper(
        self, request: admin_service_pb2.UnblockDeveloperRequest, context: Context
    ) -> admin_service_pb2.UnblockDeveloperResponse:
        """Unblock a developer."""
        return await self._blocks.unblock(request)

    async def ListBlockedDevelopers(
        self, request: admin_service_pb2.ListBlockedDevelopersRequest, context: Context
    ) -> admin_service_pb2.ListBlockedDevelopersResponse:
        """List the blocked developers."""
        return await self._blocks.page(request)

    async def GetPrivilegeReport(
        self, request: admin_service_pb2.GetPrivilegeReportRequest, context: Context
    ) -> admin_service_pb2.GetPrivilegeReportResponse:
        """List what is granted and not needed."""
        return await self._reports.privileges(request)

    async def ListSubscriptions(
        self, request: admin_service_pb2.ListSubscriptionsRequest, context: Context
    ) -> admin_service_pb2.ListSubscriptionsResponse:
        """List subscriptions, and how far behind they are."""
        return await self._reports.subscriptions(request)

    async def ListAuditEntries(
        self, request: admin_service_pb2.ListAuditEntriesRequest, context: Context
    ) -> admin_service_pb2.ListAuditEntriesResponse:
        """List changes, the newest first."""
        return await self._trail.page(request)

    async def EndStream(
        self, request: admin_service_pb2.EndStreamRequest, context: Context
    ) -> admin_service_pb2.EndStreamResponse:
        """End the stream of a subscription, at whichever replica it is."""
        subscription_id = request.subscription_id or convert.DEFAULT_SUBSCRIPTION
        self._registry.integration(request.integration_id)
        self._registry.readers.require(request.integration_id, subscription_id)
        record = OversightRecord(request.integration_id, END_STREAM, subscription_id)
        await self._changes.oversee(caller(), record, request.reason)
        return admin_service_pb2.EndStreamResponse()

    async def _decide(self, request: Decision, decide: DecideIntegration) -> integration_pb2.Integration:
        intent = Intent(caller(), request.reason, request.etag)
        versioned = await self._integrations.change(intent, request.integration_id, decide)
        return convert.integration(versioned, self._registry)
