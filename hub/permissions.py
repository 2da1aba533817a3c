"""The permission table, read from the contract's options. No scope, level or role is written a second time in Python.

It has the options of ``permissions.proto`` about scopes, payloads, fields and methods. Must not know what was granted
to whom.
"""

from dataclasses import dataclass
from functools import cache

from google.protobuf.descriptor import FieldDescriptor, ServiceDescriptor
from tickets.hub.v1 import (
    admin_service_pb2,
    developer_service_pb2,
    directory_service_pb2,
    event_pb2,
    event_service_pb2,
    permissions_pb2,
    privacy_service_pb2,
    webhook_service_pb2,
)

from hub.model import Role

SERVICES: list[ServiceDescriptor] = [
    event_service_pb2.DESCRIPTOR.services_by_name["EventService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
    developer_service_pb2.DESCRIPTOR.services_by_name["DeveloperService"],
    directory_service_pb2.DESCRIPTOR.services_by_name["DirectoryService"],
    privacy_service_pb2.DESCRIPTOR.services_by_name["PrivacyService"],
    webhook_service_pb2.DESCRIPTOR.services_by_name["WebhookService"],
]
"""The services of the contract."""

PAYLOAD_ONEOF = event_pb2.Event.DESCRIPTOR.oneofs_by_name["payload"]


@dataclass(frozen=True, slots=True)
class Scope:
    """One row of the table: the number in ``enum Scope``, and its options."""

    number: int
    name: str
    level: int
    title: str
    description: str


@dataclass(frozen=True, slots=True)
class Payload:
    """One kind of event.

    Attributes:
        number: of its field in ``Event``; this is the `event_type` of log entries.
        name: of that field: "member_verified".
        delivered_to: the scopes of which any one delivers it.
        requires: for each field that needs more, by name, the scope that shows it.
        fields: the names of all its fields.
        subjects: those that name Discord users.
    """

    number: int
    name: str
    delivered_to: frozenset[int]
    requires: dict[str, int]
    fields: tuple[str, ...]
    subjects: tuple[str, ...]

    def withheld(self, scopes: frozenset[int]) -> frozenset[str] | None:
        """The names of the fields that these scopes do not show; None if they do not deliver the event at all."""
        if not self.delivered_to & scopes:
            return None
        return frozenset(name for name, scope in self.requires.items() if scope not in scopes)


def _read_scopes() -> dict[int, Scope]:
    table = {}
    for value in permissions_pb2.Scope.DESCRIPTOR.values:
        rule = value.GetOptions().Extensions[permissions_pb2.scope]
        if value.number:
            table[value.number] = Scope(value.number, rule.name, rule.level, rule.title, rule.description)
    return table


def _read_payload(field: FieldDescriptor) -> Payload:
    message = field.message_type
    assert message is not None  # noqa: S101  every payload is a message; this tells mypy
    options = {f.name: f.GetOptions() for f in message.fields}
    return Payload(
        number=field.number,
        name=field.name,
        delivered_to=frozenset(message.GetOptions().Extensions[permissions_pb2.delivered_to]),
        requires={
            name: option.Extensions[permissions_pb2.requires]
            for name, option in options.items()
            if option.HasExtension(permissions_pb2.requires)
        },
        fields=tuple(f.name for f in message.fields),
        subjects=tuple(name for name, option in options.items() if option.Extensions[permissions_pb2.subject]),
    )


SCOPES: dict[int, Scope] = _read_scopes()
"""Every scope, by its number, in the order of the contract."""

PAYLOADS: dict[int, Payload] = {field.number: _read_payload(field) for field in PAYLOAD_ONEOF.fields}
"""Every kind of event, by the number of its field in ``Event``."""

EVENT_TYPES: dict[str, int] = {payload.name: number for number, payload in PAYLOADS.items()}
"""The numbers of the kinds of event, by their names."""


def fields_of(scope: int) -> tuple[str, ...]:
    """The fields that a scope delivers: "ticket_created.creator_user_id"; of a payload without fields its name."""
    shown = []
    for payload in PAYLOADS.values():
        withheld = payload.withheld(frozenset({scope}))
        if withheld is not None:
            names = [f"{payload.name}.{name}" for name in payload.fields if name not in withheld]
            shown.extend(names or [payload.name])
    return tuple(shown)


def withheld_fields(scopes: frozenset[int]) -> tuple[str, ...]:
    """The fields that events delivered by these scopes lack: "member_verified.user_id"."""
    return tuple(
        f"{payload.name}.{name}"
        for payload in PAYLOADS.values()
        for name in payload.fields
        if name in (payload.withheld(scopes) or ())
    )


@cache
def names_of(scopes: frozenset[int]) -> str:
    """The names of scopes as people read them, in the order of the contract, separated by ", "."""
    return ", ".join(scope.name for number, scope in SCOPES.items() if number in scopes)


def roles_allowed(service: ServiceDescriptor) -> dict[str, frozenset[Role]]:
    """The roles that may call each method of a service, by its path; nobody may call a method without the option."""
    return {
        f"/{service.full_name}/{method.name}": frozenset(
            Role(number) for number in method.GetOptions().Extensions[permissions_pb2.access].roles
        )
        for method in service.methods
    }
