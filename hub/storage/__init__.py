"""The log as the rest of the hub sees it: the `Log` protocol, and the choice of a backend.

``tests/contract/`` holds every backend to these docstrings. Only a backend imports its driver.
"""

from collections.abc import AsyncIterator, Sequence
from importlib.util import find_spec
from typing import Protocol

from hub.config import Settings
from hub.errors import StartError
from hub.model import Appended, Bounds, Entry, Expect, Kind, Page
from hub.subjects import Subject

MAX_APPEND = 1_000
"""Entries in one append at most."""

STALE_AFTER = 5.0
"""After so many seconds without contact a replica may have missed a revocation, and stops delivering."""


class Log(Protocol):
    """One ordered, durable list of entries. All methods may run concurrently, and may be cancelled at any await.

    Every method may raise:
        StorageUnavailable: the store does not answer, or has failed and waits for a restart. A read of a damaged entry
            of state raises it, too, and the log has `failed` from then on: the entry may be a revocation.
    """

    @property
    def failed(self) -> bool:
        """Whether the log has failed: until a restart nothing is written; reads work if they can."""
        ...

    @property
    def damaged(self) -> int:
        """How many entries were found damaged since the log was opened."""
        ...

    def silence(self) -> float:
        """Seconds since the last proof that this replica knows every earlier append.

        Below `STALE_AFTER` the replica is current. It recovers by itself, unless state is damaged: then the silence is
        infinite, because the damaged entry may be a revocation.
        """
        ...

    async def append(
        self, entries: Sequence[Entry], expect: Expect | None = None, *, independent: bool = False
    ) -> list[Appended]:
        """Add entries at the end, in order, all or none; when it returns they survive power loss.

        An EVENT whose id was appended within the dedupe window with the same body is not added again: its result is the
        first one's, marked `duplicate`; also if that has been erased since, or is in the same call.
        Accept times never decrease: an older entry gets the time of the entry before it, and its result says so.
        A cancelled call has either happened completely or not at all.

        Args:
            entries: their `position` is ignored; `MAX_APPEND` at most.
            expect: STATE keys and the position that the newest entry of each must have; 0 = there must be none.
            independent: leave out an event whose id conflicts, with a result that is marked `conflict`, and add the
                others.

        Raises:
            Conflict: a key of `expect` has another position. Nothing was added.
            EventIdConflict: an id of `entries` names an event with another body. Nothing was added.
            StorageFull: no room. Nothing was added.
        """
        ...

    async def snapshot(self) -> tuple[list[Entry], int]:
        """The newest STATE entry of each key, and the position through which they are complete."""
        ...

    async def read(self, after: int, limit: int, kinds: frozenset[Kind] | None = None) -> Page:
        """Up to `limit` entries after a position, in order.

        Continue after `through` of the page. The end is reached when it equals ``bounds().last``, not at an empty page.
        An altered or missing event is an entry of kind DAMAGED with nothing but its position, whatever `kinds` says; of
        several in a row the page may have only the last.
        """
        ...

    async def history(self, before: int, limit: int, key_prefix: str = "") -> Page:
        """Up to `limit` STATE entries before a position, the newest first, of keys that begin with `key_prefix`.

        Entries of compacted keys (``hub/state.py``) are left out. `through` is the next `before`; 0 at the end.
        """
        ...

    def tail(self, after: int) -> AsyncIterator[Sequence[Entry]]:
        """Every entry after a position, in order, from all replicas, in batches; waits at the end for more.

        Ends when the log is closed. Superseded entries of compacted keys may be left out.
        """
        ...

    async def bounds(self) -> Bounds:
        """The log's extent. `first` and `last` are stored marks: a hole in between, or at an end, changes neither."""
        ...

    async def newest(self) -> int:
        """The newest position ever assigned, by any replica: it may lie beyond ``bounds().last``.

        A position beyond it does not belong to this log, unless it was issued before the log lost its tail.
        """
        ...

    async def position_at(self, time: int) -> int:
        """The position before the first entry accepted at `time` or later: read after it to get all of those.

        If some of those were trimmed away, it is less than ``first - 1``, so that they do not count as delivered. A
        damaged event that may be one of those is read, too.
        """
        ...

    async def trim(self, before: int, limit: int) -> int:
        """Remove up to `limit` EVENT and ERASED entries at positions below `before`, the oldest first; STATE stays.

        Returns the new `first`: the position after the newest event that was ever removed, so that a trim that meets
        only state removes no history. It never goes back, and positions are never reused. Of STATE only tombstones of
        compacted keys are removed.
        """
        ...

    async def remove_superseded(self, positions: Sequence[int], *, flush: bool = True) -> None:
        """Remove STATE entries of which the log has a newer one of the same key; other positions are ignored.

        The newest entry of each key, and `bounds`, stay. When it returns, the bytes are gone from the store's files;
        `flush` as of `erase`.
        """
        ...

    async def find(self, after: int, limit: int, subject: Subject) -> Page:
        """Up to `limit` EVENT entries after a position that are about a subject, in order; `through` as of `read`.

        Looks at a bounded number of positions, so that a page of few or no entries delays no other read.
        """
        ...

    async def erase(self, positions: Sequence[int], *, flush: bool = True) -> None:
        """Overwrite the content of EVENT entries: they become ERASED, and keep their positions and times.

        Other positions are ignored; only hashes of the ids remain. When it returns, the bytes are gone from the store's
        files. Without `flush` they may hold them until the next call with it, of any positions or none: a caller that
        erases many lists sets it once, at the end. What was read earlier is out of reach: the caller must also clear
        memory (the feed's window and pages, here and at every other replica; a restart empties them), backups, exports.
        """
        ...

    async def secrets(self) -> list[bytes]:
        """Candidates for the hub's own secret, 32 bytes each: from the settings, else made once, with the store.

        There are several if a rotation was interrupted, or if the setting can be read in two ways. The state says which
        one is in force; a store without state uses the first.
        """
        ...

    async def rotate_secret(self, secret: bytes, entry: Entry, expect: Expect, *, keep: bool) -> None:
        """Append the entry that puts another secret in force, and store or remove that secret.

        After a crash at any point `secrets` holds the one that is in force.

        Args:
            secret: the new one.
            entry: the state that names it.
            expect: as of `append`.
            keep: whether the store keeps it; otherwise the settings will give it.

        Raises:
            Conflict, StorageFull: as `append`. Nothing was changed.
        """
        ...

    async def refuse_older_hubs(self) -> None:
        """Refuse, from now on, hubs that know only older formats; running ones stop, too.

        Call it before the first entry of a kind that they would misread.

        Raises:
            StorageUnavailable: the store does not answer.
        """
        ...

    async def close(self) -> None:
        """Finish the work that was submitted, then release everything. Idempotent."""
        ...


async def open_storage(settings: Settings) -> Log:
    """Open the log that ``settings.storage`` names.

    Raises:
        StartError: it cannot be opened; the text says why and what to do.
    """
    if settings.storage == "sqlite":
        from hub.storage.sqlite.log import SqliteLog  # noqa: PLC0415  only the backend in use is imported

        return await SqliteLog.open(settings)
    _require_cluster(settings)
    from hub.storage.jetstream.log import JetStreamLog  # noqa: PLC0415  the same, and its driver may not be installed

    return await JetStreamLog.open(settings)


async def examine(settings: Settings) -> str:
    """Describe the log in a NATS cluster without opening it; changes nothing.

    Raises:
        StartError: it is not as the hub needs it; the text says why and what to do.
    """
    _require_cluster(settings)
    from hub.storage.jetstream.setup import examine as examine_log  # noqa: PLC0415  its driver may not be installed

    return await examine_log(settings)


def _require_cluster(settings: Settings) -> None:
    """Check that the storage is a NATS cluster's, and that its driver is installed.

    Raises:
        StartError: it is not.
    """
    if not settings.storage.startswith(("nats://", "tls://")):
        raise StartError(
            f"storage: unknown backend '{settings.storage}': leave it unset for SQLite in the data directory, "
            "or set the URL of a NATS cluster: nats://host:4222,..."
        )
    if find_spec("nats") is None:
        raise StartError(
            "storage: NATS needs the package nats: install the hub with its extra, pip install '.[jetstream]'"
        )
