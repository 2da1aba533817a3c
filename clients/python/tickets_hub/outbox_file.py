"""The file of an outbox: an SQLite database that one process has to itself.

Only this module knows SQLite. All methods but the constructor belong to the thread in ``outbox_thread.py``, between its
BEGIN and COMMIT. It does not know calls to the hub.

A copy of the file, or an older one that was restored, must not go on with numbers that the hub knows by other events.
So each opening that adds events gives them to a new emitter, named at random; what an earlier one left keeps its
numbers.
"""

import os
import secrets
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tickets_hub.outbox import Batch, Counts, Outbox, OutboxError, OutboxFull, Rejected, Verdict
from tickets_hub.outgoing import MAX_CALL_BYTES

APPLICATION_ID = 0x7468_6F62
FORMAT = 1
MAX_REJECTED = 10_000
"""Refused events that the file keeps; older ones make room."""

SCHEMA = f"""
CREATE TABLE events (position INTEGER PRIMARY KEY, put_time INTEGER NOT NULL, event BLOB NOT NULL);
CREATE TABLE emitters (start INTEGER PRIMARY KEY, emitter_id TEXT NOT NULL);
CREATE TABLE rejected (
    number INTEGER PRIMARY KEY AUTOINCREMENT, reject_time INTEGER NOT NULL, event BLOB NOT NULL,
    code TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};
"""


class OutboxFile:
    """Events by position, and which emitter numbers them: an emitter begins at a position, there with the number 1."""

    def __init__(self, settings: Outbox) -> None:
        """Open it, or make it.

        Raises:
            OutboxError: another process has it, it is not an outbox, or it cannot be opened.
        """
        self._settings = settings
        self._path = Path(settings.path)
        try:
            self._database = self._open()
        except sqlite3.Error as error:
            raise OutboxError(self._problem(error)) from None
        except OSError as error:
            raise OutboxError(f"the outbox {self._path}: {error.strerror}") from None
        self._numbering = False
        self._next = 0
        self.counts = self._count()

    def begin(self) -> None:
        """Begin a transaction."""
        self._database.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make everything since `begin` durable."""
        self._database.execute("COMMIT")

    def rollback(self) -> None:
        """Undo everything since `begin`."""
        with suppress(sqlite3.Error):
            self._database.execute("ROLLBACK")
        self._numbering = False
        self.counts = self._count()

    def close(self) -> None:
        """Close it; another process may have it then."""
        self._database.close()

    def put(self, events: Sequence[bytes]) -> None:
        """Add events.

        Raises:
            OutboxFull: there is no room for all of them; none was added.
        """
        size = sum(map(len, events))
        counts, settings = self.counts, self._settings
        if counts.waiting + len(events) > settings.max_events or counts.size + size > settings.max_bytes:
            raise OutboxFull(
                f"the outbox is full: {counts.waiting} events, {counts.size} bytes (max_events {settings.max_events}, "
                f"max_bytes {settings.max_bytes}); OutboxStatus.failure says why the hub did not take them"
            )
        now = time.time_ns() // 1_000
        first = self._next_position()
        rows = [(first + index, now, event) for index, event in enumerate(events)]
        self._database.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
        self._next = first + len(events)
        oldest = now if counts.oldest is None else counts.oldest
        self.counts = Counts(counts.waiting + len(events), counts.size + size, oldest, counts.rejected)

    def head(self, most: int) -> Batch | None:
        """The oldest events of one emitter, up to a number of them; None: there is none."""
        [first] = self._one("SELECT min(position) FROM events")
        if first is None:
            return None
        start, emitter_id = self._one(
            "SELECT start, emitter_id FROM emitters WHERE start <= ? ORDER BY start DESC LIMIT 1", first
        )
        [end] = self._one("SELECT min(start) FROM emitters WHERE start > ?", first)
        rows = self._database.execute(
            "SELECT event FROM events WHERE position >= ? AND position < ? ORDER BY position LIMIT ?",
            (first, first + most if end is None else end, most),
        )
        events, size = list[bytes](), 0
        for [event] in rows:
            size += len(event)
            if events and size > MAX_CALL_BYTES:
                break
            events.append(event)
        return Batch(emitter_id, first - start + 1, first, events)

    def settle(self, batch: Batch, verdict: Verdict) -> None:
        """Apply the verdict on a batch."""
        if verdict.renumber:
            self._begin_emitter(batch.first_position)
        if verdict.done:
            self._keep_aside(verdict.rejected)
            self._database.execute("DELETE FROM events WHERE position <= ?", (batch.last_position,))
            counts, size = self.counts, sum(map(len, batch.events))
            rejected = counts.rejected + len(verdict.rejected)
            self.counts = Counts(counts.waiting - len(batch.events), counts.size - size, self._oldest(), rejected)

    def _keep_aside(self, rejected: Sequence[Rejected]) -> None:
        now = time.time_ns() // 1_000
        for each in rejected:
            self._database.execute(
                "INSERT INTO rejected (reject_time, event, code, reason, message) VALUES (?, ?, ?, ?, ?)",
                (now, each.event.SerializeToString(), each.error.code, each.error.reason, each.error.message),
            )
        if rejected:
            self._database.execute(
                "DELETE FROM rejected WHERE number <= (SELECT max(number) FROM rejected) - ?", (MAX_REJECTED,)
            )

    def _next_position(self) -> int:
        """Where the next event goes; the first one of this opening begins a new emitter."""
        if not self._numbering:
            # Emitters of whom no event is left are not needed any more; the newest keeps its place from being reused.
            self._database.execute(
                "DELETE FROM emitters WHERE start < (SELECT max(start) FROM emitters WHERE start <= "
                "coalesce((SELECT min(position) FROM events), (SELECT max(start) FROM emitters)))"
            )
            [last] = self._one(
                "SELECT max(coalesce((SELECT max(position) FROM events), 0), "
                "coalesce((SELECT max(start) FROM emitters), 0))"
            )
            self._next = int(last) + 1
            self._begin_emitter(self._next)
            self._numbering = True
        return self._next

    def _begin_emitter(self, start: int) -> None:
        self._database.execute("REPLACE INTO emitters VALUES (?, ?)", (start, f"outbox-{secrets.token_hex(16)}"))

    def _count(self) -> Counts:
        waiting, size = self._one("SELECT count(*), coalesce(sum(length(event)), 0) FROM events")
        [rejected] = self._one("SELECT coalesce(max(number), 0) FROM rejected")
        return Counts(waiting, size, self._oldest(), rejected)

    def _oldest(self) -> int | None:
        found = self._database.execute("SELECT put_time FROM events ORDER BY position LIMIT 1").fetchone()
        return found[0] if found else None

    def _one(self, query: str, *values: int) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._database.execute(query, values).fetchone()
        return row

    def _open(self) -> sqlite3.Connection:
        made = not self._path.exists()
        if made:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # events are for the bot alone
        database = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            # Exclusive from the first read on, and until the process ends, however it ends.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA fullfsync = 1")
            self._check_format(database)
            database.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            database.close()
            raise
        if made:
            _sync_directory(self._path.parent)
        return database

    def _check_format(self, database: sqlite3.Connection) -> None:
        database.execute("BEGIN IMMEDIATE")
        [application] = database.execute("PRAGMA application_id").fetchone()
        [version] = database.execute("PRAGMA user_version").fetchone()
        [tables] = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if (application, version) != (APPLICATION_ID, FORMAT):
            if tables or application not in (0, APPLICATION_ID):
                made = "made by a newer client" if application == APPLICATION_ID else "not an outbox"
                raise OutboxError(f"{self._path} is {made}: give the outbox another file")
            for statement in filter(str.strip, SCHEMA.split(";")):
                database.execute(statement)
        database.execute("COMMIT")

    def _problem(self, error: sqlite3.Error) -> str:
        if error.sqlite_errorname == "SQLITE_BUSY":
            return f"the outbox {self._path} is in use: each process needs a file of its own"
        return f"the outbox {self._path}: {error}"


def _sync_directory(directory: Path) -> None:
    """Make the name of a new file durable, where the system can."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
