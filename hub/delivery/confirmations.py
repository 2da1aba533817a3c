"""Which integrations have confirmed an erasure: a notice was sent, then its cursor or a later one was committed.

A webhook's answer confirms like a commit. A cursor that another hub sealed, or this one before a restart, confirms what
was sent before it and precedes it in the log.
"""

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from hub.clock import Clock
from hub.control.registry import Registry
from hub.delivery.cursor import CursorSeal
from hub.model import Cursor
from hub.privacy_model import NoticeRecord
from hub.slices import STORED_AT_ONCE, slices
from hub.state import NOTICE
from hub.storage import Log


class Confirmations:
    """Notes which notices were sent, and stores which were confirmed.

    For each notice that a subscription was sent it keeps a number: the cursors before its frame have lesser numbers,
    those of its frame and of later ones greater ones.
    """

    def __init__(self, log: Log, registry: Registry, seal: CursorSeal, clock: Clock) -> None:
        self._log = log
        self._registry = registry
        self._seal = seal
        self._clock = clock
        self._numbers: dict[tuple[str, str], int] = {}
        self._sent: dict[tuple[str, str], int] = {}
        self._confirming: set[tuple[str, str]] = set()

    def begin_frame(self, notice: NoticeRecord, name: str) -> None:
        """Note that the next frame of a subscription ("<integration>/<subscription>") is a notice."""
        self._numbers[notice.erasure_id, name] = self._seal.next_number()

    def note_sent(self, notice: NoticeRecord) -> None:
        """Note that the transport has taken a notice."""
        self._sent.setdefault((notice.erasure_id, notice.integration_id), self._clock.now())

    async def committed(self, name: str, cursor: Cursor, text: str) -> None:
        """Store that a subscription's integration has confirmed the notices that were sent to it before a cursor.

        `text` is the cursor, sealed.

        Raises:
            StorageFull, StorageUnavailable: it is not stored; a later commit confirms.
        """
        number = self._seal.number(text)

        def is_known(notice: NoticeRecord) -> bool:
            first = self._numbers.get((notice.erasure_id, name))
            return self._is_before(notice, cursor) if first is None or number is None else number > first

        await self._confirm(name.partition("/")[0], is_known)

    async def arrived(self, integration_id: str, cursor: Cursor, erasure_id: str) -> None:
        """Store that an integration's receiver has taken what was sent before a cursor, and the notice of an erasure.

        Raises:
            StorageFull, StorageUnavailable: it is not stored; a later answer confirms.
        """
        await self._confirm(
            integration_id, lambda notice: notice.erasure_id == erasure_id or self._is_before(notice, cursor)
        )

    async def _confirm(self, integration_id: str, is_known: Callable[[NoticeRecord], bool]) -> None:
        now = self._clock.now()
        confirmed = [
            replace(notice, sent_time=self._sent_time(notice) or now, confirm_time=now)
            for notice in self._registry.hidden.erasures.notices.unconfirmed(integration_id)
            if is_known(notice)
        ]
        self._confirming.update((one.erasure_id, one.integration_id) for one in confirmed)
        try:
            await self._store(confirmed)
        finally:
            self._confirming.difference_update((one.erasure_id, one.integration_id) for one in confirmed)

    async def save(self) -> None:
        """Store when notices were first sent.

        Raises:
            StorageFull, StorageUnavailable: it is not stored; the next call tries again.
        """
        notices = self._registry.hidden.erasures.notices
        for keys in slices(list(self._sent), STORED_AT_ONCE):
            await self._save_sent(keys)
        for erasure_id, name in [*self._numbers]:
            waiting = notices.unconfirmed(name.partition("/")[0])
            if not any(notice.erasure_id == erasure_id for notice in waiting):
                del self._numbers[erasure_id, name]

    async def _save_sent(self, keys: Sequence[tuple[str, str]]) -> None:
        """Store when some notices were sent. Without an await before the append: a confirmation stays the newest."""
        notices = self._registry.hidden.erasures.notices
        sent = {
            (notice.erasure_id, notice.integration_id): notice
            for integration_id in {integration_id for _, integration_id in keys}
            for notice in notices.unconfirmed(integration_id)
        }
        news = [
            replace(sent[key], sent_time=self._sent[key])
            for key in keys
            if key in self._sent and key in sent and key not in self._confirming and not sent[key].sent_time
        ]
        await self._store(news)
        for key in keys:
            if key not in sent or sent[key].sent_time:
                self._sent.pop(key, None)

    def _is_before(self, notice: NoticeRecord, cursor: Cursor) -> bool:
        """Whether a notice was sent, and precedes a cursor in the log."""
        return self._sent_time(notice) > 0 and cursor.position >= notice.position

    def _sent_time(self, notice: NoticeRecord) -> int:
        return notice.sent_time or self._sent.get((notice.erasure_id, notice.integration_id), 0)

    async def _store(self, notices: list[NoticeRecord]) -> None:
        now = self._clock.now()
        for some in slices(notices, STORED_AT_ONCE):
            entries = [NOTICE.entry(NOTICE.key(one.erasure_id, one.integration_id), now, one) for one in some]
            appended = await self._log.append(entries)
            await self._registry.wait_applied(appended[-1].position)
