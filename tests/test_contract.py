"""The contract itself: who may call what, the rule of each field, and the published descriptor set."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from tickets.hub.v1 import permissions_pb2

from hub import permissions as table
from hub.permissions import SERVICES

ROOT = Path(__file__).parents[1]
PACKAGE = "tickets.hub.v1."
METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]
PAYLOADS = [field.message_type for field in table.PAYLOAD_ONEOF.fields if field.message_type is not None]

RULES: Any = descriptor_pool.Default().FindExtensionByName("buf.validate.field")
IGNORE_ALWAYS = 3
RULED = {
    *(FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64),
    *(
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
        FieldDescriptor.TYPE_DOUBLE,
        FieldDescriptor.TYPE_FLOAT,
    ),
}
"""Kinds of field that have to say what they take; so has every list."""

UNCHECKED = {
    "UpdateIntegrationRequest.integration": "the rules hold for what comes of the mask: the handler checks that",
    "UpdateProfileRequest.integration": "the same",
    "UpdateServiceKeyRequest.key": "the same",
    "UpdateEndpointRequest.endpoint": "the same",
}
"""Request fields that are not checked before the handler, each with the reason."""


def rules(field: FieldDescriptor) -> Any:  # noqa: ANN401  buf.validate.FieldRules has no stub
    """What buf.validate says about a field; empty where it says nothing."""
    return field.GetOptions().Extensions[RULES]


def request_fields(message: Descriptor, seen: set[str]) -> Iterator[FieldDescriptor]:
    """Every field that a caller can fill, as deep as messages are ours and are checked."""
    if not message.full_name.startswith(PACKAGE) or message.full_name in seen:
        return
    seen.add(message.full_name)
    for field in message.fields:
        yield field
        if field.message_type is not None and rules(field).ignore != IGNORE_ALWAYS:
            yield from request_fields(field.message_type, seen)


def test_every_method_says_who_may_call_it() -> None:
    """No method of the contract is without roles; the hub would refuse everyone."""
    roles = {
        f"{method.containing_service.name}/{method.name}": list(
            method.GetOptions().Extensions[permissions_pb2.access].roles
        )
        for method in METHODS
    }
    assert [name for name, allowed in roles.items() if not allowed or 0 in allowed] == []


def test_every_method_is_served() -> None:
    """The services that the hub serves are those of the contract's files, none forgotten."""
    written = re.findall(r"^service (\w+)", "\n".join(file.read_text() for file in protos()), re.MULTILINE)
    assert sorted(written) == sorted(service.name for service in SERVICES)


def protos() -> list[Path]:
    """The contract's files."""
    return sorted((ROOT / "protos").rglob("*.proto"))


def test_everything_has_a_comment() -> None:
    """Each service, method, message, field, enum and value has a sentence of its own before it."""
    bare, methods = [], 0
    thing = re.compile(
        r"\s*(rpc|message|enum|service|extend) |\s*(optional |repeated )?[\w.]+ \w+ = \d+|\s*[A-Z][A-Z0-9_]+ = \d+"
    )
    for file in protos():
        before = ""
        for number, line in enumerate(file.read_text().splitlines(), 1):
            methods += line.lstrip().startswith("rpc ")
            if thing.match(line) and not line.startswith("extend ") and not before.lstrip().startswith("//"):
                bare.append(f"{file.name}:{number}: {line.strip()}")
            before = line
    assert bare == []
    assert methods == len(METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_request_field_has_its_rule(method: MethodDescriptor) -> None:
    """Texts, numbers and lists that a caller sends have bounds; what is left out is listed above, with why."""
    fields = list(request_fields(method.input_type, set()))
    named = {f"{field.containing_type.name}.{field.name}": field for field in fields if field.containing_type}
    bare = [
        name
        for name, field in named.items()
        if (field.type in RULED or field.is_repeated) and not rules(field).ByteSize()
    ]
    ignored = [name for name, field in named.items() if rules(field).ignore == IGNORE_ALWAYS]
    assert bare == []
    assert set(ignored) <= set(UNCHECKED)


def test_every_scope_is_described() -> None:
    """Every value of Scope but the unspecified one has a name of its own, a level, a title and a description."""
    scopes = [
        value.GetOptions().Extensions[permissions_pb2.scope] for value in permissions_pb2.Scope.DESCRIPTOR.values[1:]
    ]
    assert all(rule.name and rule.level and rule.title and rule.description for rule in scopes)
    names = [value.name.removeprefix("SCOPE_").lower() for value in permissions_pb2.Scope.DESCRIPTOR.values[1:]]
    assert [rule.name for rule in scopes] == names


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: payload.name)
def test_every_payload_is_delivered_to_somebody(payload: Descriptor) -> None:
    """A payload names the scopes that deliver it, and has no field that no scope grants."""
    assert 0 not in payload.GetOptions().Extensions[permissions_pb2.delivered_to]
    assert payload.GetOptions().Extensions[permissions_pb2.delivered_to]
    [name] = [field.name for field in table.PAYLOAD_ONEOF.fields if field.message_type is payload]
    shown = {path for scope in table.SCOPES for path in table.fields_of(scope)}
    assert {f"{name}.{field.name}" for field in payload.fields} <= shown


@pytest.fixture(scope="module")
def published() -> Any:  # noqa: ANN401  a FileDescriptorSet of its own pool
    """The published descriptor set, read by nothing but what stands in it: its options are those of its own files."""
    content = (ROOT / "generated" / "tickets_hub.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(content).file:
        pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("google.protobuf.FileDescriptorSet")).FromString(content)


def test_the_published_set_is_complete(published: Any) -> None:  # noqa: ANN401  see above
    """It holds our files and those of google, whole: nothing of buf.validate, nothing that it cannot read itself."""
    folders = {file.name.rpartition("/")[0] for file in published.file}
    assert folders == {"google/protobuf", "google/rpc", "tickets/hub/v1"}
    assert b"validate" not in published.SerializeToString()
    assert [str(message) for file in published.file for message in unread(file)] == []


def test_the_published_set_is_ordered_by_imports(published: Any) -> None:  # noqa: ANN401  see above
    """Every file is there once, and after all that it imports: some languages read the set only once."""
    seen: list[str] = []
    for file in published.file:
        assert file.name not in seen
        assert set(file.dependency) <= set(seen), file.name
        seen.append(file.name)


def test_a_file_has_all_of_its_comments_or_none(published: Any) -> None:  # noqa: ANN401  see above
    """A file that was stripped of its comments says nothing of its source: Rust's prost trusts what is there."""
    with_comments = {file.name for file in published.file if file.HasField("source_code_info")}
    assert with_comments == {file.name for file in published.file if file.package == "tickets.hub.v1"}


def test_an_error_can_be_read_with_the_published_set_alone(published: Any) -> None:  # noqa: ANN401  see above
    """The status of a failed call, and every kind of detail that the hub puts into one, is described in it."""
    pool = descriptor_pool.DescriptorPool()
    for file in published.file:
        pool.AddSerializedFile(file.SerializeToString())
    details = [ErrorInfo(reason="KEY_REVOKED"), RetryInfo(retry_delay={"seconds": 3}), BadRequest()]
    sent = Status(code=16, message="revoked")
    for detail in details:
        sent.details.add().Pack(detail)
    read: Any = GetMessageClass(pool.FindMessageTypeByName("google.rpc.Status")).FromString(sent.SerializeToString())
    for box, detail in zip(read.details, details, strict=True):
        kind = GetMessageClass(pool.FindMessageTypeByName(box.type_url.rpartition("/")[2]))
        assert str(kind.FromString(box.value)) == str(detail)
    assert pool.FindEnumTypeByName("google.rpc.Code").values_by_number[read.code].name == "UNAUTHENTICATED"


def unread(message: Message) -> Iterator[Message]:
    """The messages in a message that hold fields which their pool does not know."""
    if len(UnknownFieldSet(message)):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                yield from unread(one)


def test_the_published_set_keeps_the_comments(published: Any) -> None:  # noqa: ANN401  see above
    """All of our elements have their comments, as in the protos: generators for other languages show them."""
    comments = {
        place.leading_comments.strip().partition("\n")[0]
        for file in published.file
        for place in file.source_code_info.location
    }
    commented = re.compile(r"^ *// (.*)\n(?: *//.*\n)* *(?:rpc|message|service|enum|\w+(?: \w+)* = \d+)", re.MULTILINE)
    files = [file for file in protos() if file.name != "rules.proto"]
    assert [line for file in files for line in commented.findall(file.read_text()) if line not in comments] == []


def test_the_published_set_keeps_the_permission_table(published: Any) -> None:  # noqa: ANN401  see above
    """Scopes and roles can be read from it as from the protos: they are what other languages need."""
    text = str(published)
    assert text.count("[tickets.hub.v1.access]") == len(METHODS)
    assert text.count("[tickets.hub.v1.scope]") == len(table.SCOPES)
    assert text.count("[tickets.hub.v1.delivered_to]") == sum(len(one.delivered_to) for one in table.PAYLOADS.values())
