"""The thread that works on the file of an outbox: what waits for it shares a transaction, and so a sync of the disk.

Both drivers use it. Must not know calls to the hub, nor what the work is.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from tickets_hub.outbox import Outbox, OutboxError
from tickets_hub.outbox_file import OutboxFile

Result = TypeVar("Result")
Deliver = Callable[[Sequence[Callable[[], None]]], None]

MAX_GROUP = 10_000
"""Pieces of work in one transaction."""

BROKEN = frozenset({"SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC", "SQLITE_CORRUPT", "SQLITE_NOTADB"})
"""Errors after which the content of the file is unknown until it is opened again."""


class _Piece(Generic[Result]):
    """A piece of work, and the callback for its outcome, once that is durable."""

    def __init__(self, work: Callable[[OutboxFile], Result], done: Callable[[Result | Exception], None]) -> None:
        self._work = work
        self._done = done
        self._outcome: Result | Exception

    def run(self, file: OutboxFile) -> None:
        """Do it. What the file itself raises ends the whole transaction."""
        try:
            self._outcome = self._work(file)
        except OutboxError as error:
            self._outcome = error

    def fail(self, error: Exception) -> None:
        """The transaction that it was part of was undone."""
        self._outcome = error

    def tell(self) -> None:
        """Report the outcome of the work."""
        self._done(self._outcome)


class OutboxThread:
    """Does one transaction after the other; counts are those of the last one."""

    def __init__(self, settings: Outbox, deliver: Deliver) -> None:
        """Open the file, and begin. `deliver` hears, in this thread, what is to be called after each transaction.

        Raises:
            OutboxError: the file cannot be opened.
        """
        self._deliver = deliver
        self._file = OutboxFile(settings)
        self.counts = self._file.counts
        self._queue = SimpleQueue[_Piece[object] | None]()
        self._broken: OutboxError | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="hub outbox file", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[OutboxFile], Result], done: Callable[[Result | Exception], None]) -> None:
        """Have work done on the file; `done` hears what it returned, or an `OutboxError`.

        Raises:
            OutboxError: the file was closed.
        """
        with self._lock:
            if self._closed:
                raise OutboxError("the outbox is closed")
            self._queue.put(_Piece(work, done))  # type: ignore[arg-type]  # a piece hands its outcome to its own `done`

    def close(self) -> None:
        """Finish what was submitted, and close the file."""
        with self._lock:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            pieces, goes_on = self._next_group()
            self._transact(pieces)
            self.counts = self._file.counts
            self._deliver([piece.tell for piece in pieces])
        self._file.close()

    def _next_group(self) -> tuple[list["_Piece[object]"], bool]:
        """The waiting items, at least one; False: it is the last batch."""
        pieces = list[_Piece[object]]()
        piece = self._queue.get()
        while piece is not None:
            pieces.append(piece)
            if len(pieces) == MAX_GROUP:
                return pieces, True
            try:
                piece = self._queue.get_nowait()
            except Empty:
                return pieces, True
        return pieces, False

    def _transact(self, pieces: Sequence["_Piece[object]"]) -> None:
        try:
            if self._broken is not None:
                raise self._broken
            self._file.begin()
            for piece in pieces:
                piece.run(self._file)
            self._file.commit()
        except (sqlite3.Error, OutboxError) as error:
            failure = error if isinstance(error, OutboxError) else self._undo(error)
            for piece in pieces:
                piece.fail(failure)

    def _undo(self, error: sqlite3.Error) -> OutboxError:
        """Undo the transaction. After some errors the file is not used any more."""
        problem = OutboxError(f"the outbox could not be written: {error}")
        if error.sqlite_errorname in BROKEN:
            self._broken = OutboxError(f"the outbox could not be written: {error}; it has to be opened again")
            return self._broken
        try:
            self._file.rollback()
        except sqlite3.Error as another:
            self._broken = OutboxError(f"the outbox could not be read: {another}; it has to be opened again")
        return problem
