"""Carries erasures out in the background: finds the events, overwrites them, and records when their bytes are gone.

Only the progress is stored: a hub that was killed searches for the remaining events, and continues. Of
several hubs one works on an erasure, and another takes over when it stops reporting.
"""

import asyncio
import secrets
from array import array
from collections.abc import Sequence
from contextlib import suppress

import structlog
from msgspec.structs import replace

from hub.clock import Clock
from hub.control.notices import NOTICE_TIME
from hub.control.registry import Registry
from hub.errors import Conflict, HubError, StorageUnavailable
from hub.model import Actor, Change, Entry, Kind
from hub.privacy.disclosures import Disclosures, Recipients
from hub.privacy.erasure_file import ErasureFile
from hub.privacy.restored import METHOD, SubjectSearch
from hub.privacy_model import ErasedSubjectRecord, ErasureRecord, ErasureState, ErasureWorkRecord, NoticeRecord
from hub.slices import STORED_AT_ONCE, Steps, slices
from hub.state import ERASED_SUBJECT, ERASURE, ERASURE_WORK, NOTICE
from hub.storage import MAX_APPEND, Log
from hub.subjects import Subject

PERIOD = 0.25
"""Seconds between two searches for unfinished erasures."""
FOUND_AT_ONCE = 1_000
ERASED_AT_ONCE = 250
"""NATS takes about 10 ms to overwrite an event: in between a hub says that it is at work."""
MOST_WAY = 0.1
"""The longest pause that leaves the store to other work, in seconds."""
RENEW = 2.0
"""Seconds between two reports of a hub's progress on an erasure."""
ABANDONED = 15.0
"""Seconds without a report after which another hub takes over."""
NOBODY = ""
"""The worker of an erasure whose hub has stopped."""
SUMMARY_PERIOD = 60.0
"""Seconds between two searches for old summaries."""
FLUSH_TRIES = 100
FLUSH_AGAIN = 0.3
"""A backup may hold older pages of the store for a while: how often, and after how many seconds, to try again."""

log = structlog.get_logger()


class Eraser:
    """Works on the erasures of a log, one at a time."""

    def __init__(
        self, store: Log, registry: Registry, disclosures: Disclosures, file: ErasureFile, clock: Clock
    ) -> None:
        """`file`: lists every erasure, for stores that are restored."""
        self._store = store
        self._file = file
        self._subjects = SubjectSearch(store, registry, clock)
        self._disclosures = disclosures
        self._registry = registry
        self._erasures = registry.hidden.erasures
        self._clock = clock
        self._name = secrets.token_hex(8)
        self._reports: dict[str, tuple[ErasureWorkRecord | None, float]] = {}
        self._renewed = self._summaries_due = 0.0
        self._is_sealed = False

    async def run(self) -> None:
        """Finish the erasures one after the other, the oldest first, unless another hub works on one.

        A later one waits: it may cover the same events, and would erase them before their recipients are known.

        Raises:
            StorageUnavailable, StorageFull: not now; the next call goes on.
        """
        self._erasures.forget_erased()
        await self._delete_summaries()
        await self._subjects.recover()
        await self._seal_again()
        for record in self._erasures.waiting():
            await self._delete_subject(record)
        for record in self._erasures.unfinished():
            subject = self._erasures.subject(record.erasure_id)
            if subject is None:
                continue
            if not self._may_work_on(record.erasure_id) or not await self._claim(record.erasure_id):
                return
            try:
                await self._finish(record, subject)
            except Conflict:  # another hub was faster
                return
            except asyncio.CancelledError:
                await self._release(record.erasure_id)
                raise

    async def save_list(self) -> None:
        """Add to the file what it lacks: erasures that another hub accepted, or this one before there was the file.

        Raises:
            StorageFull, StorageUnavailable: not now; the next call tries again.
        """
        if len(self._file.records) < len(self._erasures.records):
            await self._file.keep([stored.record for stored in self._erasures.records.values()])

    def _may_work_on(self, erasure_id: str) -> bool:
        """Whether no other hub has recently reported work on an erasure."""
        work, now = self._erasures.work.get(erasure_id), self._clock.monotonic()
        known, since = self._reports.get(erasure_id, (None, now))
        if known is not work:
            known, since = work, now
        self._reports[erasure_id] = (known, since)
        return work is None or work.worker in {NOBODY, self._name} or now - since > ABANDONED

    async def _finish(self, record: ErasureRecord, subject: Subject) -> None:
        if record.state is ErasureState.HIDDEN:
            recipients = await self._disclosures.recipients(record.position)
            found = await self._scan(record, subject, recipients)
            await self._store_notices(record, recipients)
            record = await self._advance(replace(record, state=ErasureState.ERASING, events=len(found)))
        else:
            found = await self._scan(record, subject)
        await self._erase(record, found)
        await self._flush()
        await self._advance(replace(record, state=ErasureState.DONE, complete_time=self._clock.now()))
        self._reports.pop(record.erasure_id, None)
        log.info("erased", erasure_id=record.erasure_id, events=record.events)

    async def _claim(self, erasure_id: str) -> bool:
        """Record that this hub works on an erasure; False: another hub was faster."""
        work = self._erasures.work.get(erasure_id)
        key = ERASURE_WORK.key(erasure_id)
        entry = ERASURE_WORK.entry(key, self._clock.now(), ErasureWorkRecord(self._name, work.progress if work else 0))
        try:
            [appended] = await self._store.append([entry], {key: 0} if work is None else None)
        except Conflict:
            return False
        await self._registry.wait_applied(appended.position)
        self._renewed = self._clock.monotonic()
        return True

    async def _release(self, erasure_id: str) -> None:
        """Release the erasure, so that another hub takes over at once; otherwise it waits for `ABANDONED` seconds."""
        work = self._erasures.work.get(erasure_id)
        if work is not None:
            entry = ERASURE_WORK.entry(ERASURE_WORK.key(erasure_id), self._clock.now(), replace(work, worker=NOBODY))
            with suppress(HubError):
                await self._store.append([entry])

    async def _store_notices(self, record: ErasureRecord, recipients: Recipients) -> None:
        """Store the notices before anything is erased; notices that are stored already stay unchanged."""
        known = {one.integration_id for one in self._erasures.notices.of_erasure(record.erasure_id)}
        now = self._clock.now()
        notices = [
            NoticeRecord(record.erasure_id, integration_id, disclosures)
            for integration_id, disclosures in recipients.disclosures().items()
            if integration_id not in known
        ]
        for some in slices(notices, STORED_AT_ONCE):
            entries = [NOTICE.entry(NOTICE.key(one.erasure_id, one.integration_id), now, one) for one in some]
            appended = await self._store.append(entries)
            await self._registry.wait_applied(appended[-1].position)

    async def _delete_subject(self, record: ErasureRecord) -> None:
        """Delete the subject of an erasure once every integration has confirmed, or the time for that is over."""
        notices = self._erasures.notices.of_erasure(record.erasure_id)
        now = self._clock.now()
        is_over = now > record.request_time + NOTICE_TIME
        if not is_over and not all(one.confirm_time for one in notices):
            return
        key = ERASED_SUBJECT.key(record.erasure_id)
        [appended] = await self._store.append([ERASED_SUBJECT.entry(key, now, None)])
        await self._registry.wait_applied(appended.position)
        await self._flush()

    async def _seal_again(self) -> None:
        """Seal under the secret in force what was sealed under an earlier one; only a start can find any."""
        found = {} if self._is_sealed else self._erasures.sealed_earlier()
        for erasure_id, subject in found.items():
            key, sealed = ERASED_SUBJECT.key(erasure_id), self._erasures.keys.seal(subject, erasure_id)
            entry = ERASED_SUBJECT.entry(key, self._clock.now(), ErasedSubjectRecord(sealed))
            [appended] = await self._store.append([entry])
            await self._registry.wait_applied(appended.position)
        if found:
            await self._flush()
        self._is_sealed = True

    async def _delete_summaries(self) -> None:
        """Delete what integrations were sent about the subjects of erasures that are older than `NOTICE_TIME`."""
        if self._clock.monotonic() < self._summaries_due:
            return
        self._summaries_due, now = self._clock.monotonic() + SUMMARY_PERIOD, self._clock.now()
        old = self._erasures.with_old_summaries(now)[:MAX_APPEND]
        if old:
            keys = [NOTICE.key(one.erasure_id, one.integration_id) for one in old]
            entries = [NOTICE.entry(key, now, replace(one, disclosures=())) for key, one in zip(keys, old, strict=True)]
            appended = await self._store.append(entries)
            await self._registry.wait_applied(appended[-1].position)

    async def _scan(
        self, record: ErasureRecord, subject: Subject, recipients: Recipients | None = None
    ) -> "array[int]":
        """The positions of the subject's events that are kept, 8 bytes each; `recipients` take each event in."""
        found = array("q")
        first = (await self._store.bounds()).first
        at, end = first - 1, record.position - 1
        while at < end:
            began = self._clock.monotonic()
            page, steps = await self._store.find(at, FOUND_AT_ONCE, subject), Steps()
            for entry in page.entries:
                if entry.position <= end:
                    found.append(entry.position)
                    if recipients is not None:
                        recipients.add(entry, subject)
                await steps.pause()
            if page.through <= at:
                break
            at = page.through
            await self._report(record, 0.5 * (at - first) / max(1, end - first))
            await self._give_way(began)
        return found

    async def _erase(self, record: ErasureRecord, positions: Sequence[int]) -> None:
        for number, some in enumerate(slices(positions, ERASED_AT_ONCE)):
            began = self._clock.monotonic()
            await self._store.erase(some, flush=False)
            await self._report(record, 0.5 + 0.5 * number * ERASED_AT_ONCE / len(positions))
            await self._give_way(began)

    async def _flush(self) -> None:
        """Remove the bytes from the store's files.

        Raises:
            StorageUnavailable: a backup, or another process, still reads older pages; a later run tries again.
        """
        for tries in range(FLUSH_TRIES):
            try:
                await self._store.erase([])
            except StorageUnavailable:
                if self._store.failed or tries + 1 == FLUSH_TRIES:
                    raise
                await asyncio.sleep(FLUSH_AGAIN)
            else:
                return

    async def _report(self, record: ErasureRecord, progress: float) -> None:
        """Record the progress now and then, which also keeps other hubs from taking over."""
        if self._clock.monotonic() - self._renewed < RENEW:
            return
        self._renewed = self._clock.monotonic()
        work = ErasureWorkRecord(self._name, min(1.0, max(0.0, progress)))
        await self._store.append([ERASURE_WORK.entry(ERASURE_WORK.key(record.erasure_id), self._clock.now(), work)])

    async def _give_way(self, began: float) -> None:
        """Pause for as long as the store was just used, so that others can use it."""
        await asyncio.sleep(min(MOST_WAY, self._clock.monotonic() - began))

    async def _advance(self, record: ErasureRecord) -> ErasureRecord:
        """Store the next state of an erasure; the last state also ends this hub's work on it.

        Raises:
            Conflict: another hub was faster.
        """
        versioned, now = self._erasures.require(record.erasure_id), self._clock.now()
        key = ERASURE.key(record.erasure_id)
        entries = [Entry(Kind.STATE, now, ERASURE.encode(Change(Actor(), METHOD), record), key=key)]
        if record.state is ErasureState.DONE:
            entries.append(ERASURE_WORK.entry(ERASURE_WORK.key(record.erasure_id), now, None))
        appended = await self._store.append(entries, {key: versioned.position})
        await self._registry.wait_applied(appended[-1].position)
        return record
