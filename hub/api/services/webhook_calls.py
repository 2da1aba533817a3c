"""WebhookService: endpoints, by their developer, through the bot, or by an admin."""

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from tickets.hub.v1 import webhook_service_pb2 as pb
from tickets.hub.v1 import webhook_service_pb2_grpc

from hub import permissions as table
from hub.api import convert, endpoint_messages
from hub.api.access import caller
from hub.api.paging import Pages
from hub.api.services.ownership import Ownership
from hub.api.status import Context
from hub.clock import Clock
from hub.control import endpoint_changes as life
from hub.control.endpoint_changes import EndpointChanges
from hub.control.endpoints import DEFAULT, name_of
from hub.control.registry import Registry
from hub.control.transactions import Intent
from hub.control.versioned import Versioned
from hub.delivery.feed import Feed
from hub.delivery.options import Start, SubscribeOptions
from hub.delivery.starts import Starts
from hub.delivery.subscriptions import Subscriptions
from hub.delivery.view import Narrowing
from hub.endpoint_model import EndpointRecord
from hub.errors import EndpointNotVerified, ScopeNotGranted
from hub.model import Caller, Cursor, IntegrationRecord, Role
from hub.webhooks.destinations import Policy, target_of
from hub.webhooks.dispatchers import Dispatchers
from hub.webhooks.envelope import Envelope
from hub.webhooks.schedule import Failure
from hub.webhooks.verification import Verification

DEFAULT_OVERLAP = 24 * 3600 * 1_000_000
"""Microseconds for which a former secret signs beside the new one."""


class OfIntegration(Protocol):
    """A request about an integration."""

    integration_id: str
    acting_user_id: str


class OfEndpoint(OfIntegration, Protocol):
    """A request about an endpoint."""

    endpoint_id: str


class Parts(NamedTuple):
    """What the service puts together."""

    registry: Registry
    changes: EndpointChanges
    dispatchers: Dispatchers
    envelope: Envelope
    policy: Policy
    feed: Feed
    starts: Starts
    subscriptions: Subscriptions
    pages: Pages
    clock: Clock


class Target(NamedTuple):
    """The endpoint that a call is about."""

    by: Caller
    integration_id: str
    endpoint_id: str


class WebhookService(webhook_service_pb2_grpc.WebhookServiceServicer):
    """The contract's WebhookService."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._ownership = Ownership(parts.registry)

    async def CreateEndpoint(self, request: pb.CreateEndpointRequest, context: Context) -> pb.CreateEndpointResponse:
        """Add an endpoint; only this reply shows its secret."""
        by, own = self._integration(request, change=True)
        now, new = self._parts.clock.now(), request.endpoint
        fields = endpoint_messages.values(new)
        self._require_allowed(own, fields)
        record = EndpointRecord(
            integration_id=own.integration_id,
            endpoint_id=new.endpoint_id or DEFAULT,
            create_time=now,
            update_time=now,
            signing=self._parts.envelope.new_secret(),
            **fields,
        )
        made = await self._parts.changes.create(self._intent(by, ""), record, self._epoch)
        return pb.CreateEndpointResponse(endpoint=await self._message(made), secret=self._secret(made.record))

    async def UpdateEndpoint(self, request: pb.UpdateEndpointRequest, context: Context) -> pb.UpdateEndpointResponse:
        """Change some fields of an endpoint."""
        by, own = self._integration(request, change=True)
        new = request.endpoint
        fields = endpoint_messages.updates(new, request.update_mask)
        self._require_allowed(own, fields)
        changed = await self._parts.changes.update(
            self._intent(by, request.etag or new.etag),
            own.integration_id,
            new.endpoint_id or DEFAULT,
            fields,
            self._epoch,
        )
        return pb.UpdateEndpointResponse(endpoint=await self._message(changed))

    async def GetEndpoint(self, request: pb.GetEndpointRequest, context: Context) -> pb.GetEndpointResponse:
        """Read an endpoint."""
        return pb.GetEndpointResponse(endpoint=await self._message(self._found(self._target(request))))

    async def ListEndpoints(self, request: pb.ListEndpointsRequest, context: Context) -> pb.ListEndpointsResponse:
        """List the endpoints of an integration."""
        _, own = self._integration(request)
        listing = ("endpoints", own.integration_id)
        after = self._parts.pages.after(request.page_token, *listing)
        last = str(after[0]) if after else ""

        async def found() -> AsyncGenerator[pb.Endpoint, None]:
            for one in self._parts.registry.endpoints.of(own.integration_id):
                if one.record.endpoint_id > last:
                    yield await self._message(one)

        page, token = await self._parts.pages.page(
            found(), lambda one: one, lambda one: (one.endpoint_id,), request, *listing
        )
        return pb.ListEndpointsResponse(endpoints=page, next_page_token=token)

    async def DeleteEndpoint(self, request: pb.DeleteEndpointRequest, context: Context) -> pb.DeleteEndpointResponse:
        """Delete an endpoint."""
        target = self._target(request, change=True)
        intent = self._intent(target.by, request.etag)
        await self._parts.changes.delete(intent, target.integration_id, target.endpoint_id)
        return pb.DeleteEndpointResponse()

    async def VerifyEndpoint(self, request: pb.VerifyEndpointRequest, context: Context) -> pb.VerifyEndpointResponse:
        """Verify an endpoint that is neither paused nor disabled."""
        target = self._target(request, change=True)
        record = self._found(target).record
        life.require_verifiable(record)
        return pb.VerifyEndpointResponse(endpoint=await self._verified(target, record, "", life.require_verifiable))

    async def PauseEndpoint(self, request: pb.PauseEndpointRequest, context: Context) -> pb.PauseEndpointResponse:
        """Pause an endpoint."""
        changed = await self._change(self._target(request, change=True), life.paused, request.etag)
        return pb.PauseEndpointResponse(endpoint=await self._message(changed))

    async def ResumeEndpoint(self, request: pb.ResumeEndpointRequest, context: Context) -> pb.ResumeEndpointResponse:
        """Verify a paused or disabled endpoint, and resume delivery."""
        target = self._target(request, change=True)
        record = self._found(target).record
        require = partial(life.require_resumable, by=target.by)
        require(record)
        return pb.ResumeEndpointResponse(endpoint=await self._verified(target, record, request.etag, require))

    async def DisableEndpoint(self, request: pb.DisableEndpointRequest, context: Context) -> pb.DisableEndpointResponse:
        """Disable an endpoint until an admin resumes it."""
        self._parts.registry.integration(request.integration_id)
        target = Target(caller(), request.integration_id, request.endpoint_id or DEFAULT)
        decide = partial(life.disabled, reason=request.reason, by_admin=True)
        changed = await self._change(target, decide, request.etag, request.reason)
        return pb.DisableEndpointResponse(endpoint=await self._message(changed))

    async def RotateEndpointSecret(
        self, request: pb.RotateEndpointSecretRequest, context: Context
    ) -> pb.RotateEndpointSecretResponse:
        """Make a new secret; only this reply shows it."""
        overlap = convert.optional_span(request, "overlap")
        decide = partial(
            life.rotated,
            new=self._parts.envelope.new_secret(),
            now=self._parts.clock.now(),
            overlap=DEFAULT_OVERLAP if overlap is None else overlap,
        )
        changed = await self._change(self._target(request, change=True), decide, request.etag)
        return pb.RotateEndpointSecretResponse(
            secret=self._secret(changed.record),
            previous_secret_expire_time=convert.timestamp(changed.record.previous_expire_time),
        )

    async def RewindEndpoint(self, request: pb.RewindEndpointRequest, context: Context) -> pb.RewindEndpointResponse:
        """Move an endpoint to another place."""
        target = self._target(request, change=True)
        self._found(target)
        start = await self._start(request)
        changed = await self._change(target, partial(life.rewound, start=start), request.etag)
        return pb.RewindEndpointResponse(endpoint=await self._message(changed))

    async def ListAttempts(self, request: pb.ListAttemptsRequest, context: Context) -> pb.ListAttemptsResponse:
        """List the newest requests of an endpoint that this replica sent."""
        record = self._found(self._target(request)).record
        newest = self._parts.dispatchers.attempts(name_of(record)).all()
        return pb.ListAttemptsResponse(attempts=map(endpoint_messages.attempt, newest))

    @property
    def _epoch(self) -> int:
        return self._parts.feed.earliest.epoch

    def _integration(self, request: OfIntegration, *, change: bool = False) -> tuple[Caller, IntegrationRecord]:
        """The caller and the integration, if it is theirs or they are an admin; a change refuses blocked developers."""
        by, own = self._ownership.overseen(request.integration_id, request.acting_user_id)
        if change and by.role is not Role.ADMIN:
            self._parts.registry.blocklist.require_unblocked(own.record.owner_user_id)
        return by, own.record

    def _target(self, request: OfEndpoint, *, change: bool = False) -> Target:
        by, own = self._integration(request, change=change)
        return Target(by, own.integration_id, request.endpoint_id or DEFAULT)

    def _found(self, target: Target) -> Versioned[EndpointRecord]:
        return self._parts.registry.endpoints.require(target.integration_id, target.endpoint_id)

    def _intent(self, by: Caller, etag: str, reason: str = "") -> Intent:
        """The intent of a change, which checks again at the newest record that it is the caller's."""
        return self._ownership.intent(by, etag, blocked=by.role is Role.ADMIN)._replace(reason=reason)

    async def _change(
        self, target: Target, decide: life.Decide, etag: str, reason: str = ""
    ) -> Versioned[EndpointRecord]:
        intent = self._intent(target.by, etag, reason)
        return await self._parts.changes.change(intent, target.integration_id, target.endpoint_id, decide, self._epoch)

    def _require_allowed(self, own: IntegrationRecord, fields: dict[str, Any]) -> None:
        """Check new values of an endpoint's fields.

        Raises:
            InvalidRequest: the hub does not send to the URL.
            ScopeNotGranted: it is narrowed to a scope that is not granted.
        """
        if "url" in fields:
            target_of(fields["url"], self._parts.policy)
        missing = frozenset(fields.get("scopes", ())) - {grant.scope for grant in own.grants}
        if missing:
            names = table.names_of(missing)
            raise ScopeNotGranted(
                f"not granted: {names}; ask an admin for it, or leave it out of `scopes`",
                metadata={"scopes": names.replace(" ", "")},
            )

    async def _verified(
        self, target: Target, record: EndpointRecord, etag: str, require: Callable[[EndpointRecord], None]
    ) -> pb.Endpoint:
        """Verify an endpoint, and begin delivery; `require` is what allowed it, and must still do so at the end.

        Raises:
            EndpointNotVerified: its receiver does not pass.
            StateForbids: its secret was never shown.
            HubError: the integration may receive nothing.
        """
        self._parts.registry.require_open(target.integration_id)
        life.require_secret(record, has_key=bool(self._parts.envelope.keys(record)))
        found = await self._parts.dispatchers.verify(record)
        if not found.is_verified:
            raise not_verified(found)

        def decide(newest: EndpointRecord) -> EndpointRecord:
            require(newest)
            return life.verified(newest, record.url, self._parts.clock.now())

        return await self._message(await self._change(target, decide, etag))

    async def _start(self, request: pb.RewindEndpointRequest) -> Cursor | None:
        """The place that a request names; None: that of the entry that is yet to be appended."""
        kind = request.WhichOneof("start") or ""
        since = convert.micros(request.since, "since") if kind == "since" else 0
        start = Start(kind, request.cursor, since)
        return await self._parts.starts.cursor_for(
            SubscribeOptions("", start, kind != "cursor", Narrowing(), 1, 1.0, 0.0), ""
        )

    async def _message(self, versioned: Versioned[EndpointRecord]) -> pb.Endpoint:
        """An endpoint, with how far it is: by the hub that runs it, or else as it was stored last."""
        record, parts = versioned.record, self._parts
        place = parts.dispatchers.places.of(record, name_of(record))
        key = next(iter(parts.envelope.keys(record)), None)
        cursor = place.cursor if place.epoch else None
        return endpoint_messages.endpoint(
            versioned,
            place,
            parts.subscriptions.sealed(cursor) if cursor is not None else "",
            await self._lag(record, cursor),
            key.public_key if key is not None else "",
            overlaps=parts.envelope.overlaps(record),
        )

    async def _lag(self, record: EndpointRecord, cursor: Cursor | None) -> float:
        running = self._parts.dispatchers.running(name_of(record))
        if running is not None and running.stream is not None and not running.place.attempts.failures:
            return running.stream.lag
        return await self._parts.subscriptions.lag_of(cursor) if cursor is not None else 0.0

    def _secret(self, record: EndpointRecord) -> str:
        return self._parts.envelope.keys(record)[0].secret


def not_verified(found: Verification) -> EndpointNotVerified:
    """What a developer reads about a receiver that failed the verification."""
    outcome = found.outcome
    category = outcome.failure.name if outcome.failure is not None else ""
    text = UNREACHABLE.get(outcome.failure, STEPS[found.step]) if found.is_conclusive else INCONCLUSIVE
    answer = f"HTTP {outcome.status}" if outcome.status else "no answer"
    return EndpointNotVerified(
        f"{text} ({answer}, {category})",
        metadata={"category": category, "step": found.step, "http_status": str(outcome.status)},
    )


STEPS = {
    "challenge": "the receiver did not answer the challenge: it must verify the signature, then answer 2xx with "
    '{"challenge": "..."} as it came in data.challenge',
    "forgery": "the receiver accepted a request with a wrong signature: it must verify webhook-signature before "
    "anything else, and answer 401 where it is wrong",
}
UNREACHABLE: dict[Failure | None, str] = {
    Failure.DNS: "the host name of the URL cannot be resolved: check it and its records",
    Failure.ADDRESS_REFUSED: "the hub may not send to where the URL leads: use https, port 443 and a public address",
    Failure.CONNECT: "nothing listens at the URL, or the connection broke: check the host, the port and the firewall",
    Failure.TLS: "the certificate of the receiver is not valid for this host name, has expired, is of an authority "
    "that the hub does not know, or a part of its chain is missing: nothing was sent; mend it, then verify",
    Failure.TIMEOUT: "the receiver did not answer in time: connect within 5 s, answer within 15 s",
    Failure.REDIRECT: "the receiver redirects, which the hub does not follow: set the final URL in the endpoint",
}
"""Failures of a challenge about which its receiver's code can do nothing."""

INCONCLUSIVE = (
    "the receiver neither accepted nor refused a request with a wrong signature: it must answer 401 to that; try again"
)
