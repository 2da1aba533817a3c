"""Power loss: whatever happened to unsynced data, all acknowledged events are there and the store is intact."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hub.model import Kind
from hub.storage.sqlite.log import SqliteLog
from tests.support.power_loss import Disk, Op, read_record
from tests.support.stores import event, read_all, settings_for
from tests.torture.conftest import Compile, rounds

LOSSES = 30
"""Power losses for each recorded run."""


@pytest.fixture(scope="session")
def recorder(compiled: Compile) -> Path:
    """The library that records."""
    return compiled(Path(__file__).with_name("recorder.c"))


def recorded(recorder: Path, directory: Path, seed: int, synchronous: str) -> list[Op]:
    """What a store under load did to its files in an empty directory."""
    directory.mkdir()
    record = directory.with_suffix(".record")
    subprocess.run(  # noqa: S603  our own program
        [sys.executable, Path(__file__).parents[1] / "support" / "power_child.py", directory, f"{seed}", synchronous],
        env={**os.environ, "LD_PRELOAD": str(recorder), "RECORD_DIR": str(directory), "RECORD": str(record)},
        check=True,
        timeout=120,
    )
    return read_record(record)


class Promises:
    """What must be there, by what was acknowledged and what may have been removed."""

    def __init__(self) -> None:
        self._acknowledged: dict[str, int] = {}
        self._trimmed = 0
        self._erased: set[int] = set()

    def note(self, text: str) -> None:
        """Take in a word of the program."""
        what, *rest = text.split()
        if what == "ack":
            self._acknowledged[rest[0]] = int(rest[1])
        elif what == "trim":
            self._trimmed = max(self._trimmed, int(rest[0]))
        else:
            self._erased.add(int(rest[0]))

    def kept(self) -> set[tuple[str, int]]:
        """The ids and positions of what nobody removed."""
        return {
            (id_, position)
            for id_, position in self._acknowledged.items()
            if position >= self._trimmed and position not in self._erased
        }


async def losses(ops: list[Op], root: Path, rng: random.Random) -> AsyncIterator[int]:
    """Cut the power at random moments, also while the store is made: how many acknowledged events are missing."""
    begun = next(number for number, op in enumerate(ops) if op.kind == "A")
    cuts = {*rng.sample(range(begun), LOSSES // 3), *rng.sample(range(begun, len(ops)), LOSSES - LOSSES // 3)}
    disk, promises = Disk(root), Promises()
    for number, op in enumerate(ops):
        if op.kind == "A":
            promises.note(op.data.decode())
        else:
            disk.do(op)
        if number in cuts:
            image = root.with_name(f"image{number}")
            disk.leave(image, rng)
            yield len(promises.kept() - await found(image))
            shutil.rmtree(image)


async def found(directory: Path) -> set[tuple[str, int]]:
    """The events in what is left, by the hub's own storage, which must open it and find it sound, and can go on."""
    log = await SqliteLog.open(settings_for(directory))
    try:
        events = await read_all(log, kinds=frozenset([Kind.EVENT]))
        await log.append([event("later")])
    finally:
        await log.close()
    connection = sqlite3.connect(directory / "hub.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return {(entry.id, entry.position) for entry in events}


async def test_power_loss_loses_no_acknowledged_event(recorder: Path, tmp_path: Path) -> None:
    """At any moment from the first start on: the store opens, is intact, holds its promises, and continues."""
    for number in range(rounds(1, 10)):
        seed = random.randrange(2**32)  # noqa: S311  it chooses moments
        ops = recorded(recorder, tmp_path / f"data{number}", seed, "FULL")
        try:
            async for missing in losses(ops, tmp_path / f"data{number}", random.Random(seed)):  # noqa: S311  the same
                assert missing == 0
        except BaseException as error:
            error.add_note(f"the seed was {seed}")
            raise


async def test_without_full_sync_power_loss_does_lose_events(recorder: Path, tmp_path: Path) -> None:
    """The control: with ``synchronous=NORMAL`` acknowledged events are missing, so the test above can tell."""
    ops = recorded(recorder, tmp_path / "data", 1, "NORMAL")
    missing = [lost async for lost in losses(ops, tmp_path / "data", random.Random(1))]  # noqa: S311  it chooses moments
    assert any(missing)
