"""An integration: shows on the terminal whatever its key lets it see, for as long as it runs.

    export HUB_KEY=tkt_integration_...          # an admin gets it from RegisterIntegration
    python examples/integration.py              # from now on
    python examples/integration.py --start earliest --scope member_verified
    python examples/integration.py --remember   # the hub keeps the place; the next run goes on there

What to look at: ``for event in client.subscribe(...)`` is all. The client reconnects by itself and goes on after the
last event; it raises only what a developer has to mend. ``on_notice`` hears what else there is to know.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterable
from datetime import datetime

from tickets_hub import Client, HubCallError, Notice, Reconnecting, Start
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.event_service_pb2 import Erased, Gap, Goodbye, GrantsChanged, Heartbeat, Ready
from tickets_hub.v1.permissions_pb2 import Scope

GREY, YELLOW, PLAIN = ("\033[90m", "\033[33m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


def show(event: Event) -> None:
    """One line for an event: when, where, what, and every field that came with it."""
    kind = event.WhichOneof("payload") or "unknown"
    payload = getattr(event, kind, None)
    fields = {field.name: value for field, value in payload.ListFields()} if payload else {}
    when = event.accept_time.ToDatetime().strftime("%H:%M:%S")
    print(
        f"{when}  guild {event.guild_id:<19} {kind:<18} {' '.join(f'{k}={v}' for k, v in fields.items())}", flush=True
    )


def tell(notice: Notice) -> None:
    """What is no event but good to know."""
    match notice:
        case Ready():
            say(f"ready: {names(notice.effective_scopes)}", GREY)
            if notice.withheld_fields:
                say(f"without, for want of a scope: {', '.join(notice.withheld_fields)}", GREY)
            if notice.HasField("key_expire_time"):
                say(f"this key ends at {notice.key_expire_time.ToJsonString()}: rotate it in time", YELLOW)
        case GrantsChanged():
            say(f"granted: {names(notice.added)}; taken away: {names(notice.removed)} ({notice.reason})", YELLOW)
        case Gap():
            say(f"what was accepted before {notice.to_time.ToJsonString()} is not kept any more", YELLOW)
        case Goodbye():
            say(f"the hub says goodbye: {notice.reason}", GREY)
        case Reconnecting():
            say(f"connection lost ({notice.error}); again in {notice.delay:.1f} s", YELLOW)
        case Heartbeat() if not notice.caught_up:
            say(f"{notice.lag.ToTimedelta().total_seconds():.0f} s behind", GREY)


def forget(erased: Erased) -> None:
    """Delete all that is stored about a user or a server; this program stores nothing."""
    who = f"user {erased.user_id}" if erased.user_id else f"server {erased.guild_id}"
    say(f"to be forgotten: {who}", YELLOW)


def names(scopes: Iterable[Scope.ValueType]) -> str:
    """Scopes as people write them."""
    return ", ".join(Scope.Name(scope).removeprefix("SCOPE_").lower() for scope in scopes) or "nothing"


def say(text: str, colour: str) -> None:
    """A line that is not an event; what cannot be printed in it is escaped, so that no reason steers the terminal."""
    text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    print(f"{colour}{datetime.now().astimezone():%H:%M:%S}  {text}{PLAIN}", flush=True)


def start_of(text: str) -> Start:
    """What the --start flag means."""
    forms = {"latest": Start.latest(), "earliest": Start.earliest(), "committed": Start.committed()}
    return forms.get(text) or Start.cursor(text)


def address_of(text: str) -> str:
    """What --address means: without a port gRPC would try 443 for ever."""
    if not re.fullmatch(r"\S+:\d{1,5}", text):
        raise argparse.ArgumentTypeError("must be host:port, such as 127.0.0.1:50051")
    return text


def main() -> None:
    """Read the flags, subscribe, show."""
    flags = argparse.ArgumentParser(description="Show what an integration gets.")
    address = os.environ.get("HUB_ADDRESS", "127.0.0.1:50051")
    where = "where the hub listens; else HUB_ADDRESS (%(default)s)"
    flags.add_argument("--address", type=address_of, default=address, help=where)
    flags.add_argument("--key", default=os.environ.get("HUB_KEY", ""), help="the integration's key; else HUB_KEY")
    flags.add_argument("--start", type=start_of, help="latest, earliest, committed, or the cursor of a frame")
    flags.add_argument("--remember", action="store_true", help="commit: the next run goes on where this one stopped")
    flags.add_argument("--subscription", default="", help="a name for this reader; one stream each")
    flags.add_argument("--scope", action="append", default=[], help="act as if only these were granted")
    flags.add_argument("--guild", action="append", default=[], help="only events of these servers")
    args = flags.parse_args()
    with (
        Client(args.address, args.key) as client,
        client.subscribe(
            subscription_id=args.subscription,
            start=args.start,
            scopes=args.scope,
            guild_ids=args.guild,
            on_notice=tell,
            on_erased=forget,
            auto_commit=args.remember,
        ) as subscription,
    ):
        try:
            for event in subscription:
                show(event)
        finally:
            if subscription.cursor and not args.remember:
                say(f"to go on from here: --start {subscription.cursor}", GREY)


if __name__ == "__main__":
    try:
        main()
    except (HubCallError, ValueError) as problem:
        sys.exit(f"integration: {problem}")
    except BrokenPipeError:  # nobody reads any more, as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(0)
