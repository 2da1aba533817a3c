"""A fast path of validation: recognises messages that keep the contract's rules, without calling protovalidate.

protovalidate evaluates each predefined rule in CEL, which triples the cost of checking a list of events; with standard
patterns in their place it would still be two thirds dearer than this (docs/adr/0007-hot-path.md). Here the same
options are read once and compiled to Python checks. They only ever say yes: a message that fails one, or that has a
rule of a kind not listed here, goes to protovalidate, which decides and explains. No rule is written in this module.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from buf.validate import validate_pb2 as validate_pb2  # noqa: PLC0414  puts the options' descriptors into the pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.message import Message

Check = Callable[[Any], object]
"""Given a message or a value: true if it keeps its rules."""

_IGNORE_IF_ZERO = 1
_MATCHES = re.compile(r"!rule \|\| this\.matches\('\^([A-Za-z0-9._:,|(){}\[\]-]+)\$'\)")
"""A rule that is one pattern without escapes or flags: it means the same to RE2 and to Python."""


class _UnsupportedError(Exception):
    """A rule that only protovalidate can check."""


_checks: dict[Any, Check] = {}


def is_plainly_valid(request: Message) -> bool:
    """Whether a message is known to keep its rules. False means unknown: ask protovalidate."""
    check = _checks.get(type(request))
    if check is None:
        check = _checks[type(request)] = _compile(type(request).DESCRIPTOR)
    return bool(check(request))


def _compile(message: Any) -> Check:  # noqa: ANN401  a descriptor, of which the stubs know two classes
    try:
        return _all(_message_checks(message))
    except _UnsupportedError:
        return lambda _: False


def _all(checks: Sequence[Check]) -> Check:
    """A check that passes if all of them do."""
    if len(checks) == 1:
        return checks[0]

    def passes(value: Any) -> bool:  # noqa: ANN401  a message, or a value
        for check in checks:  # noqa: SIM110  all() with a generator takes three times as long
            if not check(value):
                return False
        return True

    return passes


def _message_checks(message: Descriptor) -> list[Check]:
    """The checks of a message; none if it has no rules."""
    _reject(_rules(message))
    plain = [field for field in message.fields if field.containing_oneof is None or field.message_type is None]
    checks = [*map(_field_check, plain), *map(_oneof_check, message.oneofs)]
    return [check for check in checks if check is not None]


def _oneof_check(oneof: OneofDescriptor) -> Check | None:
    """Checks the one message that is set in a oneof."""
    required = any(rules.required for rules in _rules(oneof).values())
    members = {field.name: _all(_message_checks(field.message_type)) for field in oneof.fields if field.message_type}
    if not (required or members):
        return None

    def passes(value: Any) -> object:  # noqa: ANN401
        name = value.WhichOneof(oneof.name)
        return members[name](getattr(value, name)) if name in members else name is not None or not required

    return passes


def _field_check(field: FieldDescriptor) -> Check | None:
    """The check of one field; None if it has no rules."""
    options = _rules(field).get("buf.validate.field")
    rules = {option.name: value for option, value in options.ListFields()} if options is not None else {}
    if field.is_repeated:
        return _list_check(field, rules)
    if field.message_type is not None:
        return _part_check(field, rules)
    return _scalar_check(field, rules)


def _list_check(field: FieldDescriptor, rules: dict[str, Any]) -> Check:
    """A list of messages, with bounds on its length."""
    if _type(field).GetOptions().map_entry:
        raise _UnsupportedError
    bounds = {option.name: value for option, value in rules.pop("repeated").ListFields()} if "repeated" in rules else {}
    least, most = bounds.pop("min_items", int(rules.pop("required", False))), bounds.pop("max_items", 2**63)
    _reject(rules or bounds)
    name, each = field.name, _all(_message_checks(_type(field)))

    def passes(value: Any) -> bool:  # noqa: ANN401
        parts = getattr(value, name)
        return least <= len(parts) <= most and all(map(each, parts))

    return passes


def _part_check(field: FieldDescriptor, rules: dict[str, Any]) -> Check | None:
    """A message inside a message: its rules apply if it is set."""
    required = rules.pop("required", False)
    _reject(rules)
    name, checks = field.name, _message_checks(_type(field))
    if not (required or checks):
        return None
    inside = _all(checks)
    return lambda value: inside(getattr(value, name)) if value.HasField(name) else not required


def _scalar_check(field: FieldDescriptor, rules: dict[str, Any]) -> Check | None:
    """A number or a text."""
    may_be_zero = rules.pop("ignore", 0) == _IGNORE_IF_ZERO
    required = rules.pop("required", False)
    tests = [test for kind in rules.values() for test in _tests(kind)]
    if not tests:
        return None
    name, test = field.name, _all(tests)
    if field.has_presence:
        return lambda value: not value.HasField(name) or test(getattr(value, name))
    if may_be_zero:
        return lambda value: not (found := getattr(value, name)) or test(found)
    if required:
        return lambda value: (found := getattr(value, name)) and test(found)
    return lambda value: test(getattr(value, name))


def _tests(rules: Any) -> Iterator[Check]:  # noqa: ANN401  StringRules, Int64Rules, ...
    """The rules of one field as tests of its value."""
    if not hasattr(rules, "ListFields"):
        raise _UnsupportedError
    for option, value in rules.ListFields():
        if option.is_extension and value is True:
            yield from (_pattern(rule.expression) for rule in _rules(option)["buf.validate.predefined"].cel)
        elif option.name == "gte" and isinstance(value, int):
            yield value.__le__
        else:
            raise _UnsupportedError


def _pattern(expression: str) -> Check:
    """A predefined rule, if all that it says is a pattern."""
    found = _MATCHES.fullmatch(expression)
    if found is None:
        raise _UnsupportedError
    return re.compile(found[1]).fullmatch


def _rules(described: Descriptor | FieldDescriptor | OneofDescriptor) -> dict[str, Any]:
    """The options of buf.validate on a part of the contract, by name."""
    options = described.GetOptions().ListFields()
    return {option.full_name: value for option, value in options if option.full_name.startswith("buf.validate.")}


def _type(field: FieldDescriptor) -> Descriptor:
    """The message type of a field."""
    if field.message_type is None:
        raise _UnsupportedError
    return field.message_type


def _reject(rules: dict[str, Any]) -> None:
    """Give up if there are rules left that no check covers."""
    if rules:
        raise _UnsupportedError
