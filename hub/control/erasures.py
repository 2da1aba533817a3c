"""Erasures, as of the last entry applied: which events are hidden, and how far each erasure is.

An erasure covers the events before its own entry. The log holds its subject as a keyed digest, and sealed
for as long as an integration must still be notified.
"""

import math
from bisect import bisect_right, insort
from collections import defaultdict

from msgspec.structs import replace

from hub.clock import Clock
from hub.control.hub_secret import HubSecret, does_not_fit
from hub.control.notices import NOTICE_TIME, ErasureNotices
from hub.control.versioned import Versioned
from hub.crypto import Mac, Seal, derive, state_check
from hub.errors import ErasureNotFound, StartError
from hub.model import Entry
from hub.privacy_model import ErasureRecord, ErasureState, ErasureWorkRecord, NoticeRecord
from hub.state import ERASED_SUBJECT, ERASURE, ERASURE_WORK
from hub.subjects import Subject, SubjectKind, subjects_of

FILTERED_AFTER = 600.0
"""Seconds for which a finished erasure still hides its events: an earlier read of the store may still be running."""


class ErasureKeys:
    """The keys that hide the subject of an erasure: for its digest, and for its seal."""

    def __init__(self, secret: HubSecret) -> None:
        secrets = (secret.current, *(earlier for earlier, _ in secret.earlier))
        self._keys = {state_check(one): Mac(derive(one, "digests of erased subjects", 32)) for one in secrets}
        self.check = state_check(secret.current)
        self._seal = Seal(secret.current, "erased subjects", secrets[1:])

    def knows(self, check: str) -> bool:
        """Whether a check is that of the secret in force or of an earlier one."""
        return check in self._keys

    @property
    def checks(self) -> list[str]:
        """The checks of all secrets, the one in force first."""
        return list(self._keys)

    def digest(self, subject: Subject, check: str = "") -> str:
        """The digest of a subject under the secret with a check; by default the one in force."""
        text = f"{subject.kind}/{subject.id}".encode()
        return self._keys[check or self.check].digest(text).hex()

    def name(self, text: str) -> str:
        """A keyed digest of a text that is not a subject's id, in hex."""
        return self._keys[self.check].digest(f"request/{text}".encode()).hex()

    def seal(self, subject: Subject, erasure_id: str) -> str:
        """A subject as a text that only the hub can read."""
        return self._seal.seal(f"{subject.kind}/{subject.id}".encode(), erasure_id.encode()).decode()

    def open(self, sealed: str, erasure_id: str) -> Subject | None:
        """The subject in such a text; None if another hub sealed it."""
        text = self._seal.open(sealed, erasure_id.encode())
        if text is None:
            return None
        kind, _, number = text.decode().partition("/")
        return Subject(SubjectKind(kind), int(number))


class Erasures:
    """All erasures, as of the last entry applied.

    Attributes:
        keys: what their subjects are hidden with.
        records: by id.
        notices: who has to forget.
        work: by id, which hub works on it; missing once it is done.
    """

    def __init__(self, secret: HubSecret, clock: Clock) -> None:
        self.keys = ErasureKeys(secret)
        self.records: dict[str, Versioned[ErasureRecord]] = {}
        self.work: dict[str, ErasureWorkRecord] = {}
        self.notices = ErasureNotices()
        self._order: list[tuple[int, str]] = []
        self._sealed: dict[str, str] = {}
        self._hidden: dict[str, dict[str, int]] = defaultdict(dict)
        self._end = 0
        self._settled: dict[str, float] = {}
        self._clock = clock

    def apply(self, entry: Entry) -> bool:
        """Apply an entry; returns whether it hides events that were not hidden before.

        Raises:
            StartError: it was made with another secret of the hub, and is not done.
        """
        record = ERASURE.decode(entry.body).record
        if not record.position:
            record = replace(record, position=entry.position)
        if record.state is not ErasureState.DONE and not self.keys.knows(record.check):
            raise StartError(does_not_fit())
        before = self.records.get(record.erasure_id)
        if before is None:
            insort(self._order, (record.position, record.erasure_id))
        self.records[record.erasure_id] = Versioned(record, entry.position)
        if record.state is ErasureState.DONE:
            if before is not None:
                self._settled[record.erasure_id] = self._clock.monotonic()
            return False
        hidden = self._hidden[record.check]
        is_news = hidden.get(record.digest, 0) < record.position
        hidden[record.digest] = max(hidden.get(record.digest, 0), record.position)
        self._end = max(self._end, record.position)
        return is_news

    def apply_subject(self, entry: Entry) -> tuple[str, ...]:
        """Apply the sealed subject of an erasure, or its tombstone."""
        erasure_id = ERASED_SUBJECT.rest(entry.key)
        if entry.body:
            self._sealed[erasure_id] = ERASED_SUBJECT.decode(entry.body).sealed
        else:
            self._sealed.pop(erasure_id, None)
        return ()

    def apply_work(self, entry: Entry) -> tuple[str, ...]:
        """Apply the progress of an erasure."""
        erasure_id = ERASURE_WORK.rest(entry.key)
        if entry.body:
            self.work[erasure_id] = ERASURE_WORK.decode(entry.body)
        else:
            self.work.pop(erasure_id, None)
        return ()

    def require(self, erasure_id: str) -> Versioned[ErasureRecord]:
        """The newest record of an erasure.

        Raises:
            ErasureNotFound: there is none with this id.
        """
        versioned = self.records.get(erasure_id)
        if versioned is None:
            raise ErasureNotFound(erasure_id)
        return versioned

    def after(self, position: int | None, limit: int) -> list[ErasureRecord]:
        """Up to `limit` erasures, the oldest first, after the one at a position (None: from the oldest)."""
        start = bisect_right(self._order, (position, "~")) if position is not None else 0
        return [self.records[erasure_id].record for _, erasure_id in self._order[start : start + limit]]

    def subject(self, erasure_id: str) -> Subject | None:
        """The subject of an erasure; None if it was deleted, or sealed by another hub."""
        sealed = self._sealed.get(erasure_id)
        return self.keys.open(sealed, erasure_id) if sealed is not None else None

    def sealed_earlier(self) -> dict[str, Subject]:
        """The subjects that are sealed under an earlier secret of the hub, by erasure."""
        found = {erasure_id: self.subject(erasure_id) for erasure_id in self._sealed}
        return {
            erasure_id: subject
            for erasure_id, subject in found.items()
            if subject is not None and self.keys.seal(subject, erasure_id) != self._sealed[erasure_id]
        }

    def of_earlier_secrets(self) -> set[str]:
        """The erasures that need an earlier secret of the hub, to hide their events or to read their subject."""
        hiding = {record.erasure_id for record in self.unfinished() if record.check != self.keys.check}
        return hiding | self.sealed_earlier().keys()

    def waiting(self) -> list[ErasureRecord]:
        """The finished erasures whose subject is still kept, because an integration must still be notified."""
        found = (self.records[erasure_id].record for erasure_id in self._sealed if erasure_id in self.records)
        return [record for record in found if record.state is ErasureState.DONE]

    def of_subject(self, subject: Subject) -> list[ErasureRecord]:
        """The erasures of a subject."""
        digests = {check: self.keys.digest(subject, check) for check in self.keys.checks}
        found = (stored.record for stored in self.records.values())
        return [record for record in found if digests.get(record.check) == record.digest]

    def unfinished(self) -> list[ErasureRecord]:
        """The erasures that are not done, the oldest first."""
        found = (stored.record for stored in self.records.values() if stored.record.state is not ErasureState.DONE)
        return sorted(found, key=lambda record: record.position)

    def count_unfinished(self) -> int:
        """How many erasures are not done."""
        return sum(stored.record.state is not ErasureState.DONE for stored in self.records.values())

    def late(self, integration_id: str, now: int) -> list[NoticeRecord]:
        """The notices that an integration has not confirmed within `NOTICE_TIME`, the oldest first."""
        due = now - NOTICE_TIME
        unconfirmed = self.notices.unconfirmed(integration_id)
        return [notice for notice in unconfirmed if self.require(notice.erasure_id).record.request_time < due]

    def with_old_summaries(self, now: int) -> list[NoticeRecord]:
        """The notices that still say what was sent, of erasures that were requested more than `NOTICE_TIME` ago."""
        due = now - NOTICE_TIME
        old = (stored.record.erasure_id for stored in self.records.values() if stored.record.request_time < due)
        return [notice for erasure_id in old for notice in self.notices.of_erasure(erasure_id) if notice.disclosures]

    def hide_after(self, position: int) -> bool:
        """Whether an event at a position or later may be about a subject that is being erased."""
        return position < self._end

    def hides(self, entry: Entry) -> bool:
        """Whether an event is about a subject that is being erased."""
        if not self.hide_after(entry.position):
            return False
        about = list(subjects_of(entry))
        return any(
            entry.position < table.get(self.keys.digest(one, check), 0)
            for check, table in self._hidden.items()
            if table
            for one in about
        )

    def forget_erased(self) -> None:
        """Stop hiding events that were erased so long ago that nothing can still hold them."""
        due = self._clock.monotonic() - FILTERED_AFTER
        for erasure_id in [one for one, since in self._settled.items() if since < due]:
            del self._settled[erasure_id]
            record = self.records[erasure_id].record
            if self._hidden[record.check].get(record.digest, math.inf) <= record.position:
                del self._hidden[record.check][record.digest]
        self._end = max((position for table in self._hidden.values() for position in table.values()), default=0)
