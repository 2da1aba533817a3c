"""How an entry of the log lies in a stream: its subject, its headers, and back.

Lives here: names and encodings. Must not do anything.
"""

import re

from hub.model import Entry, Kind
from hub.storage import EPHEMERAL_PREFIXES
from hub.storage._group import digest
from hub.storage._jetstream_api import Draft, Stored

HEADER = "Hub-Entry"
"""Accept time, and of events the digest of the body and the id, with a space between."""

_PLAIN = re.compile(r"[^A-Za-z0-9_-]")
_EMPTY = "="
_ESCAPED = re.compile(r"((?:=[0-9A-F]{2})+)")


class Subjects:
    """The subjects of one log. They all begin with the name of its stream.

    Attributes:
        events: all events, by type and guild.
        states: all entries of state.
        kept: those whose superseded entries stay.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.events = f"{stream}.event.>"
        self.states = f"{stream}.state.>"
        self.kept = f"{stream}.state.kept.>"
        self._event = f"{stream}.event."
        self._state = f"{stream}.state."

    def of_key(self, key: str) -> str:
        """Where the entries of a state key lie. Each part of the key is a token; the key can be had back from it."""
        place = "last" if key.startswith(EPHEMERAL_PREFIXES) else "kept"
        return f"{self._state}{place}.{'.'.join(_token(part) for part in key.split('/'))}"

    def of_prefix(self, prefix: str) -> str:
        """A subject that matches at least all kept keys with a prefix."""
        first, slash, _ = prefix.partition("/")
        return f"{self._state}kept.{_token(first)}.>" if slash else self.kept

    def is_event(self, subject: str) -> bool:
        """Whether an event lies there."""
        return subject.startswith(self._event)

    def key(self, subject: str) -> str:
        """The state key of a subject; "" of an event's."""
        if not subject.startswith(self._state):
            return ""
        return "/".join(_text(token) for token in subject.removeprefix(self._state).split(".")[1:])

    def draft(self, entry: Entry) -> Draft:
        """An entry as a message."""
        if entry.key:
            return Draft(self.of_key(entry.key), {HEADER: str(entry.time)}, entry.body)
        subject = f"{self._event}{entry.event_type}.{entry.guild_id}"
        header = f"{entry.time} {digest(entry.body).hex()} {entry.id}" if entry.id else str(entry.time)
        return Draft(subject, {HEADER: header}, entry.body)

    def entry(self, stored: Stored) -> Entry:
        """A message as an entry."""
        time, _, rest = stored.headers[HEADER].partition(" ")
        if key := self.key(stored.subject):
            return Entry(Kind.STATE, int(time), stored.data, key, position=stored.position)
        event_type, guild_id = stored.subject.rsplit(".", 2)[1:]
        id_ = rest.partition(" ")[2]
        return Entry(Kind.EVENT, int(time), stored.data, "", id_, int(event_type), int(guild_id), stored.position)


def is_forgotten(entry: Entry) -> bool:
    """Whether a state entry says that there is nothing more under its key, so that a trim may remove it."""
    return not entry.body and entry.key.startswith(EPHEMERAL_PREFIXES)


def time_of(stored: Stored) -> int:
    """When an entry was accepted."""
    return int(stored.headers[HEADER].partition(" ")[0])


def _token(part: str) -> str:
    """A part of a key as a token of a subject: ASCII letters, digits, ``_`` and ``-`` as they are, others as bytes."""
    return _PLAIN.sub(lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()), part) or _EMPTY


def _text(token: str) -> str:
    """The part that a token stands for; ``=`` alone, which escapes nothing, stands for an empty one."""
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace("=", "")).decode(), token.removesuffix(_EMPTY))
