"""What a stream sends beside the events of the log: notices and test events."""

from collections.abc import Iterable

from hub.model import Entry
from hub.privacy_model import NoticeRecord

MAX_SAMPLES = 20
"""The most test events that may wait; further ones are refused."""


class NoticeQueue:
    """Notices and test events that wait to be sent, in order.

    Attributes:
        notices: serialised fields of a frame; they go out before everything else.
        erased: the erasures to announce; they go out before events.
        sending: the erasure in the frame that is being written.
        samples: test events; each is projected when its turn comes.
    """

    __slots__ = ("_known", "erased", "notices", "samples", "sending")

    def __init__(self) -> None:
        self.notices: list[bytes] = []
        self.erased: list[NoticeRecord] = []
        self.sending: NoticeRecord | None = None
        self.samples: list[Entry] = []
        self._known: set[str] = set()

    def add_erased(self, notices: Iterable[NoticeRecord]) -> None:
        """Queue the erasures that were not queued on this stream before."""
        for notice in notices:
            if notice.erasure_id not in self._known:
                self._known.add(notice.erasure_id)
                self.erased.append(notice)

    def take_back(self) -> None:
        """Queue the erasure in the last frame again, before the others: it has not arrived."""
        if self.sending is not None:
            self.erased.insert(0, self.sending)
            self.sending = None

    def add_sample(self, entry: Entry) -> bool:
        """Queue a test event; returns False if too many wait already."""
        if len(self.samples) >= MAX_SAMPLES:
            return False
        self.samples.append(entry)
        return True

    def finish(self, farewell: bytes | None) -> None:
        """Replace the waiting notices by a last one, if there is any."""
        self.notices = [farewell] if farewell is not None else []
