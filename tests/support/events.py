"""Makers of events, and the names of scopes."""

from collections.abc import Iterable
from typing import Any

from tickets.hub.v1 import event_pb2, permissions_pb2

EVERY_SCOPE = (
    "TICKET_CREATED",
    "TRANSCRIPT_CREATED",
    "DROP_CLAIMED",
    "MEMBER_VERIFIED",
    "TICKET_STATS",
    "MEMBER_VERIFIED_IDENTITY",
)


def event(event_id: str, guild_id: str = "41", **fields: Any) -> event_pb2.Event:  # noqa: ANN401  of an Event
    """An event: `event("t1", ticket_created={"creator_user_id": "7"})`."""
    return event_pb2.Event(id=event_id, guild_id=guild_id, **fields)


def numbers(*scopes: str) -> list[permissions_pb2.Scope.ValueType]:
    """Scopes by their short names ("TICKET_CREATED"), as requests want them."""
    return [permissions_pb2.Scope.Value(f"SCOPE_{scope}") for scope in scopes]


def ticket(event_id: str, guild_id: str = "41") -> event_pb2.Event:
    """Somebody created a ticket."""
    return event(event_id, guild_id, ticket_created={"creator_user_id": "80351110224678912"})


def closed(event_id: str, guild_id: str = "41") -> event_pb2.Event:
    """A ticket was closed: another scope."""
    return event(event_id, guild_id, ticket_closed={"message_count": 3})


def ids(prefix: str, count: int) -> list[str]:
    """So many ids: "a00000", "a00001", ..."""
    return [f"{prefix}{number:05d}" for number in range(count)]


def all_of(events: Iterable[event_pb2.Event]) -> list[str]:
    """The ids of events."""
    return [event.id for event in events]


def verified(event_id: str, guild_id: str = "41") -> event_pb2.Event:
    """A member was verified."""
    return event(event_id, guild_id, member_verified={"user_id": "7001"})
