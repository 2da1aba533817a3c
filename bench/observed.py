"""A hub with probes for the soak: its tasks, and the long steps of its event loop.

It prints its port and first keys as one line of JSON, then a line for each line that it reads.
"""

import asyncio
import gc
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from hub import config, logs
from hub.app import Hub

LONG = 0.010
"""Seconds: a step of the event loop that takes longer holds everybody up."""


class Step(msgspec.Struct, frozen=True):
    """A long step: seconds on the clock, seconds of them on a processor, and what it was."""

    seconds: float
    cpu: float
    what: str


class Look(msgspec.Struct, frozen=True):
    """What is in the process now, and which steps were long since the last look."""

    tasks: int
    objects: int
    steps: list[Step]


def watch(steps: list[Step]) -> None:
    """Have every step of every event loop timed."""
    run_step: Any = asyncio.events.Handle._run  # noqa: SLF001  nothing public sees each step

    def timed(handle: Any) -> None:  # noqa: ANN401  asyncio's handle
        wall, cpu = time.perf_counter(), time.thread_time()
        run_step(handle)
        seconds = time.perf_counter() - wall
        if seconds > LONG:
            steps.append(Step(seconds, time.thread_time() - cpu, repr(handle)[:200]))

    setattr(asyncio.events.Handle, "_run", timed)  # noqa: B010  mypy does not let a method be assigned to


async def serve(data: Path) -> None:
    """Serve until the end of standard input."""
    steps: list[Step] = []
    caches = {
        "window_bytes": 2**20,
        "page_cache_bytes": 2**20,
    }  # full before the first look, so that they stay as they are
    settings = config.load(
        {"data_dir": str(data), "listen": "127.0.0.1:0", "http_listen": "off", "log_level": "error", **caches}
    )
    logs.configure(settings.log_level, "json")
    hub = await Hub.start(settings)
    try:
        keys = {role.name: key for role, key in (hub.first_keys or {}).items()}
        say({"port": hub.port, "keys": keys})
        gc.freeze()  # as ``hub serve`` does
        watch(steps)
        while await asyncio.to_thread(sys.stdin.readline):
            told, steps[:] = list(steps), []
            say(Look(len(asyncio.all_tasks()), await asyncio.to_thread(objects), told))
    finally:
        await hub.stop()


def objects() -> int:
    """How many objects there are; counted beside the event loop, it is no step of the hub."""
    gc.collect()
    return len(gc.get_objects())


def say(thing: object) -> None:
    """One line of JSON."""
    print(msgspec.json.encode(thing).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
