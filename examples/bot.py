"""A believable day of a Discord bot in nine servers, compressed in time, sent to the hub.

    export HUB_BOT_KEY=tkt_bot_...        # the hub prints it at its first start
    python examples/bot.py --rate 5       # 5 events a second until Ctrl-C
    python examples/bot.py --rate 500 --events 10000

What to look at: how events are made, and that ``emit`` and ``emit_batch`` are all a bot needs. They give each event an
id and repeat it safely while the hub is away.
"""

import argparse
import itertools
import os
import random
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tickets_hub import Client, HubCallError
from tickets_hub.v1.event_pb2 import DropClaimed, Event, MemberVerified, TicketClosed, TicketCreated, TranscriptCreated

DAY = 24 * 60  # all times of the day are minutes


@dataclass(frozen=True)
class Guild:
    """A Discord server and its rhythm: when it is awake, and how much of what happens on an ordinary day."""

    id: str
    name: str
    peak: float  # the hour at which most happens
    spread: float  # hours around it
    tickets: int
    drops: int
    joins: int


GUILDS = [
    Guild("81384788765712384", "Pixel Forge", 20, 4, tickets=60, drops=90, joins=40),
    Guild("197038439483310086", "Night Owls", 3, 3, tickets=15, drops=60, joins=8),
    Guild("222078108977594368", "Kiwi Crafters", 9, 3, tickets=25, drops=20, joins=20),
    Guild("244230771232079873", "Study Hall", 14, 5, tickets=35, drops=0, joins=60),
    Guild("301466778321330177", "Trade Harbour", 18, 6, tickets=120, drops=15, joins=25),
    Guild("407890233419202561", "Speedrun Lab", 22, 3, tickets=10, drops=40, joins=12),
    Guild("514523897234423809", "Ramen Club", 12, 2, tickets=5, drops=10, joins=5),
    Guild("619283746152839184", "Indie Launch", 16, 1, tickets=45, drops=150, joins=180),  # a launch day: all at once
    Guild("730918273645546377", "Quiet Garden", 10, 8, tickets=2, drops=1, joins=1),
]
NAMES = {guild.id: guild.name for guild in GUILDS}


def day(chance: random.Random) -> list[tuple[float, Event]]:
    """Everything that happens on one day in all servers: (minute of the day, event), in order."""
    return sorted(itertools.chain(*(guild_day(guild, chance) for guild in GUILDS)), key=lambda happening: happening[0])


def guild_day(guild: Guild, chance: random.Random) -> Iterator[tuple[float, Event]]:
    """One server's day: tickets that are opened, closed and archived; drops; new members."""

    def moment() -> float:
        return chance.gauss(guild.peak * 60, guild.spread * 60) % DAY

    def somebody() -> str:
        return str(chance.randrange(10**17, 10**18))

    for _ in range(guild.tickets):
        opened, user = moment(), somebody()
        closed = opened + chance.expovariate(1 / 90)  # most within an hour or two
        messages = 1 + int(chance.lognormvariate(2.3, 0.9))  # most about ten, some a hundred
        yield opened, Event(guild_id=guild.id, ticket_created=TicketCreated(creator_user_id=user))
        if closed < DAY:
            yield closed, Event(guild_id=guild.id, ticket_closed=TicketClosed(message_count=messages))
            if messages > 5:  # what was hardly a talk is not archived
                transcript = TranscriptCreated(creator_user_id=user)
                yield closed + 0.5, Event(guild_id=guild.id, transcript_created=transcript)
    for _ in range(guild.drops):
        xp, money = chance.choice([(50, 0), (100, 0), (250, 0), (0, 500), (100, 1_000)])
        yield moment(), Event(guild_id=guild.id, drop_claimed=DropClaimed(xp_amount=xp, unb_amount=money))
    for _ in range(guild.joins):
        yield moment(), Event(guild_id=guild.id, member_verified=MemberVerified(user_id=somebody()))


def days(seed: int) -> Iterator[tuple[float, Event]]:
    """Day after day, each another; the same ones for the same seed."""
    chance = random.Random(seed)  # noqa: S311  a story, not a secret
    while True:
        yield from day(chance)


def describe(event: Event) -> str:
    """What happened, in a few words, with whatever the event tells."""
    match event.WhichOneof("payload"):
        case "ticket_created":
            return f"ticket opened by {event.ticket_created.creator_user_id}"
        case "ticket_closed":
            return f"ticket closed, {event.ticket_closed.message_count} messages"
        case "transcript_created":
            return f"transcript for {event.transcript_created.creator_user_id}"
        case "drop_claimed":
            worth = {"XP": event.drop_claimed.xp_amount, "coins": event.drop_claimed.unb_amount}
            return f"drop: {' and '.join(f'{amount} {unit}' for unit, amount in worth.items() if amount)}"
        case "member_verified":
            return f"verified: {event.member_verified.user_id or 'somebody'}"
        case other:
            return f"something new: {other}"


def run(client: Client, happenings: Iterator[tuple[float, Event]], rate: float) -> Iterator[list[tuple[float, Event]]]:
    """Emit what happens, ``rate`` events a second, in as few calls as that takes; yields what was just stored."""
    started, sent = time.monotonic(), 0
    while due := list(itertools.islice(happenings, max(1, int((time.monotonic() - started) * rate) - sent))):
        for _, event in due:
            event.occur_time.GetCurrentTime()
        client.emit(due[0][1]) if len(due) == 1 else client.emit_batch(event for _, event in due)
        sent += len(due)
        yield due
        time.sleep(max(0, started + sent / rate - time.monotonic()))


def address_of(text: str) -> str:
    """What --address means: without a port gRPC would try 443 for ever."""
    if not re.fullmatch(r"\S+:\d{1,5}", text):
        raise argparse.ArgumentTypeError("must be host:port, such as 127.0.0.1:50051")
    return text


def main() -> None:
    """Read the flags, emit, and say what was emitted."""
    flags = argparse.ArgumentParser(description="Emit a day of several Discord servers.")
    address = os.environ.get("HUB_ADDRESS", "127.0.0.1:50051")
    where = "where the hub listens; else HUB_ADDRESS (%(default)s)"
    flags.add_argument("--address", type=address_of, default=address, help=where)
    flags.add_argument("--rate", type=float, default=5, help="events a second (%(default)s)")
    flags.add_argument("--events", type=int, help="stop after as many")
    flags.add_argument("--seconds", type=float, help="stop after as long")
    flags.add_argument("--seed", type=int, default=1, help="another seed, another day (%(default)s)")
    args = flags.parse_args()
    started, stored = time.monotonic(), 0
    with Client(args.address, os.environ.get("HUB_BOT_KEY", "")) as client:
        for just_stored in run(client, itertools.islice(days(args.seed), args.events), args.rate):
            stored += len(just_stored)
            minute, event = just_stored[-1]
            clock, more = f"{int(minute // 60):02}:{int(minute % 60):02}", f"  and {len(just_stored) - 1} more"
            print(
                f"{clock}  {NAMES[event.guild_id]:<14} {describe(event)}{more if len(just_stored) > 1 else ''}",
                flush=True,
            )
            if args.seconds and time.monotonic() - started >= args.seconds:
                break
    print(f"{stored} events stored in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    try:
        main()
    except (HubCallError, ValueError) as problem:
        sys.exit(f"bot: {problem}")
    except BrokenPipeError:  # nobody reads any more, as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(0)
