"""A process that starts hubs as fast as a fork, and hubs that kill themselves at a chosen step of their store.

killed_hubs.py DIRECTORY    reads a line of JSON for each hub: null, or {"call", "when", "nth"}: SIGKILL before or after
                            the nth call of that method of the writing connection, or before its nth statement that
                            begins so. Prints pid, port and keys; after another line ends the hub if it still runs,
                            and prints "ended". With "audit" in the object the hub removes what is old of the audit
                            trail, as if ten years had passed, and then makes the file DIRECTORY.done.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hub import config, logs
from hub.app import Hub
from hub.clock import Clock
from hub.privacy import erasing
from hub.privacy.audit_retention import AuditRetention
from hub.storage.sqlite import store as sqlite

Step = dict[str, Any]


class LateClock(Clock):
    """The machine's clock in ten years."""

    def now(self) -> int:
        """See `Clock.now`."""
        return super().now() + 10 * 365 * 24 * 3_600 * 1_000_000


def say(text: str) -> None:
    """Tell the test, past all buffers."""
    os.write(1, text.encode() + b"\n")


def dying(call: Callable[..., Awaitable[Any]], step: Step) -> Callable[..., Awaitable[Any]]:
    """The same call, fatal at its nth time."""
    times = 0

    async def run(*arguments: Any) -> Any:  # noqa: ANN401  whatever the call takes and gives
        nonlocal times
        times += 1
        if times == step["nth"] and step["when"] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = await call(*arguments)
        if times == step["nth"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return run


def fatal(step: Step) -> Callable[[str], None]:
    """What SQLite is to tell its statements, before each."""
    times = 0

    def hear(statement: str) -> None:
        nonlocal times
        times += statement.startswith(step["call"])
        if times == step["nth"]:
            os.kill(os.getpid(), signal.SIGKILL)

    return hear


async def serve(directory: str, step: Step | None) -> None:
    """A hub, until it is killed."""
    settings = config.load({"data_dir": directory, "listen": os.environ.get("HUB_LISTEN", "127.0.0.1:0")})
    hub = await Hub.start(settings)
    if step is not None and "call" in step:
        writer: Any = hub.log._store.write_connection  # type: ignore[attr-defined]  # it is the embedded log
        if hasattr(writer, step["call"]):
            setattr(writer, step["call"], dying(getattr(writer, step["call"]), step))
        else:
            await writer.set_trace_callback(fatal(step))
    keys = {role.name: key for role, key in (hub.first_keys or {}).items()}
    say(json.dumps({"pid": os.getpid(), "port": hub.port, "keys": keys}))
    if step is not None and step.get("audit"):
        await AuditRetention(hub.log, hub.registry, settings, LateClock()).remove_old()
        Path(f"{directory}.done").touch()
    await asyncio.Event().wait()


def main() -> None:
    """Start one hub after the other; nothing of gRPC has run in this process, so that it can be forked."""
    logs.configure("error", "json")
    sqlite.WAL_PAGES = 200  # so that the WAL is brought into the main file in every round
    erasing.ABANDONED = 0.5  # the hub that worked on an erasure has ended, there is no other one
    for line in sys.stdin:
        child = os.fork()
        if not child:
            asyncio.run(serve(sys.argv[1], json.loads(line)))
        sys.stdin.readline()  # until then it is not reaped, and its pid nobody else's
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        say("ended")


if __name__ == "__main__":
    main()
