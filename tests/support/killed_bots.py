"""A process that starts bots with an outbox as fast as a fork, some of which kill themselves at a chosen step.

killed_bots.py FILE    reads a line of JSON for each bot: {"address", "key", "prefix", "events", "pause", "step"};
                       `pause`: seconds after each event; `step` is null, or {"statement", "nth"}: SIGKILL before the
                       nth statement on the outbox that begins so. Prints the bot's pid, then each id once emit() has
                       returned it, with the number of events that wait, and "sent" once none does; after another line
                       ends the bot if it still runs, and prints "ended".
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from tickets_hub import Client, Policy
from tickets_hub.sync_outbox import OutboxEmitter
from tickets_hub.v1.event_pb2 import Event, TicketClosed

POLICY = Policy(first_delay=0.005, max_delay=0.05, try_timeout=5)
QUICK = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
"""So that a round need not wait for a bot that has missed its hub for long."""


def say(text: str) -> None:
    """Tell the test, past all buffers."""
    os.write(1, text.encode() + b"\n")


def fatal(statement: str, nth: int) -> Callable[[str], None]:
    """What SQLite is to tell its statements, before each."""
    times = 0

    def hear(text: str) -> None:
        nonlocal times
        times += text.startswith(statement)
        if times == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    return hear


def run(file: str, order: dict[str, Any]) -> None:
    """A bot, until it is killed."""
    say(str(os.getpid()))
    client = Client(order["address"], order["key"], outbox=file, policy=POLICY, options=QUICK)
    if order["step"] is not None:
        assert isinstance(client._emitter, OutboxEmitter)
        client._emitter._file._file._database.set_trace_callback(fatal(**order["step"]))
    for number in range(order["events"]):
        event = Event(
            id=f"{order['prefix']}-{number:06d}", guild_id="41", ticket_closed=TicketClosed(message_count=number)
        )
        say(f"{client.emit(event).event_id} {client.outbox.waiting}")
        time.sleep(order["pause"])
    while client.outbox.waiting:
        time.sleep(0.002)
    say("sent")
    signal.pause()


def main() -> None:
    """Start one bot after the other; nothing of gRPC has run in this process, so that it can be forked."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(sys.argv[1], json.loads(line))
        sys.stdin.readline()  # until then it is not reaped, and its pid nobody else's
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        say("ended")


if __name__ == "__main__":
    main()
