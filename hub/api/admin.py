"""AdminService: requests become decisions (``control/``), and their results replies.

Must not know how a decision is made or kept.
"""

from collections.abc import Callable

import msgspec
from google.protobuf.field_mask_pb2 import FieldMask
from msgspec.structs import replace
from tickets.hub.v1 import admin_service_pb2, admin_service_pb2_grpc, integration_pb2

from hub.api import convert, filters
from hub.api.access import caller, check
from hub.api.failures import Context
from hub.api.listing import SubscriptionList
from hub.api.paging import Pages
from hub.clock import Clock
from hub.config import Settings
from hub.control import keys, lifecycle
from hub.control.changes import Changes
from hub.control.registry import Held, Registry
from hub.errors import InvalidRequest, RulesNotMet
from hub.model import Change, IntegrationRecord, KeyRecord, Role, ServiceRecord, State
from hub.storage import Log

UPDATABLE = (
    "display_name",
    "description",
    "owner_user_id",
    "documentation_url",
    "support_url",
    "endpoint_url",
    "guild_access",
)
"""What an update mask may name."""

_change = msgspec.json.Decoder(Change)


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    """The contract's AdminService."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self,
        log: Log,
        registry: Registry,
        changes: Changes,
        shown: SubscriptionList,
        pages: Pages,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._shown = shown
        self._log = log
        self._registry = registry
        self._changes = changes
        self._pages = pages
        self._settings = settings
        self._clock = clock

    async def RegisterIntegration(  # noqa: N802  the contract's names
        self, request: admin_service_pb2.RegisterIntegrationRequest, context: Context
    ) -> admin_service_pb2.RegisterIntegrationResponse:
        """A new integration, ACTIVE, with its first key."""
        del context
        now, by = self._clock.now(), caller()
        minted = keys.mint(Role.INTEGRATION, self._registry.pepper, now)
        record = IntegrationRecord(
            integration_id=keys.random_text(keys.ID_LENGTH),
            display_name=request.display_name,
            description=request.description,
            owner_user_id=request.owner_user_id,
            documentation_url=request.documentation_url,
            support_url=request.support_url,
            endpoint_url=request.endpoint_url,
            guild_access=convert.guild_access(request.guild_access, self._settings.guild_access),
            create_time=now,
            update_time=now,
            state=State.ACTIVE,
            grants=lifecycle.grants(convert.scope_requests(request.scopes), now, by.key_id),
            keys=(minted.record,),
        )
        held = await self._changes.new_integration(by, record)
        return admin_service_pb2.RegisterIntegrationResponse(
            integration=convert.integration(held), key=convert.key(minted.record, self._registry, minted.text)
        )

    async def GetIntegration(  # noqa: N802
        self, request: admin_service_pb2.GetIntegrationRequest, context: Context
    ) -> admin_service_pb2.GetIntegrationResponse:
        """One integration."""
        del context
        held = self._registry.integration(request.integration_id)
        return admin_service_pb2.GetIntegrationResponse(integration=convert.integration(held))

    async def ListIntegrations(  # noqa: N802
        self, request: admin_service_pb2.ListIntegrationsRequest, context: Context
    ) -> admin_service_pb2.ListIntegrationsResponse:
        """A page of integrations, by age."""
        del context
        test = filters.parse(request.filter)
        size = self._pages.size(request.page_size)
        after = self._pages.after(request.page_token, "integrations", request.filter)
        found = self._registry.integrations_after((int(after[0]), str(after[1])) if after else None, test, size + 1)
        page = found[:size]
        more = len(found) > size
        last = (page[-1].record.create_time, page[-1].record.integration_id) if more else ()
        return admin_service_pb2.ListIntegrationsResponse(
            integrations=[convert.integration(held) for held in page],
            next_page_token=self._pages.token(last, "integrations", request.filter) if more else "",
        )

    async def UpdateIntegration(  # noqa: N802
        self, request: admin_service_pb2.UpdateIntegrationRequest, context: Context
    ) -> admin_service_pb2.UpdateIntegrationResponse:
        """Other texts, URLs, owner or guild access."""
        del context
        new = request.integration
        names = masked(new, request.update_mask)

        def decide(record: IntegrationRecord) -> IntegrationRecord:
            lifecycle.require("update", record)
            merged = convert.integration(Held(record, 0))
            for name in names:
                setattr(merged, name, getattr(new, name))
            check(merged, "integration")
            fields = {name: getattr(merged, name) for name in UPDATABLE}
            fields["guild_access"] = convert.guild_access(merged.guild_access, self._settings.guild_access)
            return replace(record, **fields)

        etag = request.etag or new.etag
        return admin_service_pb2.UpdateIntegrationResponse(
            integration=await self._decided(new.integration_id, decide, request.reason, etag)
        )

    async def SuspendIntegration(  # noqa: N802
        self, request: admin_service_pb2.SuspendIntegrationRequest, context: Context
    ) -> admin_service_pb2.SuspendIntegrationResponse:
        """Closed for now."""
        del context
        return admin_service_pb2.SuspendIntegrationResponse(
            integration=await self._decided(
                request.integration_id,
                lambda record: lifecycle.suspend(record, request.reason),
                request.reason,
                request.etag,
            )
        )

    async def ResumeIntegration(  # noqa: N802
        self, request: admin_service_pb2.ResumeIntegrationRequest, context: Context
    ) -> admin_service_pb2.ResumeIntegrationResponse:
        """Open again."""
        del context
        return admin_service_pb2.ResumeIntegrationResponse(
            integration=await self._decided(
                request.integration_id,
                lambda record: lifecycle.resume(record, request.reason),
                request.reason,
                request.etag,
            )
        )

    async def DeleteIntegration(  # noqa: N802
        self, request: admin_service_pb2.DeleteIntegrationRequest, context: Context
    ) -> admin_service_pb2.DeleteIntegrationResponse:
        """Ended for good."""
        del context
        return admin_service_pb2.DeleteIntegrationResponse(
            integration=await self._decided(
                request.integration_id,
                lambda record: lifecycle.delete(record, request.reason),
                request.reason,
                request.etag,
            )
        )

    async def SetScopes(  # noqa: N802
        self, request: admin_service_pb2.SetScopesRequest, context: Context
    ) -> admin_service_pb2.SetScopesResponse:
        """Exactly these scopes."""
        del context
        wanted, by = convert.scope_requests(request.scopes), caller()
        return admin_service_pb2.SetScopesResponse(
            integration=await self._decided(
                request.integration_id,
                lambda record: lifecycle.set_scopes(record, wanted, self._clock.now(), by.key_id),
                request.reason,
                request.etag,
            )
        )

    async def RotateKey(  # noqa: N802
        self, request: admin_service_pb2.RotateKeyRequest, context: Context
    ) -> admin_service_pb2.RotateKeyResponse:
        """A new key in place of the others."""
        del context
        minted = keys.mint(Role.INTEGRATION, self._registry.pepper, self._clock.now())
        asked = convert.seconds(request.overlap) if request.HasField("overlap") else self._settings.key_overlap

        def decide(record: IntegrationRecord) -> IntegrationRecord:
            lifecycle.require("rotate_key", record)
            return replace(
                record,
                keys=keys.rotate(
                    record.keys,
                    minted.record,
                    round(asked * convert.MICROS),
                    self._clock.now(),
                    is_live=self._registry.is_live,
                    was_used=self._registry.was_used,
                    max_live=self._settings.max_live_keys,
                ),
            )

        held = await self._changes.integration(
            caller(), request.integration_id, decide, reason=request.reason, expected_etag=request.etag
        )
        return admin_service_pb2.RotateKeyResponse(
            key=convert.key(minted.record, self._registry, minted.text),
            previous_keys=[self._key(key) for key in held.record.keys if key.key_id != minted.record.key_id],
        )

    async def RevokeKey(  # noqa: N802
        self, request: admin_service_pb2.RevokeKeyRequest, context: Context
    ) -> admin_service_pb2.RevokeKeyResponse:
        """A key that opens nothing any more."""
        del context
        if request.integration_id:
            held = await self._changes.integration(
                caller(),
                request.integration_id,
                lambda record: replace(record, keys=self._without(record.keys, request.key_id)),
                reason=request.reason,
                expected_etag=request.etag,
            )
            left = held.record.keys
        else:
            service = await self._changes.service(
                caller(),
                lambda record: keep_an_admin(
                    replace(record, keys=self._without(record.keys, request.key_id)), self._registry
                ),
                reason=request.reason,
            )
            left = service.record.keys
        return admin_service_pb2.RevokeKeyResponse(
            key=next(self._key(key) for key in left if key.key_id == request.key_id)
        )

    async def ListKeys(  # noqa: N802
        self, request: admin_service_pb2.ListKeysRequest, context: Context
    ) -> admin_service_pb2.ListKeysResponse:
        """Keys without their secrets."""
        del context
        if request.integration_id:
            held = self._registry.integration(request.integration_id).record.keys
        else:
            held = self._registry.service.record.keys
        return admin_service_pb2.ListKeysResponse(keys=[self._key(key) for key in held])

    async def CreateServiceKey(  # noqa: N802
        self, request: admin_service_pb2.CreateServiceKeyRequest, context: Context
    ) -> admin_service_pb2.CreateServiceKeyResponse:
        """A key for a bot or an admin."""
        del context
        expire_time = convert.micros(request.expire_time, "expire_time") if request.HasField("expire_time") else 0
        minted = keys.mint(
            Role(request.role),
            self._registry.pepper,
            self._clock.now(),
            expire_time=expire_time,
            display_name=request.display_name,
        )
        await self._changes.service(
            caller(), lambda record: replace(record, keys=(minted.record, *record.keys)), reason=request.reason
        )
        return admin_service_pb2.CreateServiceKeyResponse(key=convert.key(minted.record, self._registry, minted.text))

    async def ListSubscriptions(  # noqa: N802
        self, request: admin_service_pb2.ListSubscriptionsRequest, context: Context
    ) -> admin_service_pb2.ListSubscriptionsResponse:
        """Who reads, and how far behind."""
        del context
        if request.integration_id:
            self._registry.integration(request.integration_id)
            return admin_service_pb2.ListSubscriptionsResponse(
                subscriptions=self._shown.of_integration(request.integration_id)
            )
        size = self._pages.size(request.page_size)
        after = self._pages.after(request.page_token, "subscriptions")
        found = self._shown.after((str(after[0]), str(after[1])) if after else ("", ""), size + 1)
        page = found[:size]
        more = len(found) > size
        last = (page[-1].integration_id, page[-1].subscription_id) if more else ()
        return admin_service_pb2.ListSubscriptionsResponse(
            subscriptions=page, next_page_token=self._pages.token(last, "subscriptions") if more else ""
        )

    async def ListAuditEntries(  # noqa: N802
        self, request: admin_service_pb2.ListAuditEntriesRequest, context: Context
    ) -> admin_service_pb2.ListAuditEntriesResponse:
        """Who changed what, the newest first."""
        del context
        prefix = f"integration/{request.integration_id}" if request.integration_id else ""
        after = self._pages.after(request.page_token, "audit", request.integration_id)
        before = int(after[0]) if after else self._registry.through + 1
        page = await self._log.history(before, self._pages.size(request.page_size), prefix)
        token = self._pages.token([page.through], "audit", request.integration_id) if page.through else ""
        return admin_service_pb2.ListAuditEntriesResponse(
            entries=[convert.audit_entry(entry, _change.decode(entry.body)) for entry in page.entries],
            next_page_token=token,
        )

    async def _decided(
        self, integration_id: str, decide: Callable[[IntegrationRecord], IntegrationRecord], reason: str, etag: str
    ) -> integration_pb2.Integration:
        held = await self._changes.integration(caller(), integration_id, decide, reason=reason, expected_etag=etag)
        return convert.integration(held)

    def _without(self, held: tuple[KeyRecord, ...], key_id: str) -> tuple[KeyRecord, ...]:
        return keys.revoke(held, key_id, self._clock.now(), is_live=self._registry.is_live)

    def _key(self, record: KeyRecord) -> integration_pb2.Key:
        return convert.key(record, self._registry)


def masked(new: integration_pb2.Integration, mask: FieldMask) -> list[str]:
    """The fields that an update is to change (AIP-134): those of the mask; with none those that are set; "*": all.

    Raises:
        InvalidRequest: the mask names a field that cannot be updated.
    """
    if list(mask.paths) == ["*"]:
        return list(UPDATABLE)
    if not mask.paths:
        return [name for name in UPDATABLE if getattr(new, name)]
    for path in mask.paths:
        if path not in UPDATABLE:
            raise InvalidRequest.field("update_mask", f"cannot change '{path}': name some of {', '.join(UPDATABLE)}")
    return list(mask.paths)


def keep_an_admin(record: ServiceRecord, registry: Registry) -> ServiceRecord:
    """The same record, if somebody can still steer the hub with it.

    Raises:
        RulesNotMet: no admin key would be left.
    """
    if not any(key.role is Role.ADMIN and registry.is_live(key) for key in record.keys):
        raise RulesNotMet("this is the last admin key: create another one first", ["last_admin_key"])
    return record
