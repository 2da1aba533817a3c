"""A process of its own for the tests of crashes and faults. Prints a line for each thing that happened, at once.

storage_child.py append DIRECTORY PREFIX     append in many tasks, print each acknowledged id, until killed
storage_child.py hold DIRECTORY              open, print "open", wait for a line, close
storage_child.py faults DIRECTORY FLAG FILE  append, make FILE fail (see fsync_shim.c), append, read; print the results
"""

import asyncio
import itertools
import os
import sys
from pathlib import Path

import structlog

from hub.config import Settings
from hub.errors import HubError
from hub.model import Entry, Kind
from hub.storage.sqlite import store as sqlite
from hub.storage.sqlite.log import SqliteLog


def say(text: str) -> None:
    """Tell the test, past all buffers."""
    os.write(1, text.encode() + b"\n")


def entry(id_: str) -> Entry:
    """An event with this id."""
    return Entry(Kind.EVENT, 1, id_.encode(), id=id_)


async def append(log: SqliteLog, prefix: str) -> None:
    """Eight callers, without end; two events a call."""
    numbers = itertools.count()

    async def caller() -> None:
        for n in numbers:
            ids = f"{prefix}-{n}-a", f"{prefix}-{n}-b"
            await log.append([entry(id_) for id_ in ids])
            say(" ".join(ids))

    await asyncio.gather(*(caller() for _ in range(8)))


async def outcome(log: SqliteLog, id_: str) -> str:
    """What comes of one append."""
    try:
        await log.append([entry(id_)])
    except HubError as error:
        return f"{error.reason()} failed={log.failed}"
    return f"stored failed={log.failed}"


async def faults(log: SqliteLog, flag: Path, file: str) -> None:
    """Before, while and after syncing fails."""
    say(await outcome(log, "before"))
    await log.erase([])  # the writer comes to it when it is done with all that went before, checkpoints too
    flag.write_text(file)
    say(await outcome(log, "while"))
    say(await outcome(log, "then"))
    flag.unlink()
    say(await outcome(log, "after"))
    page = await log.read(0, 10)
    say("read " + ",".join(e.id for e in page.entries))


async def main() -> None:
    """Do what the arguments say."""
    what, directory, *rest = sys.argv[1:]
    if what == "faults" and rest[1] == "hub.db":
        sqlite.WAL_PAGES = 0  # a checkpoint after each group
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for what the test reads
    log = await SqliteLog.open(Settings.model_validate({"data_dir": directory}))
    try:
        if what == "append":
            await append(log, rest[0])
        elif what == "hold":
            say("open")
            await asyncio.to_thread(sys.stdin.readline)
        else:
            await faults(log, Path(rest[0]), rest[1])
    finally:
        await log.close()


asyncio.run(main())
