"""Logging: a structured line for each event, with the call that it belongs to, and never a key.

While the hub serves, a thread writes the lines (`in_background`): the event loop never waits for standard error.
"""

import io
import logging
import os
import re
import select
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from queue import SimpleQueue
from threading import RLock, Thread
from typing import Any, TextIO

import structlog

from hub import metrics
from hub.model import Caller

CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""The caller of the call that this task serves."""

MAX_WAITING = 4 * 1024 * 1024
"""How many characters of the log may wait to be written; further lines are dropped and counted."""

FLUSH_TIME = 2.0
"""Seconds that the end of the program waits for the last lines to be written."""

_KEY = re.compile(r"(tkt_[a-z]+_[0-9A-Za-z]{12}_)[0-9A-Za-z]+")
_KEY_ID_ALONE = r"\1…"

LogLine = MutableMapping[str, Any]


def configure(level: str, style: str) -> None:
    """Log to standard error; call it again to change the level.

    Args:
        level: debug, info, warning or error.
        style: json, console, or auto: console where standard error is a terminal.
    """
    readable = style == "console" or (style == "auto" and sys.stderr.isatty())
    last: Any = structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            count,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            add_caller,
            structlog.processors.format_exc_info,
            last,
            hide_keys,  # type: ignore[list-item]  # structlog's types know no processor of finished lines
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(Unfailing(sys.stderr)),  # type: ignore[arg-type]  # all it uses
        cache_logger_on_first_use=False,
    )


class Unfailing:
    """A file that drops what cannot be written: a full disk or a closed pipe must not make a call fail.

    An error raised here would reach a caller as an exception's text, or leave the store open in a stop.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        """Write, if that is possible."""
        with suppress(OSError, ValueError):  # ValueError: the file is closed
            self._file.write(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with suppress(OSError, ValueError):
            self._file.flush()


class BackgroundFile(io.TextIOBase):
    """A text file whose `write` never waits: a thread writes to the descriptor, and text beyond a limit is dropped.

    Attributes:
        dropped: how many lines were lost, because too much was waiting or the descriptor failed.
    """

    def __init__(self, descriptor: int, max_waiting: int = MAX_WAITING) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._max_waiting = max_waiting
        self._reported = self._counted = 0
        self._accepted = self._written = 0
        self._lock = RLock()  # held for a moment only; reentrant, as a finaliser may log in the middle of a write
        self._waiting: SimpleQueue[str | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="log", daemon=True)  # a full pipe must not keep the program alive
        self._thread.start()

    def write(self, text: str) -> int:
        """Queue some text; it is dropped if too much is waiting already."""
        if not isinstance(text, str):
            raise TypeError(f"text is written here, not {type(text).__name__}")  # click tries what a file takes
        with self._lock:
            if self._accepted - self._written + len(text) > self._max_waiting:
                self.dropped += 1
            else:
                self._accepted += len(text)
                self._waiting.put(text)
        return len(text)

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def finish(self, time_limit: float) -> bool:
        """Write what is waiting; returns whether that was done within `time_limit` seconds."""
        self._waiting.put(None)
        self._thread.join(time_limit)
        return not self._thread.is_alive()

    def count_dropped(self) -> None:
        """Add what was lost since the last call to the metrics; on the event loop, which alone counts."""
        dropped = self.dropped
        metrics.LOG_LINES_DROPPED.add(dropped - self._counted)
        self._counted = dropped

    def _run(self) -> None:
        works = True
        while (text := self._waiting.get()) is not None or (works and self._has_lost):
            if text is None:
                self._report()
                self._waiting.put(None)  # once more, behind the report
                continue
            works = self._write(_KEY.sub(_KEY_ID_ALONE, text).encode(errors="backslashreplace"))
            self._written += len(text)
            self.dropped += not works
            if works and self._waiting.empty() and self._has_lost:
                self._report()

    def _write(self, data: bytes) -> bool:
        """Write all of it, however long the reader takes; returns whether that was possible."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # the parent process shares a descriptor that does not block
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                return False
        return True

    @property
    def _has_lost(self) -> bool:
        return self.dropped > self._reported

    def _report(self) -> None:
        lost, self._reported = self.dropped - self._reported, self.dropped
        structlog.get_logger().warning("log lines were dropped", lines=lost)


@contextmanager
def in_background() -> Iterator[None]:
    """Let a thread write what goes to standard error within the context: log lines, warnings, tracebacks.

    Call `configure` inside.
    """
    before, handlers = sys.stderr, logging.root.handlers[:]
    file = BackgroundFile(before.fileno())
    sys.stderr = file
    logging.captureWarnings(capture=True)
    logging.root.handlers = [LibraryHandler()]
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        logging.root.handlers = handlers
        if file.finish(FLUSH_TIME):  # else a write to the real one would wait for ever
            sys.stderr = before


def count_dropped() -> None:
    """Update the counter of lost log lines."""
    if isinstance(sys.stderr, BackgroundFile):
        sys.stderr.count_dropped()


class LibraryHandler(logging.Handler):
    """Logs the records of libraries that use `logging`, asyncio's among them, as our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record of a library."""
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None
        )


def count(logger: object, name: str, event: LogLine) -> LogLine:
    """Count the line by its level."""
    del logger
    metrics.LOG_LINES.add(1, name)
    return event


def add_caller(logger: object, name: str, event: LogLine) -> LogLine:
    """Bind the call that a line belongs to; looked up only when a line is written."""
    del logger, name
    caller = CALLER.get()
    if caller is not None:
        event.setdefault("request_id", caller.request_id)
        event.setdefault("method", caller.method)
        event.setdefault("caller", f"{caller.role.name.lower()}:{caller.key_id}")
        if caller.integration_id:
            event.setdefault("integration_id", caller.integration_id)
    return event


def hide_keys(logger: object, name: str, line: str) -> str:
    """Cut the secret part from anything in a line that looks like a key: a safety net."""
    del logger, name
    return _KEY.sub(_KEY_ID_ALONE, line)
