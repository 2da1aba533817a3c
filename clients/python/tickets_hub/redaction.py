"""Messages that hold a secret do not show it when they are printed.

Python's protobuf ignores the option ``debug_redact``, so ``repr`` and ``str`` of a new ``Key``, and of every reply that
holds one, would carry the key into logs and tracebacks. ``text_format`` still prints everything.
"""

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

REDACTED = "[redacted]"


def redact_secrets(modules: Iterable[ModuleType]) -> None:
    """Give every message of these modules that can hold a secret a ``repr`` and a ``str`` without it."""
    for module in modules:
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            if _holds_secret(descriptor):
                _redact(message_factory.GetMessageClass(descriptor))


def _redact(kind: Any) -> None:  # noqa: ANN401  a generated class, whose methods its stubs call read-only
    plain = kind.__repr__

    def shown(message: Message) -> str:
        copy = kind()
        copy.CopyFrom(message)
        _blank(copy)
        return str(plain(copy))

    kind.__repr__ = kind.__str__ = shown


def _holds_secret(descriptor: Descriptor, outer: frozenset[str] = frozenset()) -> bool:
    if descriptor.full_name in outer:
        return False
    outer |= {descriptor.full_name}
    return any(
        field.GetOptions().debug_redact or (field.message_type is not None and _holds_secret(field.message_type, outer))
        for field in descriptor.fields
    )


def _blank(message: Message) -> None:
    """Replace every secret in a message, however deep."""
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            setattr(message, field.name, REDACTED)
        elif field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                if isinstance(inner, Message):  # not so the keys of a map
                    _blank(inner)
