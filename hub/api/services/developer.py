"""DeveloperService: what the developer of an integration may do without an admin, with its key or through the bot."""

import secrets
from bisect import bisect_right
from functools import partial

from tickets.hub.v1 import (
    developer_service_pb2,
    developer_service_pb2_grpc,
    event_pb2,
    integration_pb2,
    permissions_pb2,
)

from hub import permissions as table
from hub.api import convert, endpoint_messages
from hub.api.access import caller
from hub.api.paging import Pages, age
from hub.api.services.ownership import Ownership
from hub.api.status import Context
from hub.api.validation import below
from hub.clock import Clock
from hub.control import lifecycle
from hub.control.integrations import PROFILE, Integrations
from hub.control.registry import Registry
from hub.control.transactions import Changes
from hub.control.versioned import Versioned
from hub.delivery.encoding import masked
from hub.delivery.streams import Streams
from hub.delivery.view import Narrowing
from hub.errors import InvalidRequest
from hub.model import Entry, GuildAccess, IntegrationRecord, OversightRecord, Role


class DeveloperService(developer_service_pb2_grpc.DeveloperServiceServicer):
    """The contract's DeveloperService."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self,
        registry: Registry,
        changes: Changes,
        streams: Streams,
        integrations: Integrations,
        pages: Pages,
        clock: Clock,
    ) -> None:
        self._registry = registry
        self._changes = changes
        self._streams = streams
        self._integrations = integrations
        self._pages = pages
        self._clock = clock
        self._ownership = Ownership(registry)

    async def GetOwnIntegration(
        self, request: developer_service_pb2.GetOwnIntegrationRequest, context: Context
    ) -> developer_service_pb2.GetOwnIntegrationResponse:
        """Return the integration."""
        _, own = self._ownership.own(request.integration_id, request.acting_user_id)
        return developer_service_pb2.GetOwnIntegrationResponse(integration=convert.integration(own, self._registry))

    async def ListOwnIntegrations(
        self, request: developer_service_pb2.ListOwnIntegrationsRequest, context: Context
    ) -> developer_service_pb2.ListOwnIntegrationsResponse:
        """List the integrations of one owner, and their endpoints; an integration's own key lists that one."""
        by = caller()
        if by.role is Role.BOT and not request.acting_user_id:
            raise InvalidRequest.field("acting_user_id", "is required: the owner for whom the bot speaks")
        ids = self._registry.catalog.owned_by(request.acting_user_id) if by.role is Role.BOT else [by.integration_id]
        listing = ("own", by.integration_id or request.acting_user_id)
        after = self._pages.after(request.page_token, *listing)
        owned = sorted(map(self._registry.integration, ids), key=age)

        def following(place: tuple[int, str] | None, limit: int) -> list[Versioned[IntegrationRecord]]:
            start = bisect_right(owned, place, key=age) if place else 0
            return owned[start : start + limit]

        found = self._pages.scans.walk(following, age, (int(after[0]), str(after[1])) if after else None)
        page, token = await self._pages.page(
            found,
            lambda one: convert.integration(one, self._registry),
            age,
            request,
            *listing,
            beside=self._endpoints_of,
        )
        endpoints = [endpoint for one in page for endpoint in self._endpoints_of(one)]
        return developer_service_pb2.ListOwnIntegrationsResponse(
            integrations=page, next_page_token=token, endpoints=endpoints
        )

    def _endpoints_of(self, shown: integration_pb2.Integration) -> list[developer_service_pb2.OwnEndpoint]:
        """The states of an integration's endpoints."""
        return [endpoint_messages.own(found.record) for found in self._registry.endpoints.of(shown.integration_id)]

    async def UpdateProfile(
        self, request: developer_service_pb2.UpdateProfileRequest, context: Context
    ) -> developer_service_pb2.UpdateProfileResponse:
        """Change texts and links."""
        new = request.integration
        if request.integration_id and new.integration_id not in ("", request.integration_id):
            raise InvalidRequest.field(
                "integration.integration_id", "differs from integration_id: name one integration"
            )
        by, own = self._ownership.change(request.integration_id or new.integration_id, request.acting_user_id)
        fields = convert.updates(new, request.update_mask, PROFILE)
        intent = self._ownership.intent(by, request.etag or new.etag)
        changed = await self._integrations.update(intent, own.record.integration_id, fields)
        return developer_service_pb2.UpdateProfileResponse(integration=convert.integration(changed, self._registry))

    async def RotateOwnKey(
        self, request: developer_service_pb2.RotateOwnKeyRequest, context: Context
    ) -> developer_service_pb2.RotateOwnKeyResponse:
        """Add a key: the first one after an approval, later one that replaces the others."""
        by, own = self._ownership.change(request.integration_id, request.acting_user_id)
        rotated = await self._integrations.rotate(
            self._ownership.intent(by, request.etag),
            own.record.integration_id,
            convert.optional_span(request, "overlap"),
            convert.optional_micros(request, "expire_time"),
        )
        return developer_service_pb2.RotateOwnKeyResponse(
            key=convert.key(rotated.minted.record, self._registry, rotated.minted.text),
            previous_keys=convert.keys(rotated.previous, self._registry),
        )

    async def RevokeOwnKey(
        self, request: developer_service_pb2.RevokeOwnKeyRequest, context: Context
    ) -> developer_service_pb2.RevokeOwnKeyResponse:
        """End a key. A blocked developer may do this, too."""
        by, own = self._ownership.own(request.integration_id, request.acting_user_id)
        intent = self._ownership.intent(by, request.etag, blocked=True)
        key = await self._integrations.revoke(intent, own.record.integration_id, request.key_id)
        return developer_service_pb2.RevokeOwnKeyResponse(key=convert.key(key, self._registry))

    async def ListOwnKeys(
        self, request: developer_service_pb2.ListOwnKeysRequest, context: Context
    ) -> developer_service_pb2.ListOwnKeysResponse:
        """List the keys without their texts."""
        _, own = self._ownership.own(request.integration_id, request.acting_user_id)
        return developer_service_pb2.ListOwnKeysResponse(keys=convert.keys(own.record.keys, self._registry))

    async def RequestScopes(
        self, request: developer_service_pb2.RequestScopesRequest, context: Context
    ) -> developer_service_pb2.RequestScopesResponse:
        """Request more scopes."""
        by, own = self._ownership.change(request.integration_id, request.acting_user_id)
        decide = partial(lifecycle.request_scopes, requests=convert.scope_requests(request.scopes))
        changed = await self._integrations.change(
            self._ownership.intent(by, request.etag), own.record.integration_id, decide
        )
        return developer_service_pb2.RequestScopesResponse(integration=convert.integration(changed, self._registry))

    async def PreviewEvent(
        self, request: developer_service_pb2.PreviewEventRequest, context: Context
    ) -> developer_service_pb2.PreviewEventResponse:
        """Show a sample event as the integration would receive it, and what would be withheld."""
        _, own = self._ownership.overseen(request.integration_id, request.acting_user_id)
        entry = self._sample(request.event)
        projection = self._streams.views.of(own.record.integration_id).at(entry.position, Narrowing()).final
        mask = projection.mask(entry)
        return developer_service_pb2.PreviewEventResponse(
            delivered=mask is not None,
            event=masked(entry, mask) if mask is not None else None,
            withheld=missing(entry, own.record, projection.scopes_for(entry)),
        )

    async def SendTestEvent(
        self, request: developer_service_pb2.SendTestEventRequest, context: Context
    ) -> developer_service_pb2.SendTestEventResponse:
        """Send a test event to the integration's open streams, through its view; it is not stored."""
        by, own = self._ownership.overseen(request.integration_id, request.acting_user_id)
        integration_id = own.record.integration_id
        self._registry.require_open(integration_id)
        request.event.id = f"test-{secrets.token_hex(8)}"
        entry = self._sample(request.event, test=True)
        if by.role is Role.ADMIN:
            await self._changes.oversee(by, OversightRecord(integration_id, "send_test_event"))
        return developer_service_pb2.SendTestEventResponse(
            stream_count=self._streams.send_test(integration_id, entry), event_id=entry.id
        )

    def _sample(self, event: event_pb2.Event, *, test: bool = False) -> Entry:
        """A sample event as the next entry of the log."""
        try:
            return convert.event_entry(event, self._clock.now(), position=self._registry.through + 1, test=test)
        except InvalidRequest as error:
            raise below("event", error) from None


def missing(entry: Entry, record: IntegrationRecord, counting: frozenset[int]) -> list[developer_service_pb2.Withheld]:
    """The fields of an event that these scopes withhold, and what would show them: other scopes, or the guild."""
    payload = table.PAYLOADS[entry.event_type]
    granted = frozenset(grant.scope for grant in record.grants)
    withheld = payload.withheld(counting)
    lacking = (
        [(payload.name, payload.delivered_to)]
        if withheld is None
        else [(f"{payload.name}.{name}", frozenset({payload.requires[name]})) for name in sorted(withheld)]
    )
    return [
        developer_service_pb2.Withheld(
            field=field,
            scopes=[permissions_pb2.Scope.ValueType(scope) for scope in sorted(scopes)],
            reason=why(record, bool(granted & scopes)),
        )
        for field, scopes in lacking
    ]


def why(record: IntegrationRecord, is_granted: bool) -> str:  # noqa: FBT001  the one fact that it depends on
    """Why a field is withheld."""
    if not is_granted:
        return "none of these scopes is granted: ask for one with RequestScopes"
    if record.guild_access is GuildAccess.INSTALLED:
        return "the guild has not installed the integration, or has not agreed to this"
    return ""
