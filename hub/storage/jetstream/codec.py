"""Entries as messages of a stream: subjects, headers, and back."""

import re
from typing import Protocol

import structlog

from hub.model import Entry, Kind
from hub.state import COMPACTED_PREFIXES
from hub.storage.checksum import checksum
from hub.storage.group import digest
from hub.storage.jetstream.stream import OutgoingMessage, StoredMessage

HEADER = "Hub-Entry"
"""Accept time, and of events the digest of the body and the id, with a space between."""
CHECKSUM = "Hub-Checksum"
"""The distance to the event before the entry, and the checksum over all of it. Hubs of format 1 write none."""

_PLAIN = re.compile(r"[^A-Za-z0-9_-]")
_EMPTY = "="
_ESCAPED = re.compile(r"((?:=[0-9A-F]{2})+)")


log = structlog.get_logger(__name__)


class OnDamage(Protocol):
    """A function that is called with each damaged entry that is read."""

    def __call__(self, position: int, *, is_state: bool) -> None:
        """Record it."""


class Subjects:
    """The subjects of one log. They all begin with the name of its stream.

    Attributes:
        events: all events, by type and guild.
        states: all entries of state.
        kept: those whose superseded entries stay.
        checked_from: the position from which on every entry has a checksum; 0: hubs that write none may be running.
    """

    def __init__(self, stream: str, on_damage: OnDamage) -> None:
        """`on_damage`: called with the position of each entry that is damaged, and whether it is state."""
        self.stream = stream
        self.events = f"{stream}.event.>"
        self.states = f"{stream}.state.>"
        self.kept = f"{stream}.state.kept.>"
        self.checked_from = 0
        self._on_damage = on_damage
        self._event = f"{stream}.event."
        self._state = f"{stream}.state."

    def of_key(self, key: str) -> str:
        """The subject of a state key: a token for each part of the key, from which `key` restores it."""
        place = "last" if key.startswith(COMPACTED_PREFIXES) else "kept"
        return f"{self._state}{place}.{'.'.join(_token(part) for part in key.split('/'))}"

    def of_prefix(self, prefix: str) -> str:
        """A subject that matches at least all kept keys with a prefix."""
        first, slash, _ = prefix.partition("/")
        return f"{self._state}kept.{_token(first)}.>" if slash else self.kept

    def is_event(self, subject: str) -> bool:
        """Whether a subject is that of an event."""
        return subject.startswith(self._event)

    def key(self, subject: str) -> str:
        """The state key of a subject; "" of an event's."""
        if not subject.startswith(self._state):
            return ""
        return "/".join(_text(token) for token in subject.removeprefix(self._state).split(".")[1:])

    def message(self, entry: Entry, distance: int) -> OutgoingMessage:
        """An entry as a message; `distance`: how far before it the newest event before it lies."""
        check = f"{distance} {checksum(entry, distance)}"
        if entry.key:
            return OutgoingMessage(self.of_key(entry.key), {HEADER: str(entry.time), CHECKSUM: check}, entry.body)
        subject = f"{self._event}{entry.event_type}.{entry.guild_id}"
        header = f"{entry.time} {digest(entry.body).hex()} {entry.id}" if entry.id else str(entry.time)
        return OutgoingMessage(subject, {HEADER: header, CHECKSUM: check}, entry.body)

    def entry(self, stored: StoredMessage) -> Entry:
        """A message as an entry; DAMAGED where it does not match its checksum, with its key where it is state."""
        try:
            entry = self._decoded(stored)
            if self._is_sound(entry, stored.headers.get(CHECKSUM)):
                return entry
        except (KeyError, ValueError, OverflowError):  # a header that is not there or holds something else
            log.debug("a message is not an entry", position=stored.position)
        is_state = not self.is_event(stored.subject)
        self._on_damage(stored.position, is_state=is_state)
        return Entry(Kind.DAMAGED, 0, b"", key=stored.subject if is_state else "", position=stored.position)

    def note_damage(self, position: int) -> None:
        """Record an event that is missing."""
        self._on_damage(position, is_state=False)

    def _is_sound(self, entry: Entry, check: str | None) -> bool:
        if check is None:
            return not 0 < self.checked_from <= entry.position
        distance, _, stored = check.partition(" ")
        return checksum(entry, int(distance)) == int(stored)

    def _decoded(self, stored: StoredMessage) -> Entry:
        time, _, rest = stored.headers[HEADER].partition(" ")
        if key := self.key(stored.subject):
            return Entry(Kind.STATE, int(time), stored.data, key, position=stored.position)
        event_type, guild_id = stored.subject.rsplit(".", 2)[1:]
        id_ = rest.partition(" ")[2]
        return Entry(Kind.EVENT, int(time), stored.data, "", id_, int(event_type), int(guild_id), stored.position)


def is_tombstone(entry: Entry) -> bool:
    """Whether an entry is a tombstone of a compacted key, which a trim may remove."""
    return not entry.body and entry.key.startswith(COMPACTED_PREFIXES)


def previous_event(stored: StoredMessage) -> int:
    """The position of the newest event before a message; 0 where the message does not say."""
    distance = stored.headers.get(CHECKSUM, "").partition(" ")[0]
    return stored.position - int(distance) if distance.isdecimal() else 0


def time_of(stored: StoredMessage) -> int:
    """When an entry was accepted."""
    return int(stored.headers[HEADER].partition(" ")[0])


def _token(part: str) -> str:
    """A part of a key as a token of a subject: ASCII letters, digits, ``_`` and ``-`` as they are, others as bytes."""
    return _PLAIN.sub(lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()), part) or _EMPTY


def _text(token: str) -> str:
    """The part that a token encodes; ``=`` alone encodes an empty part."""
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace("=", "")).decode(), token.removesuffix(_EMPTY))
