"""Notices of erasure: which integrations have to forget a subject, and which have confirmed it."""

from collections import Counter

from msgspec.structs import replace

from hub.model import Entry
from hub.privacy_model import NoticeRecord
from hub.state import NOTICE

NOTICE_TIME = 30 * 24 * 3_600 * 1_000_000
"""How long an unconfirmed notice is repeated on each new stream, in microseconds."""


class ErasureNotices:
    """The notices of all erasures.

    Attributes:
        confirmed: how many each integration has confirmed.
    """

    def __init__(self) -> None:
        self.confirmed: Counter[str] = Counter()
        self._records: dict[str, NoticeRecord] = {}
        self._of_integration: dict[str, set[str]] = {}
        self._of_erasure: dict[str, set[str]] = {}

    def apply(self, entry: Entry) -> tuple[str, ...]:
        """Apply an entry; returns the integration to notify."""
        name = NOTICE.rest(entry.key)
        erasure_id, _, integration_id = name.partition("/")
        if not entry.body:
            gone = self._records.pop(name, None)
            self.confirmed[integration_id] -= gone is not None and gone.confirm_time > 0
            self._of_integration.get(integration_id, set()).discard(name)
            self._of_erasure.get(erasure_id, set()).discard(name)
            return ()
        record = NOTICE.decode(entry.body)
        known = self._records.get(name)
        if known is not None:
            record = _merged(known, record)
        if record.confirm_time and not (known and known.confirm_time):
            self.confirmed[integration_id] += 1
        self._records[name] = record if record.position else replace(record, position=entry.position)
        self._of_erasure.setdefault(erasure_id, set()).add(name)
        open_ones = self._of_integration.setdefault(integration_id, set())
        if record.confirm_time:
            open_ones.discard(name)
            return ()
        is_news = name not in open_ones
        open_ones.add(name)
        return (integration_id,) if is_news else ()

    def unconfirmed(self, integration_id: str) -> list[NoticeRecord]:
        """The notices that an integration has not confirmed, the oldest first."""
        found = (self._records[name] for name in self._of_integration.get(integration_id, ()))
        return sorted(found, key=lambda one: one.position)

    def of_erasure(self, erasure_id: str) -> list[NoticeRecord]:
        """The notices of an erasure, by integration."""
        return [self._records[name] for name in sorted(self._of_erasure.get(erasure_id, ()))]


def _merged(known: NoticeRecord, written: NoticeRecord) -> NoticeRecord:
    """A notice after a write that may not have known the last one: what is sent, confirmed or deleted stays so."""
    return replace(
        written,
        disclosures=known.disclosures and written.disclosures,
        sent_time=known.sent_time or written.sent_time,
        confirm_time=known.confirm_time or written.confirm_time,
        position=known.position,
    )
