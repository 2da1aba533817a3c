"""The subjects of an event, by the contract's option ``(subject)``: its guild, and the Discord users that it names.

No event or field is named here a second time. Must not know who received an event, or who is being erased.
"""

from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import Any, NamedTuple

from tickets.hub.v1 import event_pb2

from hub.model import Entry
from hub.permissions import PAYLOADS


class SubjectKind(StrEnum):
    """The kinds of subjects."""

    USER = "user"
    GUILD = "guild"


class Subject(NamedTuple):
    """A Discord user or a guild."""

    kind: SubjectKind
    id: int


def users_of(entry: Entry, withheld: Collection[str] = ()) -> Iterator[int]:
    """The users that an event names, without those in fields that are withheld."""
    kind = PAYLOADS.get(entry.event_type)
    if kind is None or not kind.subjects:
        return
    payload = getattr(event_pb2.Event.FromString(entry.body), kind.name)
    for name in kind.subjects:
        if name not in withheld:
            yield from map(int, filter(None, _texts(getattr(payload, name))))


def subjects_of(entry: Entry) -> Iterator[Subject]:
    """The subjects of an event: its guild and its users."""
    yield Subject(SubjectKind.GUILD, entry.guild_id)
    for user_id in users_of(entry):
        yield Subject(SubjectKind.USER, user_id)


def concerns(entry: Entry, subject: Subject, withheld: Collection[str] = ()) -> bool:
    """Whether an event, without some withheld fields, is about a subject."""
    if subject.kind is SubjectKind.GUILD:
        return entry.guild_id == subject.id
    return subject.id in users_of(entry, withheld)


def _texts(value: Any) -> Collection[str]:  # noqa: ANN401  what a field of a payload holds
    return (value,) if isinstance(value, str) else value
