"""``hub tail``: prints a line for each event that an integration gets, until it is interrupted."""

import json
import re
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal

import click
from google.protobuf.json_format import MessageToDict
from tickets.hub.v1.event_pb2 import Event
from tickets.hub.v1.event_service_pb2 import Gap, GapCause, Goodbye, GrantsChanged, Heartbeat, Ready
from tickets.hub.v1.permissions_pb2 import Scope
from tickets_hub import Client, HubCallError, Notice, Policy, Reconnecting, Start, Subscription
from tickets_hub.requests import SubscribeOptions

from hub.cli.completion import complete_values
from hub.cli.connection import ConnectionOptions, connection_options, describe, fail, open_client
from hub.cli.options import give_up
from hub.cli.output import echo
from hub.text import escaped

KEY = "HUB_KEY"
ADMIN_KEY = "HUB_ADMIN_KEY"
READER = "tail"
"""The subscription that an integration's own key tails."""


def read_start(_context: click.Context, _option: click.Parameter, text: str) -> Start:
    """The start that --from names. Anything that is neither a keyword nor a timestamp is taken as a cursor."""
    words = {"latest": Start.latest(), "earliest": Start.earliest(), "committed": Start.committed()}
    if text in words:
        return words[text]
    if re.match(r"\d{4}-\d\d-\d\d", text):
        try:
            return Start.since(datetime.fromisoformat(text))
        except ValueError:
            raise click.BadParameter(f"'{text}' is not a time with a zone, such as 2030-01-31T12:00:00Z") from None
    if re.fullmatch(r"[a-z]*", text):
        raise click.BadParameter(f"'{text}' is neither {', '.join(words)}, a cursor nor a time")
    return Start.cursor(text)


@click.command(short_help="Show what an integration gets.")
@connection_options(KEY)
@click.option("--subscription", metavar="NAME", help=f"the name of this reader [default: {READER}]")
@click.option(
    "--integration",
    metavar="ID",
    help=f"with an admin's key [${ADMIN_KEY}]: show what this integration gets; the audit trail records it",
)
@click.option("--reason", default="", metavar="TEXT", help="why, for the audit trail; with --integration")
@click.option(
    *("--from", "start"),
    default="latest",
    show_default=True,
    callback=read_start,
    metavar="PLACE",
    help="latest, earliest, committed, a cursor, or a time such as 2030-01-31T12:00:00Z",
)
@click.option(
    "--on-expired",
    type=click.Choice(["fail", "earliest"]),
    default="fail",
    show_default=True,
    help="if the events after PLACE are no longer kept: fail, or report the gap and go on with the earliest event",
)
@click.option(
    *("--scope", "scopes"),
    multiple=True,
    metavar="NAME",
    help="as if only this were granted; may be repeated",
    shell_complete=complete_values(
        "|".join(one.name.removeprefix("SCOPE_").lower() for one in Scope.DESCRIPTOR.values[1:])
    ),
)
@click.option("--guild", "guild_ids", multiple=True, metavar="ID", help="only events of this server; may be repeated")
@click.option(
    "--linger",
    type=click.FloatRange(0, 5),
    default=0.0,
    metavar="SECONDS",
    help="let the hub collect events for this long and send them together, which costs it less; not with --json",
)
@click.option("--json", "as_json", is_flag=True, help='a line of JSON for each event: {"event": ..., "cursor": ...}')
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="end after so many events")
def tail(  # noqa: PLR0913  the options of a tail
    start: Start,
    on_expired: Literal["fail", "earliest"],
    as_json: bool,  # noqa: FBT001  click passes everything by name
    count: int | None,
    linger: float,
    subscription: str | None,
    integration: str | None,
    reason: str,
    scopes: tuple[str, ...],
    guild_ids: tuple[str, ...],
    **connection: Any,  # noqa: ANN401  the fields of ConnectionOptions
) -> None:
    """Show what an integration gets: events on standard output, all else on standard error.

    A tail takes nothing from other readers: it is a reader of its own, named "tail", and commits no cursor. Of two
    readers with one name the newer takes over, so do not give --subscription the name of a running reader ("default"
    is the name of a reader without one). To resume later, pass the cursor of the last --json line to --from.

    With --integration an admin sees what an integration gets: never more than it may see itself. This takes over none
    of its streams, does not count as its use, and is recorded in the audit trail with the admin's key and the time.
    """
    if integration is None and reason:
        give_up("--reason needs --integration")
    if integration is not None and subscription is not None:
        give_up("--integration and --subscription exclude each other: an admin's tail has no name")
    if linger and as_json:
        give_up("--linger and --json exclude each other: with --json each event has a frame and a cursor of its own")
    variable = KEY if integration is None else ADMIN_KEY
    options: SubscribeOptions = {
        "subscription_id": (subscription or READER) if integration is None else "",
        "integration_id": integration or "",
        "reason": reason,
        "start": start,
        "on_expired_cursor": on_expired,
        "scopes": scopes,
        "guild_ids": guild_ids,
        "linger": linger,
        "max_batch_size": 1 if as_json else 0,  # so that each event has the cursor after it
    }
    with (
        suppress(KeyboardInterrupt, BrokenPipeError),
        open_client(ConnectionOptions(**connection), variable, Policy()) as client,
    ):
        events = subscribe(client, options)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        watch_reader(events.close)
        show(events, json_line if as_json else readable_line, count)


def subscribe(client: Client, options: SubscribeOptions) -> Subscription:
    """A subscription that prints its notices; an unknown scope ends the program with one line."""
    try:
        return client.subscribe(on_notice=NoticePrinter(), **options)
    except ValueError as error:
        give_up(str(error))


def show(events: Subscription, line: Callable[[Event, str], str], count: int | None) -> None:
    """Print a line for each event, until so many were printed or the subscription is closed."""
    shown = 0
    try:
        for event in events:
            echo(line(event, events.cursor))
            shown += 1
            if shown == count:
                return
    except HubCallError as error:
        fail(error)


def readable_line(event: Event, _cursor: str) -> str:
    """When, where, what, and every field that came with it."""
    kind = event.WhichOneof("payload") or "unknown"
    payload = getattr(event, kind, None)
    fields = [
        f"{field.name}={getattr(payload, field.name)}"
        for field in (payload.DESCRIPTOR.fields if payload is not None else ())
        if payload is not None and (not field.has_presence or payload.HasField(field.name))
    ]
    if event.test:
        fields.append("(a test)")
    when = event.accept_time.ToDatetime().isoformat(timespec="seconds")
    return escaped(f"{when}Z  {event.guild_id:<19}  {kind:<18}  {' '.join(fields)}".rstrip())


def json_line(event: Event, cursor: str) -> str:
    """The event as JSON, spelt as in the contract, numbers that are 0 included, and the cursor after it."""
    content = MessageToDict(event, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return json.dumps({"event": content, "cursor": cursor})


class NoticePrinter:
    """Prints notices, in grey on a terminal."""

    def __init__(self) -> None:
        self._was_open = False

    def __call__(self, notice: Notice) -> None:
        """Print a notice. Raises the failure of the first stream: the program does not wait for a hub that is down."""
        if isinstance(notice, Reconnecting) and not self._was_open:
            raise notice.error
        self._was_open = True
        text = notice_line(notice)
        if text:
            click.echo(click.style(f"-- {escaped(text)}", fg="bright_black"), err=True)


def notice_line(notice: Notice) -> str:
    """A notice in words; empty for one that says nothing new."""
    text = ""
    match notice:
        case Ready():
            without = f", without {', '.join(notice.withheld_fields)}" if notice.withheld_fields else ""
            text = f"open: {names(notice.effective_scopes)}{without}"
            if notice.HasField("key_expire_time"):
                text += f"; this key ends at {notice.key_expire_time.ToJsonString()}"
        case Heartbeat() if notice.store_silent:
            text = "the hub's store does not answer: no events until it does"
        case Heartbeat() if not notice.caught_up:
            text = f"{notice.lag.ToTimedelta().total_seconds():.0f} s behind"
        case GrantsChanged():
            text = f"granted: {names(notice.added)}; taken away: {names(notice.removed)} ({notice.reason})"
        case Gap():
            cause = GapCause.Name(notice.cause).removeprefix("GAP_CAUSE_").lower()
            text = (
                f"gap ({cause}): {notice.from_time.ToJsonString()} to {notice.to_time.ToJsonString()} is no longer kept"
            )
        case Goodbye():
            text = f"the hub says goodbye: {notice.reason}"
        case Reconnecting():
            text = f"the stream broke, retrying in {notice.delay:.1f} s: {describe(notice.error)}"
    return text


def names(scopes: Iterable[Scope.ValueType]) -> str:
    """Scopes as people write them."""
    return ", ".join(Scope.Name(scope).removeprefix("SCOPE_").lower() for scope in scopes) or "nothing"


def watch_reader(gone: Callable[[], None]) -> None:
    """Call `gone` once standard output has no reader; a write would only fail with the next event."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # poll reports errors and hang-ups unasked

    def wait() -> None:
        poll.poll()
        gone()

    threading.Thread(target=wait, name="hub-tail-reader", daemon=True).start()
