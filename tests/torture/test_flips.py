"""Flipped bits in the file of the embedded store: none of them is delivered silently."""

import asyncio
import random
import shutil
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from hub.errors import EventIdConflict, StartError, StorageUnavailable
from hub.model import Appended, Bounds, Entry, Kind
from hub.storage.sqlite.log import SqliteLog
from hub.storage.sqlite.transactions import _hash_of
from tests.support.stores import event, read_all, settings_for, state
from tests.torture.conftest import rounds

EVENTS = frozenset({Kind.EVENT, Kind.ERASED})


class Truth(NamedTuple):
    """What a store holds: its entries by position, its newest state, its extent, what a repeated id is answered."""

    entries: dict[int, Entry]
    snapshot: list[Entry]
    bounds: Bounds
    again: list[Appended]


REPEATED = [event(f"e{n}", b"body %d" % n, 9_999) for n in range(60)]
"""Ids of events that the store holds, has trimmed away, and has erased."""


async def fill(directory: Path) -> Truth:
    """A store with something of everything, all of it in the main file; and what it holds."""
    log = await SqliteLog.open(settings_for(directory))
    for n in range(60):
        await log.append([event(f"e{n}", b"body %d" % n, 1_000 + n)])
        if n % 5 == 0:
            await log.append([state(f"integration/i{n % 3}", b'{"n":%d}' % n), state("cursor/x/y", b'{"n":%d}' % n)])
    await log.append([event("large", bytes(9_000), 2_000), event("", b"last", 2_001)])
    await log.erase([20])
    await log.trim(10, 100)
    truth = Truth(
        {entry.position: entry for entry in await read_all(log)},
        (await log.snapshot())[0],
        await log.bounds(),
        await log.append(REPEATED),
    )
    await log.close()
    return truth


async def given_out(log: SqliteLog, truth: Truth, *, started: bool) -> str:
    """How a store with a flipped bit answers; "silent": something is wrong and nothing says so."""
    try:
        entries = await read_all(log)
        if started and (wrong := await wrong_state(log, truth)):
            return wrong
    except StorageUnavailable:
        return "failed"
    sound = {entry.position: entry for entry in entries if entry.kind is not Kind.DAMAGED}
    damaged = [entry.position for entry in entries if entry.kind is Kind.DAMAGED]
    if any(truth.entries.get(position) != entry for position, entry in sound.items()):
        return "silent"
    reached = 0
    for position in sorted({*truth.entries, *damaged}):
        if position in truth.entries and position not in sound and not started and position not in damaged:
            # An event that is gone must lie before a damaged one, with no sound event between.
            is_event = truth.entries[position].kind in EVENTS
            if is_event and not any(d > position and not between(sound, position, d) for d in damaged):
                return "silent"
        reached = position
    if started and reached and not set(truth.entries) - set(sound) <= set(damaged):
        return "silent"
    return "gap" if damaged else "unharmed"


def between(sound: dict[int, Entry], low: int, high: int) -> bool:
    """Whether a sound event lies between two positions."""
    return any(low < position < high and entry.kind in EVENTS for position, entry in sound.items())


async def wrong_state(log: SqliteLog, truth: Truth) -> str:
    """Whether newest state, extent or known ids are others than they were."""
    if (await log.snapshot())[0] != truth.snapshot:
        return "silent: the snapshot"
    bounds = await log.bounds()
    if (bounds.epoch, bounds.first) != (truth.bounds.epoch, truth.bounds.first) or bounds.last < truth.bounds.last:
        return "silent: the bounds"
    for request, before in zip(REPEATED, truth.again, strict=True):
        try:
            [again] = await log.append([request])
        except EventIdConflict:
            return "silent: a known id conflicts"
        if again != before:
            return "silent: a known id is another"
    return ""


async def opened_with_flip(file: Path, at: int, bit: int, truth: Truth) -> str:
    """Flip a bit, then start a hub's store on it."""
    flip(file, at, bit)
    try:
        log = await SqliteLog.open(settings_for(file.parent))
    except StartError:
        return "refused"
    try:
        return await given_out(log, truth, started=True)
    finally:
        await log.close()


async def flipped_while_open(file: Path, at: int, bit: int, truth: Truth) -> str:
    """Start a hub's store, then flip a bit below it."""
    log = await SqliteLog.open(settings_for(file.parent))
    flip(file, at, bit)
    try:
        return await given_out(log, truth, started=False)
    finally:
        with suppress(StorageUnavailable):
            await log.close()


def flip(file: Path, at: int, bit: int) -> None:
    """Flip one bit of a file."""
    with file.open("r+b") as content:
        content.seek(at)
        byte = content.read(1)[0]
        content.seek(at)
        content.write(bytes([byte ^ 1 << bit]))


@pytest.mark.parametrize("way", [opened_with_flip, flipped_while_open])
async def test_no_flipped_bit_is_silent(way: object, tmp_path: Path) -> None:
    """At the start, or below a running store: refused, failed, a damaged entry, or what was asked for is untouched."""
    truth = await fill(tmp_path / "whole")
    size = (tmp_path / "whole" / "hub.db").stat().st_size
    rng = random.Random(7)  # noqa: S311  the same flips at every run
    outcomes: Counter[str] = Counter()
    for number in range(rounds(150, 5_000)):
        place = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "whole", place)
        at, bit = rng.randrange(size), rng.randrange(8)
        outcome = await way(place / "hub.db", at, bit, truth)  # type: ignore[operator]  # one of the two
        assert not outcome.startswith("silent"), (outcome, at, bit)
        outcomes[outcome] += 1
        await asyncio.to_thread(shutil.rmtree, place)
    assert outcomes["gap"] + outcomes["failed"] + outcomes["refused"] > len(outcomes) * 5
    assert outcomes["unharmed"]


def places_of_known_ids(file: Path, ids: list[str]) -> list[int]:
    """Where in a database file the bytes lie that it keeps of some ids, beside their events."""
    with closing(sqlite3.connect(file)) as store:
        rows = store.execute("SELECT id, digest FROM seen_0 UNION ALL SELECT id, digest FROM seen_1").fetchall()
    ids = [*ids, *map(_hash_of, ids)]  # an erased event is known by the hash of its id alone
    content = file.read_bytes()
    return [
        at
        for id_, digest in rows
        if id_ in ids
        for at in range(content.index(digest) - len(id_) - 12, content.index(digest) + len(digest))
    ]


@pytest.mark.parametrize("id_", ["e2", "e13", "e50"], ids=["trimmed", "erased", "kept"])
async def test_no_flipped_bit_of_a_known_id_is_silent(id_: str, tmp_path: Path) -> None:
    """A repeated event is a duplicate of its first one, whatever happened to that one, or the store is refused."""
    truth = await fill(tmp_path / "whole")
    rng = random.Random(11)  # noqa: S311  the same flips at every run
    outcomes: Counter[str] = Counter()
    for at in places_of_known_ids(tmp_path / "whole" / "hub.db", [id_]):
        place = tmp_path / f"{at}"
        shutil.copytree(tmp_path / "whole", place)
        bits = [rng.randrange(8)] if rounds(1, 8) == 1 else range(8)
        for bit in bits:
            outcome = await opened_with_flip(place / "hub.db", at, bit, truth)
            assert not outcome.startswith("silent"), (outcome, at, bit)
            outcomes[outcome] += 1
            shutil.copy(tmp_path / "whole" / "hub.db", place / "hub.db")
        await asyncio.to_thread(shutil.rmtree, place)
    assert outcomes["refused"] > 20
