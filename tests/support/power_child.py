"""A store under load, recorded by recorder.c. power_child.py DIRECTORY SEED SYNCHRONOUS.

It notes in the record what it was promised: "ack ID POSITION" once an append has returned, and before it removes
something "trim POSITION" or "erase POSITION".
"""

import asyncio
import os
import random
import sys

from hub.config import Settings
from hub.model import Entry, Kind
from hub.storage.sqlite import store as sqlite
from hub.storage.sqlite.log import SqliteLog
from tests.support.power_loss import note

RECORD = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
APPENDS = 25


def tell(text: str) -> None:
    """Write into the record."""
    os.write(RECORD, note(text))


async def append(log: SqliteLog, name: str, rng: random.Random) -> None:
    """Events in lists of different length, some of them large, with a change of state now and then."""
    for number in range(APPENDS):
        count = rng.choice([1, 1, 2, 30])
        ids = [f"{name}-{number}-{n}" for n in range(count)]
        entries = [Entry(Kind.EVENT, 1, rng.randbytes(rng.choice([10, 200, 9_000])), id=id_) for id_ in ids]
        state = [Entry(Kind.STATE, 1, rng.randbytes(50), key=rng.choice(["integration/a", "cursor/a"]))]
        results = await log.append(entries + state * (number % 3 == 0))
        for id_, result in zip(ids, results, strict=False):
            tell(f"ack {id_} {result.position}")


async def remove(log: SqliteLog, rng: random.Random) -> None:
    """Trim and erase beside that."""
    for _ in range(4):
        await asyncio.sleep(0)
        last = (await log.bounds()).last
        before = rng.randrange(1, last + 2) // 4
        tell(f"trim {before}")
        await log.trim(before, 20)
        position = rng.randrange(1, last + 2)
        tell(f"erase {position}")
        await log.erase([position])


async def main(directory: str, seed: int, synchronous: str) -> None:
    """Do it."""
    rng = random.Random(seed)  # noqa: S311  load
    sqlite.WAL_PAGES = 60  # so that the WAL is brought into the main file, and started again, many times
    log = await SqliteLog.open(Settings.model_validate({"data_dir": directory}))
    await log._store.write_connection.execute_fetchall(f"PRAGMA synchronous = {synchronous}")
    await asyncio.gather(*(append(log, f"{seed}-{n}", rng) for n in range(4)), remove(log, rng))
    await log.close()


asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
