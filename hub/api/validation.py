"""Checks requests by the contract's rules for fields (``buf.validate``), and reports violations."""

from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

import protovalidate
from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from tickets.hub.v1 import rules_pb2

from hub.api.rules import is_plainly_valid
from hub.api.status import MAX_VIOLATIONS
from hub.errors import InvalidRequest, Violation
from hub.text import nfc

_PACKAGE = rules_pb2.DESCRIPTOR.package
_RULES: Any = rules_pb2.DESCRIPTOR.pool.FindExtensionByName("buf.validate.field")

_validator = protovalidate.Validator()


def read(raw: bytes, parse: Any, limit: int) -> Message:  # noqa: ANN401  a generated class's FromString
    """The request in some bytes, its texts in NFC.

    Raises:
        InvalidRequest: there are too many bytes, or they are not such a message.
    """
    if len(raw) > limit:
        raise InvalidRequest.field(
            "", f"the request has {len(raw)} bytes, at most {limit} are allowed: send less at a time"
        )
    try:
        request: Message = parse(raw)
    except DecodeError:
        raise InvalidRequest.field(
            "", "the request is not a message of this method: check the client's protos"
        ) from None
    normalise(request)
    return request


def normalise(message: Message) -> None:
    """Convert each text for people to NFC, the form in which it is validated and stored."""
    for field in text_fields(message.DESCRIPTOR):
        value = getattr(message, field.name)
        if field.message_type is None:
            if not value.isascii():
                setattr(message, field.name, nfc(value))
        elif field.is_repeated:
            for one in value:
                normalise(one)
        elif message.HasField(field.name):
            normalise(value)


@cache
def text_fields(kind: Descriptor) -> tuple[FieldDescriptor, ...]:
    """The fields of a message that are texts for people (by the rule `readable`), or messages that contain some."""
    return tuple(field for field in kind.fields if _holds_text(field))


def _holds_text(field: FieldDescriptor) -> bool:
    part = field.message_type
    if part is not None:
        return part.file.package == _PACKAGE and bool(text_fields(part))
    rules = field.GetOptions().Extensions[_RULES]
    return bool(rules.string.Extensions[rules_pb2.readable])


def check(request: Message, prefix: str = "", only: Collection[str] | None = None) -> None:
    """Check a message by the rules in the contract.

    Args:
        request: the message.
        prefix: is put before the path of each field.
        only: the fields to look at; None = all of them.

    Raises:
        InvalidRequest: names the fields that break a rule.
    """
    if is_plainly_valid(request):
        return
    violations = _validator.collect_violations(request)
    if only is not None:
        violations = [one for one in violations if one.proto.field and one.proto.field.elements[0].field_name in only]
    if violations:
        raise InvalidRequest(_described(violation, prefix) for violation in violations[:MAX_VIOLATIONS])


def check_apart(request: Message, field: str) -> dict[int, InvalidRequest]:
    """Check a message, and each part in its list `field` separately.

    Returns:
        The violations of invalid parts, by their index.

    Raises:
        InvalidRequest: something else is wrong with the message.
    """
    if is_plainly_valid(request):
        return {}
    whole: list[Violation] = []
    parts: dict[int, list[Violation]] = {}
    for violation in _validator.collect_violations(request):
        head = violation.proto.field.elements[0] if violation.proto.field else None
        index = head.subscript.value if head and head.field_name == field and head.subscript else None
        into = parts.setdefault(index, []) if isinstance(index, int) else whole
        into.append(_described(violation, ""))
    if whole:
        raise InvalidRequest(whole[:MAX_VIOLATIONS])
    return {index: InvalidRequest(found[:MAX_VIOLATIONS]) for index, found in parts.items()}


def below(path: str, error: InvalidRequest) -> InvalidRequest:
    """The failure of a part of a request as one of the request: the part is at this path."""
    return InvalidRequest(Violation(f"{path}.{one.field}", one.description) for one in error.violations)


def learn_rules(services: Iterable[ServiceDescriptor]) -> None:
    """Compile all validators at start (about 40 ms), so that the first requests do not pay for it."""
    for service in services:
        for method in service.methods:
            request = GetMessageClass(method.input_type)()
            normalise(request)
            is_plainly_valid(request)
            _validator.collect_violations(request)


def _described(violation: protovalidate.Violation, prefix: str) -> Violation:
    proto = violation.proto
    path = ".".join(
        element.field_name + (f"[{element.subscript.value}]" if element.subscript else "")
        for element in (proto.field.elements if proto.field else ())
    )
    text = "is required" if proto.rule_id == "required" else proto.message or proto.rule_id
    return Violation(".".join(part for part in (prefix, path) if part), text)
