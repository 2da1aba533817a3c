"""How the hub logs: one structured line an occurrence, with the call it belongs to, and never a key.

Lives here: the set-up of structlog and the variable that says whose call it is. Must not know what is worth a line.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

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
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


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
