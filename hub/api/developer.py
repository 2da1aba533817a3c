"""DeveloperService: what the developer of an integration does without an admin.

Lives here: whose integration it is, with its own key or through the bot. Must not know what a change does.
"""

import secrets

from tickets.hub.v1 import (
    developer_service_pb2,
    developer_service_pb2_grpc,
    event_pb2,
    permissions_pb2,
)

from hub import scopes as table
from hub.api import convert
from hub.api.access import caller
from hub.api.commands import PROFILE, Commands
from hub.api.directory import acting
from hub.api.events import to_entry
from hub.api.failures import Context
from hub.api.paging import Pages
from hub.clock import Clock
from hub.control import lifecycle
from hub.control.registry import Held, Registry
from hub.delivery.streams import Streams
from hub.delivery.views import Narrowing, shown
from hub.errors import IntegrationNotFound, InvalidRequest, NotOwner
from hub.model import Caller, Entry, GuildAccess, IntegrationRecord, Role


class DeveloperService(developer_service_pb2_grpc.DeveloperServiceServicer):
    """The contract's DeveloperService."""

    def __init__(self, registry: Registry, streams: Streams, commands: Commands, pages: Pages, clock: Clock) -> None:
        self._registry = registry
        self._streams = streams
        self._commands = commands
        self._pages = pages
        self._clock = clock

    async def GetOwnIntegration(  # noqa: N802  the contract's names
        self, request: developer_service_pb2.GetOwnIntegrationRequest, context: Context
    ) -> developer_service_pb2.GetOwnIntegrationResponse:
        """The integration."""
        del context
        _, held = self._own(request.integration_id, request.acting_user_id)
        return developer_service_pb2.GetOwnIntegrationResponse(integration=convert.integration(held, self._registry))

    async def ListOwnIntegrations(  # noqa: N802
        self, request: developer_service_pb2.ListOwnIntegrationsRequest, context: Context
    ) -> developer_service_pb2.ListOwnIntegrationsResponse:
        """The integrations of one owner; of an integration, itself."""
        del context
        by = caller()
        if by.role is Role.BOT and not request.acting_user_id:
            raise InvalidRequest.field("acting_user_id", "must name the owner for whom the bot speaks")
        owned = self._registry.owned_by(request.acting_user_id) if by.role is Role.BOT else [by.integration_id]
        size = self._pages.size(request.page_size)
        listing = ("own", by.integration_id or request.acting_user_id)
        after = self._pages.after(request.page_token, *listing)
        place = (int(after[0]), str(after[1])) if after else (0, "")
        held = sorted((self._registry.integration(one) for one in owned), key=_age)
        rest = [one for one in held if _age(one) > place]
        token = self._pages.token(_age(rest[size - 1]), *listing) if len(rest) > size else ""
        return developer_service_pb2.ListOwnIntegrationsResponse(
            integrations=[convert.integration(one, self._registry) for one in rest[:size]], next_page_token=token
        )

    async def UpdateProfile(  # noqa: N802
        self, request: developer_service_pb2.UpdateProfileRequest, context: Context
    ) -> developer_service_pb2.UpdateProfileResponse:
        """Other texts and URLs."""
        del context
        new = request.integration
        if request.integration_id and new.integration_id not in ("", request.integration_id):
            raise InvalidRequest.field(
                "integration.integration_id", "differs from integration_id: name one integration"
            )
        by, held = self._change(request.integration_id or new.integration_id, request.acting_user_id)
        decide = self._commands.update(new, request.update_mask, PROFILE)
        changed = await self._commands.change(by, held.record.integration_id, decide, etag=request.etag or new.etag)
        return developer_service_pb2.UpdateProfileResponse(integration=changed)

    async def RotateOwnKey(  # noqa: N802
        self, request: developer_service_pb2.RotateOwnKeyRequest, context: Context
    ) -> developer_service_pb2.RotateOwnKeyResponse:
        """A new key; after an approval, the first."""
        del context
        by, held = self._change(request.integration_id, request.acting_user_id)
        overlap = request.overlap if request.HasField("overlap") else None
        new = await self._commands.rotate(by, held.record.integration_id, overlap, etag=request.etag)
        return developer_service_pb2.RotateOwnKeyResponse(
            key=self._commands.key(new.record, new.text), previous_keys=self._commands.previous(new)
        )

    async def RevokeOwnKey(  # noqa: N802
        self, request: developer_service_pb2.RevokeOwnKeyRequest, context: Context
    ) -> developer_service_pb2.RevokeOwnKeyResponse:
        """A key that opens nothing any more; even somebody who is blocked may give one up."""
        del context
        by, held = self._own(request.integration_id, request.acting_user_id)
        key = await self._commands.revoke(by, held.record.integration_id, request.key_id, etag=request.etag)
        return developer_service_pb2.RevokeOwnKeyResponse(key=key)

    async def ListOwnKeys(  # noqa: N802
        self, request: developer_service_pb2.ListOwnKeysRequest, context: Context
    ) -> developer_service_pb2.ListOwnKeysResponse:
        """Keys without their secrets."""
        del context
        _, held = self._own(request.integration_id, request.acting_user_id)
        return developer_service_pb2.ListOwnKeysResponse(keys=[self._commands.key(key) for key in held.record.keys])

    async def RequestScopes(  # noqa: N802
        self, request: developer_service_pb2.RequestScopesRequest, context: Context
    ) -> developer_service_pb2.RequestScopesResponse:
        """More scopes, asked for."""
        del context
        by, held = self._change(request.integration_id, request.acting_user_id)
        wanted = convert.scope_requests(request.scopes)
        changed = await self._commands.change(
            by,
            held.record.integration_id,
            lambda record: lifecycle.request_scopes(record, wanted),
            etag=request.etag,
        )
        return developer_service_pb2.RequestScopesResponse(integration=changed)

    async def PreviewEvent(  # noqa: N802
        self, request: developer_service_pb2.PreviewEventRequest, context: Context
    ) -> developer_service_pb2.PreviewEventResponse:
        """What would be seen of a sample, and what would be missing."""
        del context
        _, held = self._own(request.integration_id, request.acting_user_id)
        entry = self._sample(request.event)
        lens = self._streams.around.view(held.record.integration_id).look(entry.position, Narrowing()).final
        shape = lens.shape(entry)
        return developer_service_pb2.PreviewEventResponse(
            delivered=shape is not None,
            event=shown(entry, shape) if shape is not None else None,
            withheld=missing(entry, held.record, lens.counting(entry)),
        )

    async def SendTestEvent(  # noqa: N802
        self, request: developer_service_pb2.SendTestEventRequest, context: Context
    ) -> developer_service_pb2.SendTestEventResponse:
        """A marked event through the real view, to one's own open streams; not in the log."""
        del context
        _, held = self._change(request.integration_id, request.acting_user_id)
        self._registry.require_open(held.record.integration_id)
        request.event.id = f"test-{secrets.token_hex(8)}"
        entry = self._sample(request.event, test=True)
        return developer_service_pb2.SendTestEventResponse(
            stream_count=self._streams.send_test(held.record.integration_id, entry), event_id=entry.id
        )

    def _own(self, integration_id: str, acting_user_id: str) -> tuple[Caller, Held[IntegrationRecord]]:
        """The caller and the integration, if it is theirs.

        Raises:
            IntegrationNotFound: there is none, or (with an integration's key) it is another's.
            NotOwner: the user for whom the bot speaks does not own it.
            InvalidRequest: the bot does not say for whom, or of which.
        """
        by = caller()
        if by.role is not Role.BOT:
            if integration_id not in ("", by.integration_id):
                raise IntegrationNotFound(integration_id)
            return by, self._registry.integration(by.integration_id)
        for field, value in (("integration_id", integration_id), ("acting_user_id", acting_user_id)):
            if not value:
                raise InvalidRequest.field(field, "must be given when the bot speaks for a developer")
        held = self._registry.integration(integration_id)
        if held.record.owner_user_id != acting_user_id:
            raise NotOwner
        return acting(by, acting_user_id), held

    def _change(self, integration_id: str, acting_user_id: str) -> tuple[Caller, Held[IntegrationRecord]]:
        """The same, for a change: a blocked developer makes none."""
        by, held = self._own(integration_id, acting_user_id)
        self._registry.require_unblocked(held.record.owner_user_id)
        return by, held

    def _sample(self, event: event_pb2.Event, *, test: bool = False) -> Entry:
        """A sample as the log would hold it next."""
        return to_entry(event, self._clock.now(), "event", position=self._registry.through + 1, test=test)


def _age(held: Held[IntegrationRecord]) -> tuple[int, str]:
    return held.record.create_time, held.record.integration_id


def missing(entry: Entry, record: IntegrationRecord, counting: frozenset[int]) -> list[developer_service_pb2.Withheld]:
    """What these scopes do not show of an event, and which would; or that the guild stands in between."""
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
    """Why something is not shown."""
    if not is_granted:
        return "none of these scopes is granted: ask for one with RequestScopes"
    if record.guild_access is GuildAccess.INSTALLED:
        return "the guild has not installed the integration, or has not agreed to this"
    return ""
