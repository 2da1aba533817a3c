"""A real hub as a process of its own, a thread that reads, and a proxy that can be cut."""

import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Unpack

from tickets.hub.v1.admin_service_pb2 import RegisterIntegrationRequest
from tickets.hub.v1.admin_service_pb2_grpc import AdminServiceStub
from tickets.hub.v1.event_pb2 import Event
from tickets.hub.v1.event_service_pb2 import Ready
from tickets.hub.v1.integration_pb2 import ScopeRequest
from tickets.hub.v1.permissions_pb2 import SCOPE_TICKET_STATS
from tickets_hub import Client, HubCallError, Notice, Policy, Subscription
from tickets_hub.requests import SubscribeOptions

PATIENCE = 20
POLICY = Policy(first_delay=0.05, max_delay=0.5, slack=0.5)
GRANTED = [ScopeRequest(scope=SCOPE_TICKET_STATS, justification="for the tests")]


class RealHub:
    """``hub serve`` on a fixed port, with data that outlive the process."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._directory = directory
        self.keys: dict[str, str] = {}
        self._clients = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        """Start it and wait until it serves; the first time it prints its keys."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
        environment |= {
            "HUB_DATA_DIR": str(self._directory / "data"),
            "HUB_LISTEN": self.address,
            "HUB_HTTP_LISTEN": "off",
            "HUB_DRAIN_TIME": "2",
        }
        with (self._directory / "hub.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hub", "serve"], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        assert self.process.stdout
        while len(self.keys) < 2:
            line = self.process.stdout.readline()
            assert line, (self._directory / "hub.log").read_text()
            if found := re.fullmatch(r"HUB_(ADMIN|BOT)_KEY=(\S+)\s*", line):
                self.keys[found[1]] = found[2]

    def end(self, how: signal.Signals) -> int:
        """Send it a signal that ends it; returns its exit code."""
        self.process.send_signal(how)
        code = self.process.wait(PATIENCE)
        assert self.process.stdout
        self.process.stdout.close()
        return code

    def client(self, key: str, policy: Policy = POLICY) -> Client:
        """A client that is closed with the hub."""
        return self._clients.enter_context(Client(self.address, key, policy=policy))

    @property
    def bot(self) -> Client:
        """Who emits."""
        return self.client(self.keys["BOT"])

    def register(self) -> tuple[str, str]:
        """A new integration that may see closed tickets: its id and its key."""
        request = RegisterIntegrationRequest(
            display_name="Test",
            description="Tests.",
            owner_user_id="1",
            documentation_url="https://example.com/docs",
            support_url="https://example.com/support",
            scopes=GRANTED,
        )
        admin = self.client(self.keys["ADMIN"])
        reply = AdminServiceStub(admin.channel).RegisterIntegration(request, metadata=admin.metadata, timeout=PATIENCE)
        return reply.integration.integration_id, reply.key.secret

    def admin(self) -> tuple[AdminServiceStub, Client]:
        """What an admin steers with."""
        client = self.client(self.keys["ADMIN"])
        return AdminServiceStub(client.channel), client

    def close(self) -> None:
        """End everything."""
        self._clients.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.end(signal.SIGKILL)


class Reading:
    """A thread that reads a subscription for the test."""

    def __init__(self, client: Client, *, auto_commit: bool = False, **options: Unpack[SubscribeOptions]) -> None:
        self.got = queue.Queue[str | Event | HubCallError]()
        self.notices = queue.Queue[Notice]()
        self.subscription: Subscription = client.subscribe(
            on_notice=self.notices.put, auto_commit=auto_commit, **options
        )
        threading.Thread(target=self._run, daemon=True).start()
        self.notice(Ready)

    def _run(self) -> None:
        try:
            for each in self.subscription:
                self.got.put(each)
        except HubCallError as error:
            self.got.put(error)
        self.got.put("end")

    def ids(self, count: int) -> list[str]:
        """The ids of the next events."""
        return [got.id for got in (self.got.get(timeout=PATIENCE) for _ in range(count)) if isinstance(got, Event)]

    def notice(self, kind: type[Notice]) -> Notice:
        """The next notice of a kind."""
        while not isinstance(notice := self.notices.get(timeout=PATIENCE), kind):
            pass
        return notice
