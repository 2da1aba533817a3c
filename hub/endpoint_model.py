"""The values of webhooks: endpoints, their places, the hubs that run them. It continues ``model.py``."""

from enum import IntEnum

import msgspec

from hub.model import Cursor


class EndpointState(IntEnum):
    """The state of an endpoint, with the numbers of ``enum EndpointState``."""

    UNVERIFIED = 1
    ACTIVE = 2
    FAILING = 3
    PAUSED = 4
    DISABLED = 5


class BodyFormat(IntEnum):
    """The format of a request's body, with the numbers of ``enum BodyFormat``."""

    JSON = 1
    CLOUDEVENTS = 2
    PROTOBUF = 3


class SigningRecord(msgspec.Struct, frozen=True):
    """What an endpoint's secret is derived from: a random salt, and the check of the hub's secret that was in force."""

    salt: str
    check: str


class EndpointRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A URL to which the hub delivers what an integration may see.

    Attributes:
        state: FAILING is ACTIVE while the newest requests fail.
        scopes, guild_ids: it gets only these; empty = no limit.
        max_rate: requests a second.
        activations: how often it was resumed or verified.
        generation: the generation of its place; a place of another generation does not count.
        start_epoch, start_position, start_time: the place of a generation that has none yet; position -1 in an entry
            stands for that entry's own.
        signing: None: its secret was never shown.
        previous: the former secret, which signs, too, until `previous_expire_time`.
        verified_url, verify_time: which URL was verified, and when.
        forgeries: how often in a row it accepted a forged request.
        by_admin: an admin disabled it.
    """

    integration_id: str
    endpoint_id: str
    url: str
    create_time: int
    update_time: int
    state: EndpointState = EndpointState.UNVERIFIED
    format: BodyFormat = BodyFormat.JSON
    max_batch_size: int = 100
    scopes: tuple[int, ...] = ()
    guild_ids: tuple[int, ...] = ()
    max_rate: int = 20
    activations: int = 0
    generation: int = 0
    start_epoch: int = 0
    start_position: int = 0
    start_time: int = 0
    signing: SigningRecord | None = None
    previous: SigningRecord | None = None
    previous_expire_time: int = 0
    verified_url: str = ""
    verify_time: int = 0
    forgeries: int = 0
    disable_reason: str = ""
    by_admin: bool = False
    deleted: bool = False


class AttemptsRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Outcomes of the newest attempts. Times in microseconds; `failing_for` in seconds of running time.

    Attributes:
        activation: of the endpoint; what failed before another one does not count.
    """

    failures: int = 0
    failing_since: int = 0
    failing_for: float = 0.0
    next_time: int = 0
    failure: int = 0
    http_status: int = 0
    last_success_time: int = 0
    activation: int = 0


class PlaceRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far an endpoint is, and which hub runs it.

    Attributes:
        generation: of the endpoint for which it counts.
        holder: the hub that runs it.
        epoch, position, time: the receiver has everything up to there.
        activation: the newest activation of the endpoint that the receiver knows of.
        scopes: those that the receiver knows of.
    """

    generation: int
    holder: str
    epoch: int
    position: int
    time: int
    commit_time: int = 0
    activation: int = 0
    scopes: tuple[int, ...] = ()
    attempts: AttemptsRecord = AttemptsRecord()

    @property
    def cursor(self) -> Cursor:
        """The place as a cursor."""
        return Cursor(self.epoch, self.position, self.time)


class HubRecord(msgspec.Struct, frozen=True):
    """The heartbeat of a replica: it writes this record periodically while it runs endpoints."""

    beat_time: int
