"""The life of an endpoint: which command is allowed in which state, and how it changes the record.

Whether the caller may do it is not decided here (``api/``), nor how events are delivered (``webhooks/``).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace

from hub.clock import Clock
from hub.config import Settings
from hub.control.endpoints import OWN
from hub.control.integrations import Integrations
from hub.control.registry import Registry
from hub.control.transactions import Changes, Intent
from hub.control.versioned import Versioned
from hub.endpoint_model import EndpointRecord, EndpointState, SigningRecord
from hub.errors import EndpointExists, EndpointNotFound, StateForbids, TooManyEndpoints
from hub.model import Caller, Cursor, Role

DELIVERING = frozenset({EndpointState.ACTIVE, EndpointState.FAILING})
STOPPED = frozenset({EndpointState.PAUSED, EndpointState.DISABLED})
UNVERIFIED_OR_ON = DELIVERING | {EndpointState.UNVERIFIED}

HUB_ITSELF = Caller(Role.SYSTEM, "", "", "Webhooks/Deliver", "")
"""The caller of changes that the hub makes by itself."""

Decide = Callable[[EndpointRecord], EndpointRecord]


class EndpointChanges:
    """Creates and changes endpoints."""

    def __init__(
        self, registry: Registry, changes: Changes, integrations: Integrations, settings: Settings, clock: Clock
    ) -> None:
        self._registry = registry
        self._changes = changes
        self._integrations = integrations
        self._settings = settings
        self._clock = clock

    async def create(self, intent: Intent, record: EndpointRecord, epoch: int) -> Versioned[EndpointRecord]:
        """Add an endpoint, UNVERIFIED; it starts at its own entry, in the log of `epoch`.

        Raises:
            EndpointExists, TooManyEndpoints: it cannot be added.
            What `Changes.update_endpoint` raises.
        """
        integration_id, endpoint_id = record.integration_id, record.endpoint_id
        await self._changes.update_endpoint(
            intent, integration_id, endpoint_id, partial(self._created, new=_with_start(record, epoch)), self._charge
        )
        return self._registry.endpoints.require(integration_id, endpoint_id)

    def _created(self, before: EndpointRecord | None, new: EndpointRecord) -> EndpointRecord:
        if before is not None:
            raise EndpointExists(new.endpoint_id)
        limit = self._settings.max_endpoints
        if len(self._registry.endpoints.of(new.integration_id)) >= limit:
            raise TooManyEndpoints(
                f"the integration has {limit} endpoints already: change one of them, or DeleteEndpoint",
                metadata={"limit": str(limit)},
            )
        return self._registry.endpoints.following(new)

    async def change(
        self, intent: Intent, integration_id: str, endpoint_id: str, decide: Decide, epoch: int
    ) -> Versioned[EndpointRecord]:
        """Change an endpoint by a decision; a caller's change counts against the budget, the hub's own does not.

        Raises:
            EndpointNotFound: there is none.
            What `decide` and `Changes.update_endpoint` raise.
        """

        def decided(before: EndpointRecord | None) -> EndpointRecord:
            if before is None:
                raise EndpointNotFound(endpoint_id)
            after = decide(before)
            return after if after == before else _with_start(after, epoch)

        charge = None if intent.by.role is Role.SYSTEM else self._charge
        await self._changes.update_endpoint(intent, integration_id, endpoint_id, decided, charge)
        return self._registry.endpoints.require(integration_id, endpoint_id)

    async def update(
        self, intent: Intent, integration_id: str, endpoint_id: str, fields: Mapping[str, Any], epoch: int
    ) -> Versioned[EndpointRecord]:
        """Change some fields; a new URL has to be verified."""
        self._registry.endpoints.require(integration_id, endpoint_id)
        return await self.change(intent, integration_id, endpoint_id, partial(_updated, fields=fields), epoch)

    async def delete(self, intent: Intent, integration_id: str, endpoint_id: str) -> None:
        """Delete an endpoint for good."""
        deleted = partial(replace, deleted=True, signing=None, previous=None)

        def decide(before: EndpointRecord | None) -> EndpointRecord:
            if before is None:
                raise EndpointNotFound(endpoint_id)
            return deleted(before)

        await self._changes.update_endpoint(intent, integration_id, endpoint_id, decide, self._charge)

    def _charge(self, by: Caller) -> None:
        self._integrations.charge(by)


def _with_start(record: EndpointRecord, epoch: int) -> EndpointRecord:
    """The record with a place to start from: its own entry, unless it already has a place."""
    if record.start_epoch:
        return record
    return replace(record, start_epoch=epoch, start_position=OWN)


def _updated(record: EndpointRecord, fields: Mapping[str, Any]) -> EndpointRecord:
    changed: EndpointRecord = replace(record, **fields)
    if changed.url != record.url and record.state in DELIVERING:
        return replace(changed, state=EndpointState.UNVERIFIED)
    return changed


def require(record: EndpointRecord, allowed: frozenset[EndpointState], what: str) -> None:
    """Check that a command is allowed in the record's state.

    Raises:
        StateForbids: it is not; the metadata has the state and the states that would allow it.
    """
    if record.state not in allowed:
        names = [state.name for state in sorted(allowed)]
        raise StateForbids(
            f"the endpoint is {record.state.name}; {what} is possible while it is {' or '.join(names)}",
            metadata={"state": record.state.name, "allowed": ",".join(names)},
        )


def require_verifiable(record: EndpointRecord) -> None:
    """Check that an endpoint may be verified without being resumed.

    Raises:
        StateForbids: it is switched off.
    """
    require(record, UNVERIFIED_OR_ON, "verifying")


def require_secret(record: EndpointRecord, *, has_key: bool) -> None:
    """Check that the endpoint's secret was shown and can still be derived.

    Raises:
        StateForbids: the secret was never shown, or the hub's secret that it derives from is gone.
    """
    if not has_key:
        raise StateForbids(
            "the secret of this endpoint was never shown: call RotateEndpointSecret, put the secret into the "
            "receiver, then verify",
            metadata={"state": record.state.name, "allowed": ""},
        )


def require_resumable(record: EndpointRecord, by: Caller) -> None:
    """Check that an endpoint may be switched on by a caller.

    Raises:
        StateForbids: it is on, or an admin has disabled it and the caller is not an admin.
    """
    require(record, STOPPED, "resuming")
    if record.by_admin and by.role is not Role.ADMIN:
        raise StateForbids(
            f"an admin has disabled this endpoint: {record.disable_reason}; ask the admins of Tickets about it",
            metadata={"state": record.state.name, "allowed": ""},
        )


def paused(record: EndpointRecord) -> EndpointRecord:
    """The record, paused by its developer."""
    require(record, UNVERIFIED_OR_ON | {EndpointState.PAUSED}, "pausing")
    return replace(record, state=EndpointState.PAUSED)


def verified_again(record: EndpointRecord, url: str, now: int) -> EndpointRecord:
    """As `verified`, by the hub itself; unchanged if the endpoint was switched off meanwhile."""
    return verified(record, url, now) if record.state in UNVERIFIED_OR_ON else record


def verified(record: EndpointRecord, url: str, now: int) -> EndpointRecord:
    """The record, active if the verified URL is still its URL. Check first that it may be switched on."""
    if record.url != url:
        return record
    return replace(
        record,
        state=record.state if record.state in DELIVERING else EndpointState.ACTIVE,
        activations=record.activations + (record.state not in DELIVERING),
        verified_url=url,
        verify_time=now,
        forgeries=0,
        disable_reason="",
        by_admin=False,
    )


def disabled(record: EndpointRecord, reason: str, *, by_admin: bool) -> EndpointRecord:
    """The record, disabled by an admin or by the hub."""
    if not by_admin and record.state not in DELIVERING:
        return record  # it was changed meanwhile
    return replace(record, state=EndpointState.DISABLED, disable_reason=reason, by_admin=by_admin)


def delivering(record: EndpointRecord, state: EndpointState) -> EndpointRecord:
    """The record, ACTIVE or FAILING by its newest attempts."""
    return replace(record, state=state) if record.state in DELIVERING else record


def rotated(record: EndpointRecord, new: SigningRecord, now: int, overlap: int) -> EndpointRecord:
    """The record with a new secret; the former one signs, too, for the overlap in microseconds."""
    keeps = record.signing is not None and overlap > 0
    return replace(
        record,
        signing=new,
        previous=record.signing if keeps else None,
        previous_expire_time=now + overlap if keeps else 0,
    )


def rewound(record: EndpointRecord, start: Cursor | None) -> EndpointRecord:
    """The record with another place; None: right after the entry that stores it."""
    if start is None:
        return replace(record, generation=record.generation + 1, start_epoch=0, start_position=0, start_time=0)
    epoch, position, time = start
    return replace(
        record, generation=record.generation + 1, start_epoch=epoch, start_position=position, start_time=time
    )
