"""The events and the records that the hub still holds about a user or a guild."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from hub.control.registry import Registry
from hub.model import Change, Entry
from hub.slices import Steps
from hub.state import decode_change, integration_of
from hub.storage import Log
from hub.subjects import Subject, SubjectKind

LIST = 200
"""Events or records that are searched for at once."""

ACTOR = "actor.user_id"
"""The field of an audit entry with the Discord user for whom the bot made the change."""


class Found(NamedTuple):
    """Events about a subject, in order, and the position up to which there are no others; 0: there are no more."""

    events: Sequence[Entry]
    through: int


class NamingRecord(NamedTuple):
    """An entry of the audit trail that names a subject, and the fields that do; `guild_id` is 0 for none."""

    position: int
    time: int
    method: str
    integration_id: str
    guild_id: int
    fields: Sequence[str]


class FoundRecords(NamedTuple):
    """Records that name a subject, the newest first, and the position before which to go on; 0: there are no more."""

    records: Sequence[NamingRecord]
    before: int


class SubjectExports:
    """Finds the events about a subject, without those that are being erased, and the records that name it."""

    def __init__(self, store: Log, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    async def events(self, after: int, subject: Subject) -> Found:
        """The next events about a subject after a position; one call reads a bounded part of the log and may find none.

        Raises:
            StorageUnavailable: the store does not answer.
        """
        end = (await self._store.bounds()).last
        page = await self._store.find(after, LIST, subject)
        erasures = self._registry.hidden.erasures
        events = [entry for entry in page.entries if not erasures.hides(entry)]
        return Found(events, page.through if after < page.through < end else 0)

    async def records(self, before: int, subject: Subject) -> FoundRecords:
        """The records that name a subject before a position; one call reads a bounded part and may find none.

        Raises:
            StorageUnavailable: the store does not answer.
        """
        page = await self._store.history(before, LIST)
        found: list[NamingRecord] = []
        steps = Steps()
        for entry in page.entries:
            record = _naming(entry, subject)
            if record.fields:
                found.append(record)
            await steps.pause()
        return FoundRecords(found, page.through)


def _naming(entry: Entry, subject: Subject) -> NamingRecord:
    """An entry of the audit trail, with the fields that name a subject."""
    change = decode_change(entry.body)
    record = msgspec.json.decode(change.record)
    fields = tuple(dict.fromkeys(_fields(change, record, subject)))
    return NamingRecord(
        entry.position, entry.time, change.method, integration_of(entry.key), record.get("guild_id", 0), fields
    )


def _fields(change: Change, record: dict[str, Any], subject: Subject) -> Iterator[str]:
    """The names of the fields that hold a subject's id, now or before the change."""
    is_user = subject.kind is SubjectKind.USER
    wanted = str(subject.id) if is_user else subject.id  # records hold users as texts, and guilds as numbers
    suffixes = ("user_id",) if is_user else ("guild_id", "guild_ids")
    if is_user and change.actor.user_id == wanted:
        yield ACTOR
    earlier = ((one.field, msgspec.json.decode(one.before)) for one in change.changes if one.before)
    for name, value in (*record.items(), *earlier):
        if name.endswith(suffixes) and (value == wanted or (isinstance(value, list) and wanted in value)):
            yield name
