"""A demo in one terminal: a hub, a bot's day, and side by side what three integrations get of it.

    make demo                                   # about 20 seconds
    python examples/demo.py --seconds 120 --rate 10

Everything is real and started for this: the hub is a process of its own on a free port of this machine, its data lie in
a temporary directory, the bot and the integrations talk to it by gRPC. All of it is gone when the demo ends.
"""

import argparse
import contextlib
import os
import queue
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from tickets.hub.v1.admin_service_pb2 import RegisterIntegrationRequest, SetScopesRequest
from tickets.hub.v1.admin_service_pb2_grpc import AdminServiceStub
from tickets.hub.v1.event_pb2 import Event
from tickets.hub.v1.event_service_pb2 import GrantsChanged
from tickets.hub.v1.integration_pb2 import ScopeRequest
from tickets.hub.v1.permissions_pb2 import Scope
from tickets_hub import Client, HubCallError, Notice, event_id

from examples.bot import NAMES, day, describe
from hub.text import escaped

INTEGRATIONS = {
    "Stats board": ["ticket_created", "ticket_stats", "drop_claimed", "member_verified"],
    "Doorman": ["member_verified_identity"],
    "Archive": ["transcript_created"],
}
FEWER_FOR_THE_DOORMAN = ["member_verified"]
BOLD, GREY, YELLOW, PLAIN = ("\033[1m", "\033[90m", "\033[33m", "\033[0m") if sys.stdout.isatty() else ("", "", "", "")


@dataclass
class Hub:
    """A running hub and its first keys."""

    address: str
    admin_key: str
    bot_key: str


@contextlib.contextmanager
def running_hub(directory: Path) -> Iterator[Hub]:
    """Start ``hub serve`` on a free port, with its data in the directory; stop it in the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
    environment |= {"HUB_DATA_DIR": str(directory / "data"), "HUB_LISTEN": address, "HUB_HTTP_LISTEN": "off"}
    log = directory / "hub.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "hub", "serve"], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    try:
        keys = first_keys(process, log)
        yield Hub(address, keys["ADMIN"], keys["BOT"])
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def first_keys(process: subprocess.Popen[str], log: Path) -> dict[str, str]:
    """The keys that a new hub prints, once; it serves by then."""
    lines = queue.Queue[str]()

    def follow() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put("")

    threading.Thread(target=follow, daemon=True).start()
    keys: dict[str, str] = {}
    while len(keys) < 2:
        try:
            line = lines.get(timeout=30)
        except queue.Empty:
            line = ""
        if not line:
            raise SystemExit(f"demo: the hub did not start:\n{log.read_text()[-2_000:]}")
        if found := re.fullmatch(r"HUB_(ADMIN|BOT)_KEY=(\S+)\s*", line):
            keys[found[1]] = found[2]
    return keys


@dataclass
class Watcher:
    """One integration: its column."""

    name: str
    integration_id: str
    client: Client
    seen: dict[str, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    news: queue.Queue[str] = field(default_factory=queue.Queue)
    ready: threading.Event = field(default_factory=threading.Event)

    def follow(self) -> None:
        """Take note of what arrives, until the client is closed."""
        try:
            for event in self.client.subscribe(on_notice=self.hear):
                self.kinds[event.WhichOneof("payload") or "?"] += 1
                self.seen[event.id] = describe(event)
        except HubCallError as problem:
            self.news.put(f"{self.name} stopped: {problem}")
            self.ready.set()

    def hear(self, notice: Notice) -> None:
        """What is no event."""
        self.ready.set()
        if isinstance(notice, GrantsChanged):
            added, removed = (
                ", ".join(Scope.Name(s).removeprefix("SCOPE_").lower() for s in scopes) or "nothing"
                for scopes in (notice.added, notice.removed)
            )
            self.news.put(f"{self.name} got grants_changed: {removed} taken away, {added} granted ({notice.reason})")


def wanted(scopes: list[str]) -> list[ScopeRequest]:
    """Scopes as an admin writes them, with a reason."""
    return [ScopeRequest(scope=Scope.Value(f"SCOPE_{s.upper()}"), justification="for the demo") for s in scopes]


def register(admin: Client, hub: Hub) -> list[Watcher]:
    """Register the three integrations, and connect each with its own key."""
    stub, watchers = AdminServiceStub(admin.channel), []
    for name, scopes in INTEGRATIONS.items():
        request = RegisterIntegrationRequest(
            display_name=name,
            description="A column of the demo.",
            owner_user_id="81384788765712384",
            documentation_url="https://example.com/docs",
            support_url="https://example.com/support",
            scopes=wanted(scopes),
        )
        reply = stub.RegisterIntegration(request, metadata=admin.metadata, timeout=10)
        watchers.append(Watcher(name, reply.integration.integration_id, Client(hub.address, reply.key.secret)))
    return watchers


def columns(*, is_terminal: bool) -> tuple[int, int]:
    """How wide the first column and the others are: as the terminal allows, or behind a pipe wide enough for all."""
    if not is_terminal:
        return 56, 40
    return 46, max(10, (shutil.get_terminal_size((120, 24)).columns - 46) // len(INTEGRATIONS))


def fitted(cell: str, width: int, *, may_cut: bool) -> str:
    """A cell as wide as its column; one that is too long ends in an ellipsis, or makes its own line wider."""
    if may_cut and len(cell) > width - 2:
        cell = f"{cell[: width - 3]}…"
    return f"{cell:<{width - 2}}  "


@dataclass
class Table:
    """The columns."""

    watchers: list[Watcher]
    is_terminal: bool = field(default_factory=sys.stdout.isatty)

    def row(self, first: str, others: list[str], colour: str = "") -> None:
        """One line: what happened, and what each integration got of it; long ids by their ends."""
        cells = [re.sub(r"\d{15,}", lambda found: f"…{found[0][-4:]}", cell) for cell in (first, *others)]
        wide, narrow = columns(is_terminal=self.is_terminal)
        widths = [wide, *(narrow for _ in others)]
        line = "".join(fitted(cell, width, may_cut=self.is_terminal) for cell, width in zip(cells, widths, strict=True))
        print(f"{colour}{line.rstrip()}{PLAIN}")

    def head(self) -> None:
        """The names, and what each may see."""
        self.row("what happens in Discord", [w.name for w in self.watchers], BOLD)
        for line in range(max(map(len, INTEGRATIONS.values()))):
            self.row("", [" ".join(INTEGRATIONS[w.name][line : line + 1]) for w in self.watchers], GREY)

    def event(self, minute: float, event: Event) -> None:
        """What happened, and what each got."""
        what = f"{int(minute // 60):02}:{int(minute % 60):02} {NAMES[event.guild_id]}: {describe(event)}"
        self.row(what, [w.seen.get(event.id, "·") for w in self.watchers])

    def news(self) -> None:
        """The notices that the integrations got meanwhile."""
        for watcher in self.watchers:
            while not watcher.news.empty():
                print(f"{YELLOW}>>> {escaped(watcher.news.get())}{PLAIN}")


def play(bot: Client, admin: Client, table: Table, seconds: float, rate: float) -> int:
    """The bot's day, a row each; half way through, an admin takes a scope away. Returns how much was emitted."""
    chance = random.Random(7)  # noqa: S311  a story, not a secret
    happenings = [happening for happening in day(chance) if chance.random() < 0.5]
    count = min(len(happenings), int(seconds * rate))
    chosen = happenings[:: max(1, len(happenings) // count)][:count]
    for number, (minute, event) in enumerate(chosen):
        if number == count // 2:
            take_identity_away(admin, table.watchers[1])
        event.id = event_id(time.time())
        bot.emit(event)
        time.sleep(1 / rate)
        table.news()
        table.event(minute, event)
    return count


def take_identity_away(admin: Client, doorman: Watcher) -> None:
    """From the next event on the Doorman still learns that a member was verified, but no longer which one."""
    print(f"{YELLOW}>>> an admin replaces the Doorman's scopes with {', '.join(FEWER_FOR_THE_DOORMAN)}{PLAIN}")
    request = SetScopesRequest(
        integration_id=doorman.integration_id, scopes=wanted(FEWER_FOR_THE_DOORMAN), reason="a privacy review"
    )
    AdminServiceStub(admin.channel).SetScopes(request, metadata=admin.metadata, timeout=10)


def main() -> None:
    """Start everything, play, sum up, stop everything."""
    flags = argparse.ArgumentParser(description="A hub, a bot and three integrations in one terminal.")
    flags.add_argument("--seconds", type=float, default=18, help="how long the day takes (%(default)s)")
    flags.add_argument("--rate", type=float, default=4, help="events a second (%(default)s)")
    args = flags.parse_args()
    with tempfile.TemporaryDirectory(prefix="tickets-hub-demo-") as directory, contextlib.ExitStack() as stack:
        hub = stack.enter_context(running_hub(Path(directory)))
        admin = stack.enter_context(Client(hub.address, hub.admin_key))
        bot = stack.enter_context(Client(hub.address, hub.bot_key))
        watchers = register(admin, hub)
        for watcher in watchers:
            stack.enter_context(watcher.client)
            threading.Thread(target=watcher.follow, daemon=True).start()
            watcher.ready.wait(10)
        table = Table(watchers)
        table.head()
        emitted = play(bot, admin, table, args.seconds, args.rate)
        table.row(f"{emitted} events", [f"{sum(w.kinds.values())} events" for w in watchers], BOLD)
        for watcher in watchers:
            print(f"{watcher.name}: {', '.join(f'{n} {kind}' for kind, n in watcher.kinds.most_common()) or 'nothing'}")


if __name__ == "__main__":
    try:
        main()
    except (HubCallError, grpc.RpcError) as problem:
        sys.exit(f"demo: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
