"""Converts endpoints and their attempts to the contract's messages."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from tickets.hub.v1 import developer_service_pb2, permissions_pb2, webhook_service_pb2

from hub.api import convert
from hub.api.masks import masked
from hub.api.validation import check
from hub.control.endpoints import etag_of
from hub.control.versioned import Versioned
from hub.endpoint_model import BodyFormat, EndpointRecord, PlaceRecord
from hub.webhooks.attempts import Attempt

UPDATABLE = ("url", "format", "max_batch_size", "scopes", "guild_ids", "max_rate")
DEFAULTS = {"format": BodyFormat.JSON, "max_batch_size": 100, "max_rate": 20}


def endpoint(  # noqa: PLR0913  what it is made of
    versioned: Versioned[EndpointRecord],
    place: PlaceRecord,
    cursor: str,
    lag: float,
    public_key: str,
    *,
    overlaps: bool,
) -> webhook_service_pb2.Endpoint:
    """An endpoint as its developer sees it; `overlaps`: its former secret still signs."""
    record, attempts = versioned.record, place.attempts
    return webhook_service_pb2.Endpoint(
        endpoint_id=record.endpoint_id,
        url=record.url,
        state=webhook_service_pb2.EndpointState.ValueType(record.state),
        format=webhook_service_pb2.BodyFormat.ValueType(record.format),
        max_batch_size=record.max_batch_size,
        scopes=[permissions_pb2.Scope.ValueType(scope) for scope in record.scopes],
        guild_ids=[str(guild) for guild in record.guild_ids],
        max_rate=record.max_rate,
        cursor=cursor,
        commit_time=convert.timestamp(place.commit_time),
        lag=convert.duration(lag),
        last_failure=webhook_service_pb2.DeliveryFailure.ValueType(attempts.failure),
        http_status=attempts.http_status,
        failing_since=convert.timestamp(attempts.failing_since),
        failed_attempts=attempts.failures,
        next_attempt_time=convert.timestamp(attempts.next_time),
        last_success_time=convert.timestamp(attempts.last_success_time),
        public_key=public_key,
        previous_secret_expire_time=convert.timestamp(record.previous_expire_time) if overlaps else None,
        disable_reason=record.disable_reason,
        create_time=convert.timestamp(record.create_time),
        update_time=convert.timestamp(record.update_time),
        etag=etag_of(versioned),
    )


def own(record: EndpointRecord) -> developer_service_pb2.OwnEndpoint:
    """The state of an endpoint, in a list of integrations."""
    return developer_service_pb2.OwnEndpoint(
        integration_id=record.integration_id,
        endpoint_id=record.endpoint_id,
        state=webhook_service_pb2.EndpointState.ValueType(record.state),
        disable_reason=record.disable_reason,
    )


def attempt(one: Attempt) -> webhook_service_pb2.Attempt:
    """One request."""
    failure = one.outcome.failure
    shown = one.body if failure is not None else one.body._replace(first_event_id="")
    return webhook_service_pb2.Attempt(
        time=convert.timestamp(one.time),
        type=shown.kind,
        events=shown.events,
        http_status=one.outcome.status,
        category=webhook_service_pb2.DeliveryFailure.ValueType(failure or 0),
        duration=convert.duration(one.outcome.seconds),
        next_attempt_time=convert.timestamp(one.next_time),
        first_event_id=shown.first_event_id,
        cursor_after=shown.cursor if failure is not None and shown.events == 1 else "",
    )


def updates(new: webhook_service_pb2.Endpoint, mask: FieldMask) -> dict[str, Any]:
    """The new values of the fields that an update changes.

    Raises:
        InvalidRequest: the mask names a field that cannot be updated, or a value breaks a rule of the contract.
    """
    names = masked(new, mask, UPDATABLE)
    check(new, "endpoint", names)
    return values(new, names)


def values(new: webhook_service_pb2.Endpoint, names: Sequence[str] = UPDATABLE) -> dict[str, Any]:
    """The fields of an endpoint in its record's form; fields that are not set get their defaults."""
    found: dict[str, Any] = {
        "url": new.url,
        "format": BodyFormat(new.format or DEFAULTS["format"]),
        "max_batch_size": new.max_batch_size or DEFAULTS["max_batch_size"],
        "scopes": tuple(sorted(new.scopes)),
        "guild_ids": tuple(sorted(int(guild) for guild in new.guild_ids)),
        "max_rate": new.max_rate or DEFAULTS["max_rate"],
    }
    return {name: found[name] for name in names}
