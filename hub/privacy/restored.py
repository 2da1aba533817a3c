"""Erasures that a restored store lacks, because it is older than they are: they are requested again, from the file.

The file names nobody. An event whose subject has the digest of an erasure says who it is about; if there is none, there
is nothing to erase.
"""

import asyncio
from contextlib import suppress

import structlog
from msgspec.structs import replace

from hub.clock import Clock
from hub.control.registry import Registry
from hub.errors import Conflict, StartError
from hub.model import Actor, Change, Entry, Kind
from hub.privacy.erasure_file import ErasureFile
from hub.privacy_model import ErasedSubjectRecord, ErasureRecord, ErasureState
from hub.state import ERASED_SUBJECT, ERASURE
from hub.storage import Log
from hub.subjects import Subject, subjects_of

METHOD = "hub"
"""The method of the hub's own changes in the audit trail."""
REASON = "the store was restored from a backup that is older than this erasure"
LOOK = 500
"""Events that are read at once."""

log = structlog.get_logger()


async def request_again(store: Log, registry: Registry, file: ErasureFile, clock: Clock) -> None:
    """Append the erasures of the file that the log lacks; they hide their events once they are applied.

    Raises:
        StartError: the file belongs to another store, or to a later secret of this one.
        StorageFull, StorageUnavailable: not now.
    """
    erasures = registry.hidden.erasures
    missing = [record for record in file.records.values() if record.erasure_id not in erasures.records]
    if not all(erasures.keys.knows(record.check) for record in missing):
        raise StartError(
            "the erasures file lists erasures that were made with another secret of the hub. If the secret was rotated "
            "after the backup, rotate to the newer one again: 'hub rotate-secret'; if the file belongs to another "
            "store, move it away"
        )
    for record in missing:
        key = ERASURE.key(record.erasure_id)
        body = ERASURE.encode(Change(Actor(), METHOD, reason=REASON), record)
        with suppress(Conflict):  # another hub was faster
            await store.append([Entry(Kind.STATE, clock.now(), body, key=key)], {key: 0})
    if missing:
        log.warning("erasures are applied again", erasures=len(missing))


class SubjectSearch:
    """Finds the subjects of erasures that came from the file."""

    def __init__(self, store: Log, registry: Registry, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._erasures = registry.hidden.erasures
        self._clock = clock

    async def recover(self) -> None:
        """Store the subject of each unfinished erasure that lacks it, or finish it if no event is about its subject.

        Raises:
            StorageFull, StorageUnavailable: not now; the next call searches again.
        """
        lost = [one for one in self._erasures.unfinished() if self._erasures.subject(one.erasure_id) is None]
        if not lost:
            return
        found = await self._found(lost)
        for record in lost:
            subject = found.get((record.check, record.digest))
            with suppress(Conflict):  # another hub was faster
                await (self._keep(record, subject) if subject is not None else self._finish(record))

    async def _found(self, lost: list[ErasureRecord]) -> dict[tuple[str, str], Subject]:
        """The subjects of erasures, by check and digest; those without an event are missing."""
        wanted = {(record.check, record.digest) for record in lost}
        checks = {check for check, _ in wanted}
        found: dict[tuple[str, str], Subject] = {}
        at, end = 0, max(record.position for record in lost)
        while at < end and len(found) < len(wanted):
            page = await self._store.read(at, LOOK, frozenset({Kind.EVENT}))
            about = {subject for entry in page.entries for subject in subjects_of(entry)}
            for subject in about:
                for check in checks:
                    name = check, self._erasures.keys.digest(subject, check)
                    if name in wanted:
                        found[name] = subject
            at = page.through
            await asyncio.sleep(0)
        return found

    async def _keep(self, record: ErasureRecord, subject: Subject) -> None:
        key = ERASED_SUBJECT.key(record.erasure_id)
        sealed = ErasedSubjectRecord(self._erasures.keys.seal(subject, record.erasure_id))
        await self._append([ERASED_SUBJECT.entry(key, self._clock.now(), sealed)], {key: 0})

    async def _finish(self, record: ErasureRecord) -> None:
        key, now = ERASURE.key(record.erasure_id), self._clock.now()
        ended = replace(record, state=ErasureState.DONE, complete_time=now)
        entry = Entry(Kind.STATE, now, ERASURE.encode(Change(Actor(), METHOD), ended), key=key)
        expect = {key: self._erasures.require(record.erasure_id).position, ERASED_SUBJECT.key(record.erasure_id): 0}
        await self._append([entry], expect)

    async def _append(self, entries: list[Entry], expect: dict[str, int]) -> None:
        [appended] = await self._store.append(entries, expect)
        await self._registry.wait_applied(appended.position)
