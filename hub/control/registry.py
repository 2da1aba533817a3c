"""The state: the newest record of every key, as of the last entry applied.

Everything here is synchronous: between two awaits of a caller the state does not change. How state is written is in
``transactions.py``.
"""

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

import structlog
from msgspec.structs import replace

from hub import state
from hub.clock import Clock
from hub.control import lifecycle
from hub.control.blocklist import Blocklist
from hub.control.catalog import Catalog
from hub.control.endpoints import Endpoints
from hub.control.hidden import HiddenEvents
from hub.control.hub_secret import HubSecret, does_not_fit
from hub.control.installations import Installations
from hub.control.keyring import Keyring
from hub.control.readers import Readers
from hub.control.usage import Usage
from hub.control.versioned import Versioned
from hub.errors import IntegrationNotFound, StartError
from hub.latch import PositionLatch
from hub.model import Entry, IntegrationRecord, KeyRecord, Kind, SecretRecord, ServiceRecord, State

MAX_UNKNOWN = 100
"""How many unknown kinds of state are logged, each once."""

SERVICE_HOLDER = ""
"""Instead of an integration's id: the service keys."""

_LISTED = frozenset({state.INTEGRATION.name, state.INSTALLATION.name, state.BLOCK.name})
"""Kinds of state that the directory shows, or that decide what it shows."""

_log = structlog.get_logger(__name__)


class _Appliers:
    """What applies each kind of state. Kinds that only newer hubs know are skipped; the store's format allows it."""

    def __init__(self, by_kind: Mapping[str, Callable[[Entry], Iterable[str]]]) -> None:
        self._by_kind = by_kind
        self._unknown: set[str] = set()

    def __call__(self, entry: Entry) -> Iterable[str]:
        """Apply an entry of state; returns the integrations that it concerns."""
        kind = state.kind_name(entry.key)
        apply = self._by_kind.get(kind)
        if apply is not None:
            return apply(entry)
        if kind not in self._unknown and len(self._unknown) < MAX_UNKNOWN:
            self._unknown.add(kind)
            _log.warning("a state entry of a newer hub is skipped", kind=kind)
        return ()


class Registry:
    """The state of the hub.

    Attributes:
        secret: the record of the hub's secret; position 0 until the store has one.
        service: the keys of bots and admins.
        integrations: by id.
    """

    def __init__(self, secret: HubSecret, clock: Clock) -> None:
        self.secret: Versioned[SecretRecord] = Versioned(secret.record, 0)
        self.service = Versioned(ServiceRecord(), 0)
        self.integrations: dict[str, Versioned[IntegrationRecord]] = {}
        self.catalog = Catalog()
        self.blocklist = Blocklist()
        self.installations = Installations()
        self.hidden = HiddenEvents(secret, clock)
        self.readers = Readers()
        self.endpoints = Endpoints(self.integrations, clock)
        self.usage = Usage(clock)
        self.keyring = Keyring(secret, self.usage, clock)
        self._latch = PositionLatch()
        self._apply = _Appliers(
            {
                state.INTEGRATION.name: self._apply_integration,
                state.SERVICE.name: self._apply_service,
                state.SECRET.name: self._apply_secret,
                state.kind_name(state.KEY_USE.name): self.usage.apply,
                state.INSTALLATION.name: self.installations.apply,
                state.SHARING.name: self.hidden.apply_sharing,
                state.NOTICE.name: self.hidden.erasures.notices.apply,
                state.SENT.name: self.readers.sent.apply,
                state.ERASURE.name: self.hidden.apply_erasure,
                state.ERASED_SUBJECT.name: self.hidden.erasures.apply_subject,
                state.ERASURE_WORK.name: self.hidden.erasures.apply_work,
                state.BLOCK.name: self._apply_block,
                state.CLAIM.name: self.readers.apply_claim,
                state.CURSOR.name: self.readers.apply_cursor,
                state.EMITTER.name: self.usage.emitters.apply,
                state.IMPORT.name: self._apply_import,
                state.OVERSIGHT.name: self.readers.apply_oversight,
                state.ENDPOINT.name: self.endpoints.apply,
                state.PLACE.name: self.endpoints.apply_place,
                state.HUB.name: self.endpoints.apply_hub,
            }
        )

    def apply(self, entries: Iterable[Entry]) -> set[str]:
        """Apply state entries, in order; returns the ids of the integrations that they concern.

        Raises:
            StartError: the store was made with another secret, or its import is incomplete.
        """
        self.installations.begin()
        concerned: set[str] = set()
        for entry in entries:
            if entry.kind is Kind.STATE:
                concerned.update(self._apply(entry))
                if state.kind_name(entry.key) in _LISTED:
                    self.catalog.change_position = entry.position
        return concerned

    @property
    def through(self) -> int:
        """The position up to which everything is applied."""
        return self._latch.position

    def advance(self, through: int) -> None:
        """Record that everything up to a position is applied; wakes the callers of `wait_applied`."""
        self._latch.advance(through)

    async def wait_applied(self, position: int) -> None:
        """Wait until everything up to a position is applied here."""
        await self._latch.wait(position)

    def consent_position(self, integration_id: str) -> int:
        """The position of the newest entry of any guild's decision about an integration; 0 if there is none."""
        return max(self.installations.changed(integration_id), self.hidden.sharing.changed)

    def integration(self, integration_id: str) -> Versioned[IntegrationRecord]:
        """The newest record of an integration.

        Raises:
            IntegrationNotFound: there is no such integration.
        """
        versioned = self.integrations.get(integration_id)
        if versioned is None:
            raise IntegrationNotFound(integration_id)
        return versioned

    def integrations_after(self, place: tuple[int, str] | None, limit: int) -> list[Versioned[IntegrationRecord]]:
        """Up to `limit` integrations, the oldest first, after a place (creation time and id; None: from the oldest)."""
        return [self.integrations[integration_id] for integration_id in self.catalog.by_age_after(place, limit)]

    def keys_of(self, integration_id: str) -> tuple[KeyRecord, ...]:
        """The keys of an integration, or ("") the service keys, the newest first.

        Raises:
            IntegrationNotFound: there is no such integration.
        """
        return self.integration(integration_id).record.keys if integration_id else self.service.record.keys

    def key_name(self, key_id: str) -> str:
        """The name of a key: a service key's own, or that of its integration; "" for a key that is forgotten."""
        owner = self.keyring.owner(key_id)
        if owner is None:
            return ""
        if owner.integration_id:
            return self.integrations[owner.integration_id].record.display_name
        return owner.key.display_name

    def require_open(self, integration_id: str, *, say_why: bool = True) -> IntegrationRecord:
        """The record of an integration that may receive events; `say_why`: name the reason, for its developer alone.

        Raises:
            DeveloperBlocked, IntegrationPending, IntegrationSuspended, IntegrationRejected, IntegrationDeleted: it may
                not.
        """
        record = self.integration(integration_id).record
        lifecycle.require_open(record, say_why=say_why)
        self.blocklist.require_unblocked(record.owner_user_id, say_why=say_why)
        return record

    def is_listed(self, record: IntegrationRecord) -> bool:
        """Whether the directory shows an integration to everybody: it is open, documented, its owner not blocked."""
        return (
            record.state is State.ACTIVE
            and bool(record.documentation_url)
            and not self.blocklist.is_blocked(record.owner_user_id)
        )

    def _apply_integration(self, entry: Entry) -> tuple[str, ...]:
        record, change = state.INTEGRATION.decode(entry.body)
        grants = tuple(grant if grant.position else replace(grant, position=entry.position) for grant in record.grants)
        all_guilds_from = entry.position if record.all_guilds_from < 0 else record.all_guilds_from
        record = replace(record, grants=grants, all_guilds_from=all_guilds_from)
        versioned = self.integrations.get(record.integration_id)
        before = versioned.record if versioned is not None else None
        self.catalog.update(before, record)
        self.keyring.replace(record.integration_id, before.keys if before is not None else (), record.keys)
        self.integrations[record.integration_id] = Versioned(record, entry.position, change.reason)
        return (record.integration_id,)

    def _apply_service(self, entry: Entry) -> tuple[str, ...]:
        record = state.SERVICE.decode(entry.body).record
        self.keyring.replace(SERVICE_HOLDER, self.service.record.keys, record.keys)
        self.service = Versioned(record, entry.position)
        return (SERVICE_HOLDER,)

    def _apply_block(self, entry: Entry) -> list[str]:
        return self.catalog.owned_by(self.blocklist.apply(entry))

    def _apply_secret(self, entry: Entry) -> tuple[str, ...]:
        record = state.SECRET.decode(entry.body).record
        if record.check != self.secret.record.check:
            raise StartError(does_not_fit())
        self.secret = Versioned(record, entry.position)
        return ()

    def _apply_import(self, entry: Entry) -> tuple[str, ...]:
        if not state.IMPORT.decode(entry.body).done:
            raise StartError(
                "an import into this store did not finish, so it is incomplete: remove it (the data directory, or "
                "both NATS streams) and run 'hub import' again"
            )
        return ()


def etag(versioned: Versioned[IntegrationRecord]) -> str:
    """A tag that changes with every entry of an integration's record, and does not reveal its position.

    The time of the change is part of it: after a restore positions are assigned again, and the etag of a change that
    the restore has lost must not match another change.
    """
    record, position, _ = versioned
    return sha256(f"{record.integration_id}:{position}:{record.update_time}".encode()).hexdigest()[:16]
