"""The seam: what the hub wants of a log, and which backend a URL names.

Lives here: the promises, in the words of the domain. A backend lives in its own file and is the only one to import its
driver. ``tests/contract/`` holds every backend to what these docstrings say.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from hub.config import Settings
from hub.errors import StartError
from hub.model import Appended, Bounds, Entry, Expect, Kind, Page

EPHEMERAL_PREFIXES = ("cursor/", "claim/", "use/", "import/")
"""Keys of which only the newest entry is kept; of all others the superseded ones are the audit trail."""


MAX_APPEND = 1_000
"""Entries in one append at most."""

HEARD_WITHIN = 5.0
"""Seconds: who has not heard from the store for so long may have missed a revocation, and sends nobody anything."""


class Log(Protocol):
    """One ordered, durable list of entries. All methods are safe to call side by side and to cancel at any await.

    Every method may raise:
        StorageUnavailable: the store does not answer, or has failed and waits for a restart.
    """

    @property
    def failed(self) -> bool:
        """Whether it has failed for good: nothing is written any more until a restart, reads go on if they can."""
        ...

    def is_current(self) -> bool:
        """Whether all that was appended up to `HEARD_WITHIN` ago is known here; it comes back by itself."""
        ...

    async def append(self, entries: Sequence[Entry], expect: Expect | None = None) -> list[Appended]:
        """Add entries at the end, in order, all or none; when it returns they survive power loss.

        An EVENT whose id was appended within the dedupe window with the same body is not added again: its result is the
        first one's, marked `duplicate`; so also where the first one was erased since, or stands in the same call.
        Accept times never decrease: an entry older than the one before it gets that one's time, and its result tells.
        A cancelled call has either happened as a whole or not at all.

        Args:
            entries: their `position` is ignored; `MAX_APPEND` at most.
            expect: STATE keys and the position that the newest entry of each must have; 0 = there must be none.

        Raises:
            Conflict: a key of `expect` has another position. Nothing was added.
            EventIdConflict: an id of `entries` names an event with another body. Nothing was added.
            StorageFull: no room. Nothing was added.
        """
        ...

    async def snapshot(self) -> tuple[list[Entry], int]:
        """The newest STATE entry of each key, and the position through which that is the whole truth."""
        ...

    async def read(self, after: int, limit: int, kinds: frozenset[Kind] | None = None) -> Page:
        """Up to `limit` entries after a position, in order.

        `through` of the page is where to go on; the end is where it equals ``bounds().last``, never an empty page.
        """
        ...

    async def history(self, before: int, limit: int, key_prefix: str = "") -> Page:
        """Up to `limit` STATE entries before a position, the newest first, of keys that begin with `key_prefix`.

        Entries under EPHEMERAL_PREFIXES are left out. `through` is where to go on: the next `before`; 0 at the end.
        """
        ...

    def tail(self, after: int) -> AsyncIterator[Sequence[Entry]]:
        """Every entry after a position, in order, whoever appended it, in batches; waits at the end for more.

        Ends when the log is closed. Superseded entries under EPHEMERAL_PREFIXES may be left out.
        """
        ...

    async def bounds(self) -> Bounds:
        """The log's extent. `first` and `last` are stored marks: a hole in between, or at an end, changes neither."""
        ...

    async def newest(self) -> int:
        """The newest position that was ever given, whoever appended: it may lie beyond ``bounds().last``.

        A place after it is none of this log, unless of before the log lost its end.
        """
        ...

    async def position_at(self, time: int) -> int:
        """The position before the first entry accepted at `time` or later: read after it to get all of those.

        Where some of those were trimmed away it is less than ``first - 1``, so that they are not taken for delivered.
        """
        ...

    async def trim(self, before: int, limit: int) -> int:
        """Remove up to `limit` EVENT and ERASED entries at positions below `before`, the oldest first; STATE stays.

        Returns the new `first`: the position after the newest event that was ever removed, so that where only state
        is old nothing counts as gone. It never goes back, and positions are not given anew. Of STATE only those
        entries go that have no body: what is forgotten under EPHEMERAL_PREFIXES.
        """
        ...

    async def erase(self, positions: Sequence[int]) -> None:
        """Overwrite the content of EVENT entries: they become ERASED, their places and times stay.

        Other positions are passed over. The store's files hold the bytes no more when it returns. What was read or
        tailed before is not recalled: who erases has yet to see to what is held in memory (the feed's window and pages,
        here and at every other replica; a restart empties them), and to backups and exports.
        """
        ...

    async def secret(self) -> bytes:
        """The hub's own secret, 32 bytes: made once, with the store, and the same ever after."""
        ...

    async def close(self) -> None:
        """Let what was begun come to its end, then let go of everything. Idempotent."""
        ...


async def open_storage(settings: Settings) -> Log:
    """Open the log that ``settings.storage`` names.

    Raises:
        StartError: it cannot be opened; the text says why and what to do.
    """
    if settings.storage == "sqlite":
        from hub.storage.sqlite import SqliteLog  # noqa: PLC0415  only the backend in use is imported

        return await SqliteLog.open(settings)
    if not settings.storage.startswith(("nats://", "tls://")):
        raise StartError(
            f"storage: '{settings.storage}' names no backend: leave it unset for SQLite in the data directory, "
            "or name a NATS cluster: nats://host:4222,..."
        )
    try:
        from hub.storage.jetstream import JetStreamLog  # noqa: PLC0415  the same, and its driver may not be installed
    except ModuleNotFoundError as error:
        raise StartError(
            f"storage: NATS needs the package {error.name}: install the hub with its extra, pip install '.[jetstream]'"
        ) from None
    return await JetStreamLog.open(settings)
