"""`python -m tests.support.fork_server <socket>`: imports the hub once, and forks a process for each command asked for.

A request is one line of JSON, [words, directory, environment], with the descriptors 0-2 of the new process beside it.
The answer is its pid, and once it has ended its exit code, a line each. Whoever hangs up before has it killed.
"""

import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module

USED = ("hub.app", *(f"hub.cli.{name}" for name in ("serve", "first_keys", "tail", "emit", "doctor", "backup")))
LARGEST = 64 * 1024
"""Bytes that are read at once."""


class Server:
    """Has the listener, the caller of each process that runs, and a pipe that wakes it when one ends."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self._callers: dict[int, socket.socket] = {}
        self._ends, self._end = os.pipe2(os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._end)

    def serve(self) -> list[str] | None:
        """Serve until standard input ends. In each forked process it returns, too: the words of its command."""
        while True:
            callers = {caller.fileno(): pid for pid, caller in self._callers.items()}
            listener = self._listener.fileno()
            ready, _, _ = select.select([0, listener, self._ends, *callers], [], [])
            if self._ends in ready:
                self._reap()
            for descriptor, pid in callers.items():
                if descriptor in ready and pid in self._callers:
                    os.kill(pid, signal.SIGKILL)
            if listener in ready and (words := self._fork()) is not None:
                return words
            if 0 in ready:
                return None

    def _reap(self) -> None:
        os.read(self._ends, LARGEST)
        for pid in list(self._callers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with self._callers.pop(pid) as caller:
                    answer(caller, os.waitstatus_to_exitcode(status))

    def _fork(self) -> list[str] | None:
        """Start a process; in that process, the words of its command."""
        caller, _ = self._listener.accept()
        data, descriptors, _, _ = socket.recv_fds(caller, LARGEST, 3)
        while not data.endswith(b"\n"):
            data += caller.recv(LARGEST)
        words, cwd, env = json.loads(data)
        if pid := os.fork():
            self._callers[pid] = caller
            answer(caller, pid)
        else:
            caller.close()
            self._leave()
            become(descriptors, cwd, env)
        for descriptor in descriptors:
            os.close(descriptor)
        return None if pid else list(words)

    def _leave(self) -> None:
        """Let go of what is the server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for held in (self._listener, *self._callers.values()):
            held.close()
        os.close(self._ends)
        os.close(self._end)


def answer(caller: socket.socket, number: int) -> None:
    """Say a number to a caller, who may have gone."""
    with suppress(OSError):
        caller.sendall(f"{number}\n".encode())


def become(descriptors: list[int], cwd: str, env: dict[str, str]) -> None:
    """Be as a process that was just started: its input and output, its directory, its environment, its own chance."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    random.seed()


def main() -> None:
    """Serve; a forked process goes on as `python -m hub`."""
    for name in USED:
        import_module(name)
    gc.collect()
    gc.freeze()
    server = Server(sys.argv[1])
    os.write(1, b"ready\n")
    words = server.serve()
    if words is not None:
        sys.argv = ["hub", *words]
        runpy.run_module("hub", run_name="__main__")


if __name__ == "__main__":
    main()
