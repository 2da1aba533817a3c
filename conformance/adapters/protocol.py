"""What both adapters of the Python clients share: lines, the policy, failures and notices as JSON."""

import base64
import json
import sys
import threading
from collections.abc import Callable
from typing import Any, cast

from tickets_hub import HubCallError, Notice, Policy, Reconnecting, Start, webhooks
from tickets_hub.requests import SubscribeOptions
from tickets_hub.v1.event_pb2 import Event, TicketClosed
from tickets_hub.v1.event_service_pb2 import Erased

Line = dict[str, Any]

LAST_WORDS = 10.0
"""Seconds that calls may take to end after their client was closed."""

_writing = threading.Lock()

NAMES = {"GrantsChanged": "grants_changed"}


def write(**line: object) -> None:
    """Write a line."""
    with _writing:
        print(json.dumps(line), flush=True)


def policy(command: Line) -> Policy:
    """The policy of a ``connect``."""
    return Policy(**command["policy"])


def options(command: Line) -> SubscribeOptions:
    """The options of a ``subscribe``."""
    wanted = {key: value for key, value in command.items() if key not in ("do", "auto_commit", "erasures", "start")}
    start = command.get("start")
    if start is not None:
        made = Start.cursor(start["cursor"]) if isinstance(start, dict) else getattr(Start, start)()
        wanted["start"] = made
    return cast("SubscribeOptions", wanted)


def on_erased(command: Line, slow: Callable[[Erased], Any]) -> dict[str, Any]:
    """The handler of erasures that a ``subscribe`` asks for."""
    handler = {True: tell, "slow": slow, False: None}[command.get("erasures", True)]
    return {"on_erased": handler} if handler else {}


def event(name: str, guild_id: str) -> Event:
    """An event of this id."""
    return Event(id=name, guild_id=guild_id, ticket_closed=TicketClosed())


def failure(error: HubCallError) -> Line:
    """A failure, as the line protocol has it."""
    return {
        "code": error.code,
        "reason": error.reason,
        "message": error.message,
        "metadata": error.metadata,
        "retry_after": error.retry_after,
        "violations": [{"field": one.field, "description": one.description} for one in error.violations],
        "event_ids": list(error.event_ids),
    }


def tell(notice: Notice | Erased) -> None:
    """Write a notice."""
    if isinstance(notice, Reconnecting):
        write(notice="reconnecting", code=notice.error.code, reason=notice.error.reason, delay=notice.delay)
    else:
        name = type(notice).__name__
        write(notice=NAMES.get(name, name.lower()))


def verify(command: Line) -> None:
    """Verify a request, and write whether it is the hub's."""
    body = base64.b64decode(command["body"])
    try:
        webhooks.verify(command["headers"], body, command["secret"], now=command["now"])
    except webhooks.WebhookError:
        write(reply="verify_webhook", result="refused")
    except ValueError:
        write(reply="verify_webhook", result="no secret")
    else:
        write(reply="verify_webhook", result="verified")


def commands() -> Any:  # noqa: ANN401  JSON
    """The commands, until standard input ends."""
    for text in sys.stdin:
        yield json.loads(text)
