"""A quick yes: most messages keep the contract's rules, and to see that should cost little.

protovalidate takes about 1.3 us for each rule in CEL, whatever the rule says, and an event has up to three; that was a
third of the hub's time for a list of events. Here the same options are read once and made into Python. This never says
no: what is not plainly right goes to protovalidate, which judges and tells why, and so does every message with a rule
that is not understood here. Must not know any rule by itself.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, cast

from buf.validate import validate_pb2 as validate_pb2  # noqa: PLC0414  puts the options' descriptors into the pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.message import Message

Keeps = Callable[[Any], bool]
"""Whether a message, or a value, plainly keeps its rules."""

_IGNORE_IF_ZERO = 1
_TOKEN = re.compile(
    r"this\.matches\('(?P<pattern>[^'\\]*)'\)|(?P<size>size\(this\))|(?P<unless>!rule)|(?P<this>this)"
    r"|(?P<literal>'[^'\\]*'|[0-9]+)|(?P<sign>&&|\|\||<=|>=|<|>|[()])|\s+"
)
_SIGNS = {"&&": " and ", "||": " or "}
_PATTERN = re.compile(r"\^((?:\[[A-Za-z0-9._:-]+](?:\{[0-9]+,[0-9]+})?)+)\$")
"""Classes of ASCII characters with counts: such a pattern means the same to RE2 and to Python."""


class _NotUnderstoodError(Exception):
    """A rule that only protovalidate can judge."""


_checks: dict[Any, Keeps] = {}


def is_plainly_valid(request: Message) -> bool:
    """Whether a message is seen to keep its rules. No is no answer: one of them may be none that is understood here."""
    check = _checks.get(type(request))
    if check is None:
        check = _checks[type(request)] = _of_kind(type(request).DESCRIPTOR)
    return check(request)


def _of_kind(message: Any) -> Keeps:  # noqa: ANN401  a descriptor, of which the stubs know two classes
    try:
        return _all(_of_message(message))
    except _NotUnderstoodError:
        return lambda _: False


def _all(checks: Sequence[Keeps]) -> Keeps:
    """Whether all of them say yes."""
    if len(checks) == 1:
        return checks[0]

    def keeps(value: Any) -> bool:  # noqa: ANN401  a message, or a value
        for check in checks:  # noqa: SIM110  all() with a generator takes three times as long
            if not check(value):
                return False
        return True

    return keeps


def _of_message(message: Descriptor) -> list[Keeps]:
    """What to look at in a message; nothing, where it has no rules."""
    _require_none(_rules(message))
    alone = [field for field in message.fields if field.containing_oneof is None or field.message_type is None]
    checks = [*map(_of_field, alone), *map(_of_oneof, message.oneofs)]
    return [check for check in checks if check is not None]


def _of_oneof(oneof: OneofDescriptor) -> Keeps | None:
    """Of the messages in a oneof at most one is there: only that one is looked at."""
    required = any(rules.required for rules in _rules(oneof).values())
    inside = {field.name: _all(_of_message(field.message_type)) for field in oneof.fields if field.message_type}
    if not (required or inside):
        return None

    def keeps(value: Any) -> bool:  # noqa: ANN401
        name = value.WhichOneof(oneof.name)
        return inside[name](getattr(value, name)) if name in inside else name is not None or not required

    return keeps


def _of_field(field: FieldDescriptor) -> Keeps | None:
    rules = _rules(field).get("buf.validate.field")
    told = {option.name: value for option, value in rules.ListFields()} if rules is not None else {}
    if field.is_repeated:
        return _of_list(field, told)
    if field.message_type is not None:
        return _of_part(field, told)
    return _of_scalar(field, told)


def _of_list(field: FieldDescriptor, told: dict[str, Any]) -> Keeps:
    """A list of messages with bounds of its length."""
    if _type(field).GetOptions().map_entry:
        raise _NotUnderstoodError
    bounds = {option.name: value for option, value in told.pop("repeated").ListFields()} if "repeated" in told else {}
    least, most = bounds.pop("min_items", 0), bounds.pop("max_items", 2**63)
    _require_none(told or bounds)
    name, each = field.name, _all(_of_message(_type(field)))

    def keeps(value: Any) -> bool:  # noqa: ANN401
        parts = getattr(value, name)
        return least <= len(parts) <= most and all(map(each, parts))

    return keeps


def _of_part(field: FieldDescriptor, told: dict[str, Any]) -> Keeps | None:
    """A message in a message: its own rules count where it is there."""
    required = told.pop("required", False)
    _require_none(told)
    name, checks = field.name, _of_message(_type(field))
    if not (required or checks):
        return None
    inside = _all(checks)
    return lambda value: inside(getattr(value, name)) if value.HasField(name) else not required


def _of_scalar(field: FieldDescriptor, told: dict[str, Any]) -> Keeps | None:
    may_be_zero = told.pop("ignore", 0) == _IGNORE_IF_ZERO
    tests = [test for rules in told.values() for test in _tests(rules)]
    if not tests:
        return None
    name, test = field.name, _all(tests)
    if field.has_presence:
        return lambda value: not value.HasField(name) or test(getattr(value, name))
    if may_be_zero:
        return lambda value: not (found := getattr(value, name)) or test(found)
    return lambda value: test(getattr(value, name))


def _tests(rules: Any) -> Iterator[Keeps]:  # noqa: ANN401  StringRules, Int64Rules, ...
    if not hasattr(rules, "ListFields"):
        raise _NotUnderstoodError
    for option, value in rules.ListFields():
        if option.is_extension and value is True:
            for rule in _rules(option)["buf.validate.predefined"].cel:
                yield _translated(rule.expression)
        elif option.name == "gte" and isinstance(value, int):
            yield value.__le__
        else:
            raise _NotUnderstoodError


@cache
def _translated(expression: str) -> Keeps:
    """A rule in CEL, about `this` and with `rule` true, as a function of `this`."""
    python, names, at = "", dict[str, Any](), 0
    while at < len(expression):
        token = _TOKEN.match(expression, at)
        if token is None:
            raise _NotUnderstoodError
        at = token.end()
        if token["pattern"] is not None:
            pattern = _PATTERN.fullmatch(token["pattern"])
            if pattern is None:
                raise _NotUnderstoodError
            name = f"matches_{len(names)}"
            names[name] = re.compile(pattern[1]).fullmatch
            python += f"{name}(this) is not None"
        elif token["size"]:
            python += "len(this)"
        else:
            python += "False" if token["unless"] else _SIGNS.get(token[0], token[0])
    return cast("Keeps", eval(f"lambda this: {python}", {"__builtins__": {"len": len}, **names}))  # noqa: S307  the contract's own text, of tokens that are listed above


def _rules(described: Descriptor | FieldDescriptor | OneofDescriptor) -> dict[str, Any]:
    """The options of buf.validate on a part of the contract, by name."""
    told = described.GetOptions().ListFields()
    return {option.full_name: value for option, value in told if option.full_name.startswith("buf.validate.")}


def _type(field: FieldDescriptor) -> Descriptor:
    """What a field of messages holds."""
    if field.message_type is None:
        raise _NotUnderstoodError
    return field.message_type


def _require_none(rules: dict[str, Any]) -> None:
    if rules:
        raise _NotUnderstoodError
