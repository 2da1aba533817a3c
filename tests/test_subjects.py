"""The subjects of an event follow from the contract."""

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from tickets.hub.v1 import event_pb2, permissions_pb2

from hub import permissions as table
from hub.api import convert
from hub.model import Entry
from hub.subjects import Subject, SubjectKind, concerns, users_of
from tests.support.events import closed, ticket, verified

CREATOR = 80351110224678912


def entry(event: event_pb2.Event) -> Entry:
    """An event as the log keeps it."""
    return convert.event_entry(event, 1)


def fields_below(message: Descriptor) -> list[FieldDescriptor]:
    """The fields of a message and of those within it."""
    inner = [found for field in message.fields if field.message_type for found in fields_below(field.message_type)]
    return [*message.fields, *inner]


def test_every_field_that_names_a_user_is_marked() -> None:
    """A payload's field called user_id, or ..._user_id, is a subject; only texts at the top of a payload are marked."""
    for payload in table.PAYLOAD_ONEOF.fields:
        assert payload.message_type is not None
        top = set(payload.message_type.fields)
        for field in fields_below(payload.message_type):
            marked = field.GetOptions().Extensions[permissions_pb2.subject]
            assert marked or not field.name.rstrip("s").endswith("user_id"), field.full_name
            assert not marked or (field in top and field.type == FieldDescriptor.TYPE_STRING), field.full_name


def test_an_event_is_about_its_guild_and_the_users_that_it_names() -> None:
    """Every kind of event; one that names no user is about its guild only."""
    assert list(users_of(entry(ticket("t")))) == [CREATOR]
    assert list(users_of(entry(verified("v")))) == [7001]
    assert list(users_of(entry(closed("c")))) == []
    assert concerns(entry(closed("c", "51")), Subject(SubjectKind.GUILD, 51))
    assert not concerns(entry(closed("c", "51")), Subject(SubjectKind.GUILD, 5))


def test_an_event_with_withheld_users_is_not_about_them() -> None:
    """For a reader without the field the event names no user; ids are compared as a whole."""
    seen = entry(verified("v"))
    user = Subject(SubjectKind.USER, 7001)
    assert concerns(seen, user)
    assert not concerns(seen, user, frozenset({"user_id"}))
    assert not any(concerns(seen, Subject(SubjectKind.USER, near)) for near in (700, 70011, 1, 7))
