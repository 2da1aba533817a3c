"""A process that starts hubs as fast as a fork, and hubs that kill themselves at a chosen step of their store.

nursery.py DIRECTORY    reads a line of JSON for each hub: null, or {"call", "when", "nth"}: SIGKILL before or after the
                        nth call of that method of the writing connection, or before its nth statement that begins so.
                        Prints pid, port and keys; after another line ends the hub if it still runs, and prints "ended".
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from hub import config, logs
from hub.api.server import Hub
from hub.storage import sqlite

Step = dict[str, Any]


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
    hub = await Hub.start(config.load({"data_dir": directory, "listen": "127.0.0.1:0"}))
    if step is not None:
        writer: Any = hub._log._writer  # type: ignore[attr-defined]  # it is the embedded log
        if hasattr(writer, step["call"]):
            setattr(writer, step["call"], dying(getattr(writer, step["call"]), step))
        else:
            await writer.set_trace_callback(fatal(step))
    keys = {role.name: key for role, key in (hub.first_keys or {}).items()}
    say(json.dumps({"pid": os.getpid(), "port": hub.port, "keys": keys}))
    await asyncio.Event().wait()


def main() -> None:
    """Start one hub after the other; nothing of gRPC has run in this process, so that it can be forked."""
    logs.configure("error", "json")
    sqlite._WAL_PAGES = 200  # so that the WAL is brought into the main file in every round
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
