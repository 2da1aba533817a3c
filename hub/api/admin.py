"""AdminService: requests become decisions (``control/``), and their results replies.

Lives here: integrations and keys; what admins look at stands in ``oversight.py``. Must not know how a decision is made.
"""

from typing import Protocol

from msgspec.structs import replace
from tickets.hub.v1 import admin_service_pb2, integration_pb2

from hub.api import convert, filters
from hub.api.access import caller
from hub.api.commands import UPDATABLE, Commands, Decide
from hub.api.failures import Context
from hub.api.listing import SubscriptionList
from hub.api.oversight import Oversight
from hub.api.paging import Pages
from hub.clock import Clock
from hub.control import keys, lifecycle
from hub.control.changes import Changes
from hub.control.registry import Registry
from hub.errors import InvalidRequest, RulesNotMet
from hub.model import KeyRecord, Role, ServiceRecord, State
from hub.storage import Log

LASTING_DAYS = 7
"""An admin key that ends sooner does not count as one that is left when another is revoked."""


class Decision(Protocol):
    """What requests that decide about an integration have in common."""

    integration_id: str
    reason: str
    etag: str


class AdminService(Oversight):
    """The contract's AdminService."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self,
        log: Log,
        registry: Registry,
        changes: Changes,
        commands: Commands,
        shown: SubscriptionList,
        pages: Pages,
        clock: Clock,
    ) -> None:
        super().__init__(log, registry, changes, shown, pages, clock)
        self._commands = commands

    async def RegisterIntegration(  # noqa: N802  the contract's names
        self, request: admin_service_pb2.RegisterIntegrationRequest, context: Context
    ) -> admin_service_pb2.RegisterIntegrationResponse:
        """A new integration, ACTIVE, with its first key."""
        del context
        by, now = caller(), self._clock.now()
        minted = keys.mint(Role.INTEGRATION, self._registry.pepper, now)
        record = replace(
            self._commands.record(request, State.ACTIVE, now),
            grants=lifecycle.grants(convert.scope_requests(request.scopes), now, by.key_id),
            keys=(minted.record,),
            active_time=now,
            scopes_time=now,
        )
        held = await self._commands.create(by, record)
        return admin_service_pb2.RegisterIntegrationResponse(
            integration=convert.integration(held, self._registry), key=self._commands.key(minted.record, minted.text)
        )

    async def GetIntegration(  # noqa: N802
        self, request: admin_service_pb2.GetIntegrationRequest, context: Context
    ) -> admin_service_pb2.GetIntegrationResponse:
        """One integration."""
        del context
        held = self._registry.integration(request.integration_id)
        return admin_service_pb2.GetIntegrationResponse(integration=convert.integration(held, self._registry))

    async def ListIntegrations(  # noqa: N802
        self, request: admin_service_pb2.ListIntegrationsRequest, context: Context
    ) -> admin_service_pb2.ListIntegrationsResponse:
        """A page of integrations, by age."""
        del context
        page, token = self._pages.by_age(
            self._registry, filters.parse(request.filter), request, "integrations", request.filter
        )
        return admin_service_pb2.ListIntegrationsResponse(
            integrations=[convert.integration(held, self._registry) for held in page], next_page_token=token
        )

    async def UpdateIntegration(  # noqa: N802
        self, request: admin_service_pb2.UpdateIntegrationRequest, context: Context
    ) -> admin_service_pb2.UpdateIntegrationResponse:
        """Other texts, URLs, owner or guild access."""
        del context
        new = request.integration
        if not new.integration_id:
            raise InvalidRequest.field("integration.integration_id", "must be an id that the hub gave out")
        decide = self._commands.update(new, request.update_mask, UPDATABLE)
        changed = await self._commands.change(
            caller(), new.integration_id, decide, request.reason, request.etag or new.etag
        )
        return admin_service_pb2.UpdateIntegrationResponse(integration=changed)

    async def ApproveIntegration(  # noqa: N802
        self, request: admin_service_pb2.ApproveIntegrationRequest, context: Context
    ) -> admin_service_pb2.ApproveIntegrationResponse:
        """Some or all of what was asked for is granted."""
        del context
        by = caller()
        changed = await self._decided(
            request,
            lambda record: lifecycle.approve(record, request.scopes, request.reason, self._clock.now(), by.key_id),
        )
        return admin_service_pb2.ApproveIntegrationResponse(integration=changed)

    async def RejectIntegration(  # noqa: N802
        self, request: admin_service_pb2.RejectIntegrationRequest, context: Context
    ) -> admin_service_pb2.RejectIntegrationResponse:
        """Some or all of what was asked for is refused."""
        del context
        changed = await self._decided(
            request, lambda record: lifecycle.reject(record, request.scopes, request.reason, self._clock.now())
        )
        return admin_service_pb2.RejectIntegrationResponse(integration=changed)

    async def SuspendIntegration(  # noqa: N802
        self, request: admin_service_pb2.SuspendIntegrationRequest, context: Context
    ) -> admin_service_pb2.SuspendIntegrationResponse:
        """Closed for now."""
        del context
        changed = await self._decided(request, lambda record: lifecycle.suspend(record, request.reason))
        return admin_service_pb2.SuspendIntegrationResponse(integration=changed)

    async def ResumeIntegration(  # noqa: N802
        self, request: admin_service_pb2.ResumeIntegrationRequest, context: Context
    ) -> admin_service_pb2.ResumeIntegrationResponse:
        """Open again."""
        del context
        changed = await self._decided(request, lambda record: lifecycle.resume(record, request.reason))
        return admin_service_pb2.ResumeIntegrationResponse(integration=changed)

    async def DeleteIntegration(  # noqa: N802
        self, request: admin_service_pb2.DeleteIntegrationRequest, context: Context
    ) -> admin_service_pb2.DeleteIntegrationResponse:
        """Ended for good."""
        del context
        changed = await self._decided(request, lambda record: lifecycle.delete(record, request.reason))
        return admin_service_pb2.DeleteIntegrationResponse(integration=changed)

    async def SetScopes(  # noqa: N802
        self, request: admin_service_pb2.SetScopesRequest, context: Context
    ) -> admin_service_pb2.SetScopesResponse:
        """Exactly these scopes."""
        del context
        wanted, by = convert.scope_requests(request.scopes), caller()
        changed = await self._decided(
            request, lambda record: lifecycle.set_scopes(record, wanted, self._clock.now(), by.key_id)
        )
        return admin_service_pb2.SetScopesResponse(integration=changed)

    async def RotateKey(  # noqa: N802
        self, request: admin_service_pb2.RotateKeyRequest, context: Context
    ) -> admin_service_pb2.RotateKeyResponse:
        """A new key in place of the others."""
        del context
        overlap = request.overlap if request.HasField("overlap") else None
        new = await self._commands.rotate(caller(), request.integration_id, overlap, request.reason, request.etag)
        return admin_service_pb2.RotateKeyResponse(
            key=self._commands.key(new.record, new.text), previous_keys=self._commands.previous(new)
        )

    async def RevokeKey(  # noqa: N802
        self, request: admin_service_pb2.RevokeKeyRequest, context: Context
    ) -> admin_service_pb2.RevokeKeyResponse:
        """A key that opens nothing any more."""
        del context
        if request.integration_id:
            key = await self._commands.revoke(
                caller(), request.integration_id, request.key_id, request.reason, request.etag
            )
            return admin_service_pb2.RevokeKeyResponse(key=key)
        service = await self._changes.service(
            caller(), lambda record: self._without_service_key(record, request.key_id), reason=request.reason
        )
        ended = next(key for key in service.record.keys if key.key_id == request.key_id)
        return admin_service_pb2.RevokeKeyResponse(key=self._commands.key(ended))

    async def ListKeys(  # noqa: N802
        self, request: admin_service_pb2.ListKeysRequest, context: Context
    ) -> admin_service_pb2.ListKeysResponse:
        """Keys without their secrets."""
        del context
        if request.integration_id:
            held = self._registry.integration(request.integration_id).record.keys
        else:
            held = self._registry.service.record.keys
        return admin_service_pb2.ListKeysResponse(keys=[self._commands.key(key) for key in held])

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
            caller(),
            lambda record: replace(record, keys=self._commands.with_key(record.keys, minted.record)),
            reason=request.reason,
        )
        return admin_service_pb2.CreateServiceKeyResponse(key=self._commands.key(minted.record, minted.text))

    async def _decided(self, request: Decision, decide: Decide) -> integration_pb2.Integration:
        return await self._commands.change(caller(), request.integration_id, decide, request.reason, request.etag)

    def _without_service_key(self, record: ServiceRecord, key_id: str) -> ServiceRecord:
        """The service keys after one has ended.

        Raises:
            RulesNotMet: no admin key would be left, or none that lasts.
        """
        left = replace(record, keys=self._commands.without(record.keys, key_id))
        ends_an_admin = any(key.key_id == key_id and key.role is Role.ADMIN for key in record.keys) and left != record
        if ends_an_admin and not any(self._lasts(key) for key in left.keys):
            raise RulesNotMet(
                f"no admin key would be left that works for {LASTING_DAYS} days or more: create another one first",
                ["last_admin_key"],
            )
        return left

    def _lasts(self, key: KeyRecord) -> bool:
        """Whether it is an admin key on which one can rely for a while."""
        lasting = LASTING_DAYS * 24 * 3_600
        return key.role is Role.ADMIN and not key.revoke_time and self._registry.seconds_left(key) >= lasting
