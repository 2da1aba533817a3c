"""``hub tail``: what an integration gets, a line an event, for as long as somebody looks."""

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

from hub.cli.calling import Calling, calling_options, fail, open_client, plain, told
from hub.cli.settling import give_up
from hub.client import Client, HubCallError, Notice, Policy, Reconnecting, Start, Subscription
from hub.client.requests import Wanted

KEY = "HUB_KEY"


def read_start(_context: click.Context, _option: click.Parameter, text: str) -> Start:
    """What --from means. A cursor is whatever is no word and no time: only the hub can read it."""
    words = {"latest": Start.latest(), "earliest": Start.earliest(), "committed": Start.committed()}
    if text in words:
        return words[text]
    if re.match(r"\d{4}-\d\d-\d\d", text):
        try:
            return Start.since(datetime.fromisoformat(text))
        except ValueError:
            raise click.BadParameter(f"'{text}' is no time with a zone, such as 2030-01-31T12:00:00Z") from None
    if re.fullmatch(r"[a-z]*", text):
        raise click.BadParameter(f"'{text}' is none of {', '.join(words)}, nor a cursor, nor a time")
    return Start.cursor(text)


@click.command(short_help="Show what an integration gets.")
@calling_options(KEY)
@click.option("--subscription", default="tail", show_default=True, help="the name of this reader")
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
    help="where what follows PLACE is not kept any more: end, or say so and go on with the earliest that is",
)
@click.option("--scope", "scopes", multiple=True, metavar="NAME", help="as if only this were granted; may be repeated")
@click.option("--guild", "guild_ids", multiple=True, metavar="ID", help="only events of this server; may be repeated")
@click.option("--json", "as_json", is_flag=True, help='a line of JSON an event: {"event": ..., "cursor": ...}')
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="end after so many events")
def tail(  # noqa: PLR0913  what a look may be
    start: Start,
    on_expired: Literal["fail", "earliest"],
    as_json: bool,  # noqa: FBT001  click passes everything by name
    count: int | None,
    subscription: str,
    scopes: tuple[str, ...],
    guild_ids: tuple[str, ...],
    **calling: Any,  # noqa: ANN401  the fields of Calling
) -> None:
    """Show what an integration gets: events on standard output, all else on standard error.

    A look takes nothing from anybody: it is a reader of its own, named "tail", and commits no place. Of two readers
    with one name the newer takes over, so do not give --subscription the name of one that is at work ("default" is the
    name of those that have no other). To go on later, give the last line's cursor of --json to --from.
    """
    wanted: Wanted = {
        "subscription_id": subscription,
        "start": start,
        "on_expired_cursor": on_expired,
        "scopes": scopes,
        "guild_ids": guild_ids,
        "max_batch_size": 1 if as_json else 0,  # so that each event has the cursor after it
    }
    with suppress(KeyboardInterrupt, BrokenPipeError), open_client(Calling(**calling), KEY, Policy()) as client:
        events = subscribe(client, wanted)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
        watch_reader(events.close)
        show(events, json_line if as_json else readable_line, count)


def subscribe(client: Client, wanted: Wanted) -> Subscription:
    """A subscription that shows its notices; a scope that there is not ends the program with one line."""
    try:
        return client.subscribe(on_notice=Notices(), **wanted)
    except ValueError as error:
        give_up(str(error))


def show(events: Subscription, line: Callable[[Event, str], str], count: int | None) -> None:
    """A line for each event, until there were so many or the subscription is closed."""
    shown = 0
    try:
        for event in events:
            click.echo(line(event, events.cursor))
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
    return plain(f"{when}Z  {event.guild_id:<19}  {kind:<18}  {' '.join(fields)}".rstrip())


def json_line(event: Event, cursor: str) -> str:
    """The event as JSON, spelt as in the contract, numbers that are 0 included, and the cursor after it."""
    content = MessageToDict(event, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return json.dumps({"event": content, "cursor": cursor})


class Notices:
    """Shows what else the hub says, greyed on a terminal."""

    def __init__(self) -> None:
        self._was_open = False

    def __call__(self, notice: Notice) -> None:
        """Show one. Raises what kept the first stream from opening: a hub that is not there is not waited for."""
        if isinstance(notice, Reconnecting) and not self._was_open:
            raise notice.error
        self._was_open = True
        text = notice_line(notice)
        if text:
            click.echo(click.style(f"-- {plain(text)}", fg="bright_black"), err=True)


def notice_line(notice: Notice) -> str:
    """A notice in words; empty for one that says nothing new."""
    text = ""
    match notice:
        case Ready():
            without = f", without {', '.join(notice.withheld_fields)}" if notice.withheld_fields else ""
            text = f"open: {names(notice.effective_scopes)}{without}"
            if notice.HasField("key_expire_time"):
                text += f"; this key ends at {notice.key_expire_time.ToJsonString()}"
        case Heartbeat() if not notice.caught_up:
            text = f"{notice.lag.ToTimedelta().total_seconds():.0f} s behind"
        case GrantsChanged():
            text = f"granted: {names(notice.added)}; taken away: {names(notice.removed)} ({notice.reason})"
        case Gap():
            cause = GapCause.Name(notice.cause).removeprefix("GAP_CAUSE_").lower()
            text = f"gap ({cause}): {notice.from_time.ToJsonString()} to {notice.to_time.ToJsonString()} is not kept"
        case Goodbye():
            text = f"the hub says goodbye: {notice.reason}"
        case Reconnecting():
            text = f"the stream broke, again in {notice.delay:.1f} s: {told(notice.error)}"
    return text


def names(scopes: Iterable[Scope.ValueType]) -> str:
    """Scopes as people write them."""
    return ", ".join(Scope.Name(scope).removeprefix("SCOPE_").lower() for scope in scopes) or "nothing"


def watch_reader(gone: Callable[[], None]) -> None:
    """Call when nobody reads standard output any more: a write would tell only with the next event."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors and hang-ups are told unasked

    def wait() -> None:
        poll.poll()
        gone()

    threading.Thread(target=wait, name="hub-tail-reader", daemon=True).start()
