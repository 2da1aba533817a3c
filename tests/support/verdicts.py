"""A corpus of valid and invalid requests with the hub's verdicts: `python -m tests.support.verdicts` writes it.

For every request message there is a sample that keeps all rules. Each of its fields, at any depth, is then set to edge
values, one at a time, and the verdict is written down: the fields that break a rule, and the texts. If the way in which
rules are checked changes, the verdicts must not. If a rule changes, write the file again and read the diff.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from buf.validate import validate_pb2 as validate_pb2  # noqa: PLC0414  puts the options' descriptors into the pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import rules_pb2

from hub.api.validation import check
from hub.errors import InvalidRequest
from hub.permissions import SERVICES

FILE = Path(__file__).parents[1] / "data" / "verdicts.json"
REQUESTS: dict[str, Descriptor] = {
    method.input_type.name: method.input_type for service in SERVICES for method in service.methods
}
RULES: Any = rules_pb2.DESCRIPTOR.pool.FindExtensionByName("buf.validate.field")
OURS = rules_pb2.DESCRIPTOR.package

Setter = Callable[[Any], None]
"""Sets one field of a message, or several, to an edge value."""
Verdicts = dict[str, dict[str, dict[str, list[str]]]]
"""By message and field: what was refused, as JSON, and the names of the values that were."""

BIG, SMALL = 2**63 - 1, 2**31 - 1
LIMITS = (32, 64, 80, 100, 256, 500, 512, 1_000)
SHORT_TEXTS = (
    *("", "0", "01", "1", "1\n", "\n1", "\uff11", " 1", "-1", "a b", "a\nb", "\u00e9"),
    *("a.b-c_d", "a:b", "a/b", "A-Z", " ", "\x00", "\u200b", "a\u202eb", "a\u200d\u200db"),
    *("https://a.example", "http://a.example", "https://a@b.example", "https://", "https://[::1]/x"),
    *("https://a.example/ b", "https://a.example/#c?d", "HTTPS://a.example", "ftp://a.example"),
)
TEXTS = {
    **{repr(text): text for text in SHORT_TEXTS},
    **{str(BIG + step): str(BIG + step) for step in (-1, 0, 1)},
    **{f"{digit}x{count}": digit * count for digit in "19" for count in (18, 19, 20)},
    **{f"ax{count}": "a" * count for limit in LIMITS for count in (limit, limit + 1)},
    "a long URL": f"https://a.example/{'b' * 2048}",
}
NUMBERS = {str(number): number for number in (-1, 0, 1, 2, 100, 1_000, 1_001, SMALL, -SMALL - 1)}
LONG_NUMBERS = {str(number): number for number in (BIG, -BIG - 1)}
TIMES = {
    "2001": Timestamp(seconds=978307200),
    "2100": Timestamp(seconds=4102444800),
    "a time of no year": Timestamp(seconds=2**60),
    "a negative fraction": Timestamp(seconds=4102444800, nanos=-1),
}
SPANS = {f"{seconds}s": Duration(seconds=seconds) for seconds in (-1, 0, 1, 30, 60, 61, 3_600, 604_800, 604_801, 2**40)}


def valid(field: FieldDescriptor) -> Any:  # noqa: ANN401  whatever a field holds
    """A value that keeps the rules of a field."""
    if field.name == "linger":
        return Duration(seconds=5)  # its most
    if field.message_type is not None:
        return sample(field.message_type)
    if field.enum_type is not None:
        return 1
    if field.type == FieldDescriptor.TYPE_STRING:
        rules = field.GetOptions().Extensions[RULES]
        strings = rules.repeated.items.string if field.is_repeated else rules.string
        return "https://a.example/x" if strings.Extensions[rules_pb2.https_url] else "1"
    return field.type == FieldDescriptor.TYPE_BOOL or (2 if field.name == "count" else 1)  # a shard is below its count


def sample(kind: Descriptor) -> Message:
    """A message with a value in every field, of a oneof in the first."""
    if kind.full_name == "google.protobuf.Timestamp":
        return TIMES["2100"]
    if kind.full_name == "google.protobuf.Duration":
        return SPANS["30s"]
    message = GetMessageClass(kind)()
    if not kind.full_name.startswith(OURS):
        return message
    for field in kind.fields:
        if field.containing_oneof is None or field == field.containing_oneof.fields[0]:
            fill(field, [valid(field)], message)
    return message


def fill(field: FieldDescriptor, values: Sequence[Any], message: Message) -> None:
    """Set a field to the one value, or a list to several."""
    message.ClearField(field.name)
    if field.is_repeated:
        getattr(message, field.name).extend(values)
    elif field.message_type is not None:
        part = getattr(message, field.name)
        part.SetInParent()
        part.CopyFrom(values[0])
    else:
        setattr(message, field.name, values[0])


def edges(field: FieldDescriptor) -> dict[str, Any]:
    """The values to try in a field, by name."""
    if field.message_type is not None:
        name = field.message_type.full_name
        own: dict[str, Any] = TIMES if name.endswith(".Timestamp") else SPANS if name.endswith(".Duration") else {}
        return {"empty": GetMessageClass(field.message_type)(), **own}
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXTS
    if field.enum_type is not None:
        return {str(number): number for number in (0, 1, 2, 99, -1)}
    if field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_INT32):
        return NUMBERS | (LONG_NUMBERS if field.type == FieldDescriptor.TYPE_INT64 else {})
    return {}


def setters(field: FieldDescriptor) -> Iterator[tuple[str, Setter]]:
    """What is tried with a field: absent, each edge value, and lists of several lengths."""
    yield "absent", lambda message: message.ClearField(field.name)
    for name, value in edges(field).items():
        yield name, partial(fill, field, [value])
    for count in (2, 10, 25, 26, 64, 65, 1_000, 1_001) if field.is_repeated else ():
        yield f"{count} of them", partial(fill, field, [valid(field)] * count)


def cases(kind: Descriptor, path: str = "", depth: int = 0) -> Iterator[tuple[str, str, Setter]]:
    """The path of each field of a message, the name of a value for it, and what sets it in a sample."""
    for field in kind.fields:
        here = f"{path}{field.name}"
        yield from ((here, name, setter) for name, setter in setters(field))
        part = field.message_type
        if part is not None and part.full_name.startswith(OURS) and depth < 3:
            for below, name, setter in cases(part, f"{here}.", depth + 1):
                yield below, name, partial(within, field, setter)


def within(field: FieldDescriptor, setter: Setter, message: Message) -> None:
    """Change the message in a field; in a list the second one, behind a sample."""
    if field.is_repeated:
        fill(field, [valid(field)] * 2, message)
        setter(getattr(message, field.name)[1])
        return
    if not message.HasField(field.name):
        fill(field, [valid(field)], message)
    setter(getattr(message, field.name))


def verdict(message: Message) -> dict[str, str]:
    """The fields that break a rule, and what is said of each."""
    try:
        check(message)
    except InvalidRequest as refusal:
        return {violation.field: violation.description for violation in refusal.violations}
    return {}


def verdicts(kind: Descriptor) -> dict[str, dict[str, list[str]]]:
    """The verdicts on a request message."""
    right = sample(kind)
    found: dict[str, dict[str, list[str]]] = {"": {json.dumps(verdict(right), ensure_ascii=False): ["sample"]}}
    for path, name, setter in cases(kind):
        message = type(right)()
        message.CopyFrom(right)
        setter(message)
        found.setdefault(path, {}).setdefault(json.dumps(verdict(message), ensure_ascii=False), []).append(name)
    return found


def written() -> Verdicts:
    """The corpus as it was written."""
    every: Verdicts = {}
    for name, path, said, values in json.loads(FILE.read_text()):
        every.setdefault(name, {}).setdefault(path, {})[json.dumps(said, ensure_ascii=False)] = values
    return every


def dump(every: Verdicts) -> str:
    """The corpus with a line for each verdict on a field."""
    lines = [
        f"{json.dumps([name, path, json.loads(said), values], ensure_ascii=False)}"
        for name, fields in every.items()
        for path, found in fields.items()
        for said, values in found.items()
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n"


if __name__ == "__main__":
    FILE.write_text(dump({name: verdicts(kind) for name, kind in sorted(REQUESTS.items())}))
