"""Backs up or restores, and is killed at each line or at random moments. Prints what was left.

killed_backup.py backup DATA_DIR   many times, into a directory beside it
killed_backup.py restore FILE      many times, into new directories beside it
"""

import asyncio
import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from hub.archive import backup, files
from hub.config import Settings
from hub.errors import StartError
from hub.model import Bounds
from hub.storage.sqlite import backup_file
from hub.storage.sqlite.log import SqliteLog

TORTURE = bool(os.environ.get("TORTURE"))
RANDOM_KILLS = 200 if TORTURE else 10
STRIDE = 1 if TORTURE else 3
"""It is killed before every so-manieth line, each run beginning at another one."""

FILES = (backup.__file__, backup_file.__file__, files.__file__)


def say(*words: object) -> None:
    """Tell the test."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")


def settings(directory: Path) -> Settings:
    """The settings of a hub in a directory."""
    return Settings.model_validate({"data_dir": directory})


def run_in_child(work: Callable[[], object], *, kill_at_line: int = 0, kill_after: float = 0) -> bool:
    """Do something in a child that is killed before a line of `FILES`, or after some seconds.

    Returns:
        Whether it came to its end.
    """
    child = os.fork()
    if not child:
        if kill_at_line:
            sys.settrace(killer(kill_at_line))
        work()
        os._exit(0)
    if kill_after:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.waitstatus_to_exitcode(status) == 0


def killer(number: int) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that kills the process before the so-manieth line of those that it comes to."""
    seen = set[tuple[str, int]]()

    def trace(frame: FrameType, event: str, _: object) -> Any:  # noqa: ANN401  a trace function or None
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


async def opened(directory: Path) -> tuple[Bounds, int]:
    """What a hub finds in a directory: the log's extent, and how many entries there are."""
    log = await SqliteLog.open(settings(directory))
    try:
        bounds = await log.bounds()
        entries, after = 0, 0
        while after < bounds.last:
            page = await log.read(after, 1_000)
            entries, after = entries + len(page.entries), page.through
        return bounds, entries
    finally:
        await log.close()


def left_by_restore(directory: Path) -> str:
    """What a hub makes of a directory: "nothing", "refused", or "whole, <entries>, epoch <epoch>"."""
    database = directory / "hub.db"
    if not database.exists() or not database.stat().st_size:
        return "nothing"
    try:
        bounds, entries = asyncio.run(opened(directory))
    except StartError:
        return "refused"
    return f"whole, {entries}, epoch {bounds.epoch}"


def left_by_backup(file: Path) -> str:
    """What a restore makes of a file."""
    fresh = file.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        backup.restore(settings(fresh), file)
    except StartError:
        return "refused"
    return left_by_restore(fresh).split(", epoch")[0]


def back_up_and_look(data: Path, target: Path, **cut: Any) -> bool:  # noqa: ANN401  see run_in_child
    """Back up once; tell what lies under the name, and what beside it."""
    target.mkdir()
    came_through = run_in_child(lambda: backup.back_up(settings(data), target / "x.bak"), **cut)
    for file in sorted(target.iterdir()):
        if file.suffix in (".bak", ".part"):
            say(file.suffix, left_by_backup(file))
    shutil.rmtree(target)
    return came_through


def restore_and_look(file: Path, target: Path, **cut: Any) -> bool:  # noqa: ANN401  see run_in_child
    """Restore once; tell what a hub makes of it."""
    came_through = run_in_child(lambda: backup.restore(settings(target), file), **cut)
    say("restored", left_by_restore(target))
    shutil.rmtree(target, ignore_errors=True)
    return came_through


def main() -> None:
    """Do what the arguments say, until once nothing cut it off; then at random moments of what that took."""
    what, source = sys.argv[1], Path(sys.argv[2])
    once = back_up_and_look if what == "backup" else restore_and_look
    target = source.with_name("target")
    began = time.monotonic()
    run_in_child(lambda: (backup.back_up if what == "backup" else backup.restore)(*first_run(what, source)))
    took = time.monotonic() - began
    for line in itertools.count(random.randrange(1, STRIDE + 1), STRIDE):  # noqa: S311  lines, not secrets
        if once(source, target, kill_at_line=line):
            say("lines", line)
            break
    chance = random.Random(7)  # noqa: S311  moments, not secrets
    for _ in range(RANDOM_KILLS):
        once(source, target, kill_after=chance.uniform(0.001, took))


def first_run(what: str, source: Path) -> tuple[Settings, Path]:
    """The arguments of a run that nobody cuts off."""
    if what == "backup":
        return settings(source), source.with_name("first.bak")
    return settings(source.with_name("first")), source


main()
