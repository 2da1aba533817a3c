"""How the hub logs: one structured line an occurrence, with the call it belongs to, and never a key.

Lives here: the set-up of structlog and the variable that says whose call it is. Must not know what is worth a line.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TextIO

import structlog

from hub.model import Caller

CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Who made the call that this task serves."""

_KEY = re.compile(r"(tkt_[a-z]+_[0-9A-Za-z]{12}_)[0-9A-Za-z]+")

Event = MutableMapping[str, Any]


def configure(level: str, style: str) -> None:
    """Log to standard error.

    Args:
        level: debug, info, warning or error.
        style: json, console, or auto: console where standard error is a terminal.
    """
    readable = style == "console" or (style == "auto" and sys.stderr.isatty())
    last: Any = structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
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
    """A file that loses what cannot be written: a full disk or a closed pipe under the log must not end a call.

    Raised where a call is refused it would reach the caller as an exception's text, and in a stop leave the store open.
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


def add_caller(logger: object, name: str, event: Event) -> Event:
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
    """Cut the secret part from anything that looks like a key, should one ever get into a line, however deep."""
    del logger, name
    return _KEY.sub(r"\1…", line)
