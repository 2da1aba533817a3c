"""The endpoints of integrations, as of the last entry applied: their records, places, and the hubs that run them.

The URL of the endpoint "default" is the integration's own field: one state, whichever way it was changed. So the record
of that endpoint is what follows from both entries; a change of the endpoint appends both at once.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256

from msgspec.structs import replace

from hub.clock import Clock
from hub.control.versioned import Versioned
from hub.endpoint_model import AttemptsRecord, EndpointRecord, EndpointState, PlaceRecord
from hub.errors import EndpointNotFound
from hub.model import Entry, IntegrationRecord, State
from hub.state import ENDPOINT, HUB, PLACE

DEFAULT = "default"
"""The endpoint whose URL is ``Integration.endpoint_url``."""

OWN = -1
"""As a position in a record: the position of the record's own entry."""


class Endpoints:
    """All endpoints, by "<integration>/<endpoint>".

    Attributes:
        places: the place of each, and which hub runs it.
        heartbeats: by replica, the monotonic time of its last heartbeat.
    """

    def __init__(self, integrations: Mapping[str, Versioned[IntegrationRecord]], clock: Clock) -> None:
        self.places: dict[str, Versioned[PlaceRecord]] = {}
        self.heartbeats: dict[str, float] = {}
        self._integrations = integrations
        self._clock = clock
        self._stored: dict[str, dict[str, Versioned[EndpointRecord]]] = {}

    def apply(self, entry: Entry) -> tuple[str, ...]:
        """Apply a change of an endpoint."""
        record = ENDPOINT.decode(entry.body).record
        if record.start_position == OWN:
            record = replace(record, start_position=entry.position, start_time=entry.time)
        self._stored.setdefault(record.integration_id, {})[record.endpoint_id] = Versioned(record, entry.position)
        return (record.integration_id,)

    def apply_place(self, entry: Entry) -> tuple[str, ...]:
        """Apply a place; it concerns an integration where another hub has taken an endpoint over."""
        name = PLACE.rest(entry.key)
        before = self.places.get(name)
        if not entry.body:
            self.places.pop(name, None)
            return ()
        record = PLACE.decode(entry.body)
        self.places[name] = Versioned(record, entry.position)
        is_same = before is not None and before.record.holder == record.holder
        return () if is_same else (name.partition("/")[0],)

    def apply_hub(self, entry: Entry) -> tuple[str, ...]:
        """Apply a heartbeat of a replica, or its tombstone."""
        if entry.body:
            self.heartbeats[HUB.rest(entry.key)] = self._clock.monotonic()
        else:
            self.heartbeats.pop(HUB.rest(entry.key), None)
        return ()

    def position(self, integration_id: str, endpoint_id: str) -> int:
        """The position of the newest entry of an endpoint, deleted ones included; 0: there is none."""
        stored = self._stored.get(integration_id, {}).get(endpoint_id)
        return stored.position if stored is not None else 0

    def following(self, record: EndpointRecord) -> EndpointRecord:
        """A new endpoint that follows a deleted one of the same name, without inheriting its place."""
        stored = self._stored.get(record.integration_id, {}).get(record.endpoint_id)
        if stored is None:
            return record
        before = stored.record
        return replace(record, generation=before.generation + 1, activations=before.activations)

    def find(self, integration_id: str, endpoint_id: str) -> Versioned[EndpointRecord] | None:
        """An endpoint; None where the integration has none of this id."""
        stored = self._stored.get(integration_id, {}).get(endpoint_id)
        if stored is not None and stored.record.deleted:
            stored = None
        integration = self._integrations.get(integration_id)
        if integration is None or integration.record.state is State.DELETED:
            return None
        return stored if endpoint_id != DEFAULT else self._default(integration.record, stored)

    def _default(
        self, integration: IntegrationRecord, stored: Versioned[EndpointRecord] | None
    ) -> Versioned[EndpointRecord] | None:
        """The endpoint whose URL is a field of the integration."""
        if not integration.endpoint_url:
            return None
        if stored is None:
            times = (integration.create_time, integration.update_time)
            made = EndpointRecord(integration.integration_id, DEFAULT, integration.endpoint_url, *times)
            return Versioned(self.following(made), self.position(integration.integration_id, DEFAULT))
        return Versioned(moved(stored.record, integration.endpoint_url), stored.position, stored.reason)

    def require(self, integration_id: str, endpoint_id: str) -> Versioned[EndpointRecord]:
        """An endpoint.

        Raises:
            EndpointNotFound: the integration has none of this id.
        """
        found = self.find(integration_id, endpoint_id)
        if found is None:
            raise EndpointNotFound(endpoint_id)
        return found

    def of(self, integration_id: str) -> list[Versioned[EndpointRecord]]:
        """The endpoints of an integration, by their ids."""
        names = sorted({*self._stored.get(integration_id, ()), DEFAULT})
        return [found for name in names if (found := self.find(integration_id, name)) is not None]

    def place(self, record: EndpointRecord) -> PlaceRecord:
        """The place of an endpoint as it is stored: its own, or the one where its generation starts."""
        stored = self.places.get(name_of(record))
        if stored is not None and stored.record.generation == record.generation:
            return stored.record
        before = stored.record if stored is not None else None
        return PlaceRecord(
            record.generation,
            "",
            record.start_epoch,
            record.start_position,
            record.start_time or record.create_time,
            activation=before.activation if before is not None else 0,
            scopes=before.scopes if before is not None else (),
            attempts=before.attempts if before is not None else AttemptsRecord(),
        )

    def all(self) -> Iterator[EndpointRecord]:
        """Every endpoint that has a record of its own; those whose secret was shown are among them."""
        for integration_id in list(self._stored):  # what each holds is read when it is its turn
            yield from (stored.record for stored in self.of(integration_id) if stored.position)


def moved(record: EndpointRecord, url: str) -> EndpointRecord:
    """An endpoint with another URL, which has to be verified, unless the endpoint is switched off."""
    if record.url == url:
        return record
    is_on = record.state in (EndpointState.ACTIVE, EndpointState.FAILING)
    return replace(record, url=url, state=EndpointState.UNVERIFIED if is_on else record.state)


def name_of(record: EndpointRecord) -> str:
    """The full name of an endpoint: "<integration>/<endpoint>"."""
    return f"{record.integration_id}/{record.endpoint_id}"


def etag_of(versioned: Versioned[EndpointRecord]) -> str:
    """A tag that changes with every change of an endpoint, and does not reveal a position."""
    record, position, _ = versioned
    return sha256(f"{name_of(record)}:{position}:{record.update_time}:{record.url}".encode()).hexdigest()[:16]
