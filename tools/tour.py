"""Run the tour in README.md twice against one real hub, and check that README shows the real output.

    python tools/tour.py            # check; exit status 1 and a diff where it differs
    python tools/tour.py --write    # put the real output into README.md

A fenced ``console`` block holds commands (``$ ...``) and their output. Comments before a block say more:
``<!-- tour: hub -->`` shows how the hub is started, ``<!-- tour: background -->`` runs on while the tour goes on, and
``<!-- tour: output -->`` holds what that has printed by then. Values that differ each time (keys, ids, cursors, times)
are taken from one reply to the next, and not compared.
"""

import argparse
import contextlib
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
ADDRESS = "127.0.0.1:50051"
PATIENCE = 30.0

BLOCK = re.compile(r"(?:<!-- tour: (?P<mark>\w+) -->\n)?```console\n(?P<body>.*?)```\n", re.DOTALL)
CHANGING = (
    (re.compile(r"tkt_[a-z]+_[0-9A-Za-z]+_[0-9A-Za-z]+"), "<key>"),
    (re.compile(r"\b[0-9A-Za-z_-]{64}\b|(?<=\")[0-9A-Za-z_-]{64}(?=\")"), "<cursor>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z"), "<time>"),
    (re.compile(r"(?<=etag\": \")[0-9a-f]{16}"), "<etag>"),
    (re.compile(r"((?:INTEGRATION|STATISTICS)=)[0-9A-Za-z]+"), r"\1<id>"),
    (re.compile(r"(?<=-)\d{10}\b"), "<run>"),
    (re.compile(r"\b[0-9A-Za-z]{12}\b(?=[\"' ])"), "<id>"),
)


def main() -> int:
    """Run the tour; 1 where README.md does not print what came out."""
    parser = argparse.ArgumentParser(description="Run the tour in README.md.")
    parser.add_argument("--write", action="store_true", help="put the real output into README.md")
    arguments = parser.parse_args()
    text = README.read_text()
    with tempfile.TemporaryDirectory() as directory, running_hub(Path(directory)) as (address, first_keys):
        now = int(time.time())
        first, again = (play(text, Tour(address, first_keys, Path(directory), now + number)) for number in range(2))
    if arguments.write:
        README.write_text(first)
        return 0
    differences = [*compared(text, first, "what came out"), *compared(text, again, "what came out the second time")]
    print("\n".join(differences))
    return 1 if differences else 0


def play(text: str, tour: "Tour") -> str:
    """README as it should read after this tour."""
    try:
        return BLOCK.sub(tour.block, text)
    finally:
        tour.close()


def compared(text: str, real: str, name: str) -> list[str]:
    """Where README differs from what came out, as a diff."""
    return list(difflib.unified_diff(steady(text), steady(real), "README.md", name, lineterm=""))


@contextlib.contextmanager
def running_hub(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """A hub of its own on a free port of loopback; gives its address and the lines with its first keys."""
    errors = directory / "hub.log"
    command = [sys.executable, "-m", "hub", "serve", "--data-dir", str(directory / "data"), "--listen", "127.0.0.1:0"]
    command += ["--http-listen", "off"]
    with errors.open("wb") as log:
        hub = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=directory)  # noqa: S603  ourselves
    try:
        assert hub.stdout is not None  # noqa: S101  it is a pipe
        lines = [hub.stdout.readline().strip(), hub.stdout.readline().strip()]
        yield f"127.0.0.1:{port_in(errors)}", lines
    finally:
        hub.send_signal(signal.SIGTERM)
        hub.wait(PATIENCE)
        if hub.stdout is not None:
            hub.stdout.close()


def port_in(log: Path) -> str:
    """The port that the hub says it serves on, as soon as it does."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = re.search(r'"port": (\d+)', log.read_text())
        if found:
            return found[1]
        time.sleep(0.05)
    raise SystemExit(f"the hub did not start:\n{log.read_text()}")


class Tour:
    """One run: what was exported and defined so far, and what runs in the background.

    `second` stands for `$(date +%s)` in all commands: each runs in a shell of its own. A quick tour is over within one
    second, but a repeated one needs another number.
    """

    def __init__(self, address: str, first_keys: list[str], directory: Path, second: int) -> None:
        self._address = address
        self._first_keys = first_keys
        self._directory = directory
        self._prelude: list[str] = []
        self._last = "\n".join(first_keys)
        self._background: subprocess.Popen[bytes] | None = None
        self._second = second

    def block(self, match: re.Match[str]) -> str:
        """A block of README as it should read."""
        mark, body = match["mark"], match["body"]
        if mark == "hub":
            shown = re.sub(r"HUB_\w+_KEY=.*\n", "", body) + "".join(f"{line}\n" for line in self._first_keys)
        elif mark == "output":
            shown = self._output()
        else:
            commands = commands_in(body)
            shown = "".join(self._run(command, background=mark == "background") for command in commands)
        comment = f"<!-- tour: {mark} -->\n" if mark else ""
        return f"{comment}```console\n{shown}```\n"

    def close(self) -> None:
        """End what runs in the background."""
        if self._background is not None and self._background.poll() is None:
            self._background.terminate()
            self._background.wait(PATIENCE)

    def _run(self, command: str, *, background: bool) -> str:
        if command.startswith("export "):
            command = self._filled(command)
        if re.match(r"export |\w+\(\)", command):
            self._prelude.append(command.replace("$(date +%s)", f"{self._second}"))
            return f"$ {command}\n"
        if background:
            with self._file().open("wb") as file:
                self._background = self._start(command, file)
            wait_until_written(self._file())
            return f"$ {command}\n"
        with tempfile.TemporaryFile() as file:
            self._start(command, file).wait(PATIENCE)
            file.seek(0)
            output = file.read().decode().replace(self._address, ADDRESS)
        self._last = output if '"' in output else self._last
        return f"$ {command}\n{output}"

    def _start(self, command: str, file: IO[bytes]) -> "subprocess.Popen[bytes]":
        script = "\n".join([*self._prelude, command]).replace(ADDRESS, self._address)
        bash = shutil.which("bash") or "bash"
        return subprocess.Popen([bash, "-c", script], stdout=file, stderr=subprocess.STDOUT, env=dict(os.environ))  # noqa: S603

    def _filled(self, command: str) -> str:
        """An export with the values of the last reply in place of those in README."""

        def value(match: re.Match[str]) -> str:
            name = match[1]
            field = "secret" if name.endswith("_KEY") else "integration_id"
            found = re.search(rf"{name}=(\S+)", self._last) or re.search(rf'"{field}": "([^"]+)"', self._last)
            return f"{name}={found[1] if found else match[2]}"

        return re.sub(r"(\w+)=([^\s$]\S*)", value, command)

    def _output(self) -> str:
        if self._background is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._background.wait(3)
        return self._file().read_text().replace(self._address, ADDRESS)

    def _file(self) -> Path:
        return self._directory / "background.txt"


def commands_in(body: str) -> list[str]:
    """The commands of a block; one goes on over the next line while a quote is open."""
    commands: list[str] = []
    is_open = False
    for line in body.splitlines():
        if is_open:
            commands[-1] += f"\n{line}"
        elif line.startswith("$ "):
            commands.append(line[2:])
        else:
            continue
        is_open = commands[-1].count("'") % 2 == 1
    return commands


def wait_until_written(file: Path) -> None:
    """Wait until a command in the background has printed something: a stream's first frame."""
    deadline = time.monotonic() + PATIENCE
    while not file.stat().st_size and time.monotonic() < deadline:
        time.sleep(0.05)


def steady(text: str) -> list[str]:
    """Lines with everything that differs each time replaced by a name for it.

    Names of fields are compared in snake_case: some versions of grpcurl print them in lowerCamelCase.
    """
    text = re.sub(r'"[a-z_A-Z]+":', lambda name: re.sub("[A-Z]", lambda c: f"_{c[0].lower()}", name[0]), text)
    for pattern, name in CHANGING:
        text = pattern.sub(name, text)
    return text.splitlines()


if __name__ == "__main__":
    sys.exit(main())
