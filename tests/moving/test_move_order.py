"""Whatever a log holds, it means the same after it was moved: to grants, guilds, committed cursors and times."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json
from msgspec.structs import replace

from hub import permissions as table
from hub.archive.migration import export_log, import_log
from hub.archive.position_map import PositionMap, PositionRemapper
from hub.control.registry import Registry
from hub.model import AgreedScope, Change, CursorRecord, Entry, GrantRecord, InstallationRecord, IntegrationRecord, Kind
from hub.storage import Log, open_storage
from tests.support.migrations import ALL, INSTALLED, Stores, begin, change, integration, meaning, registry_of
from tests.support.stores import read_all

NAMES = ("a", "b")
GUILDS = (1, 2)
SECOND = 1_000_000


class History:
    """Lets things happen on a log, one after the other, a second between them."""

    def __init__(self, log: Log, epoch: int, chance: Random) -> None:
        self._log = log
        self._epoch = epoch
        self._chance = chance
        self._time = SECOND
        self._registry: Registry
        often = [self.install, self.commit] * 3
        self._choices: list[Callable[[], list[Entry]]] = [self.grant, self.grant, self.access, *often]

    async def happen(self) -> None:
        """Something happens: an event as a rule."""
        self._time += SECOND
        self._registry = await registry_of(self._log)
        if self._chance.random() < 0.1:
            await self._log.trim(self._chance.randint(1, (await self._log.bounds()).last), 1_000)
            return
        usual = self._chance.random() < 0.5
        await self._log.append(self.event() if usual else self._chance.choice(self._choices)())

    def event(self) -> list[Entry]:
        """Something that may be delivered; its body is its name."""
        name = str(self._time)
        kind = self._chance.choice(list(table.PAYLOADS))
        return [Entry(Kind.EVENT, self._time, name.encode(), "", name, kind, self._chance.choice(GUILDS))]

    def grant(self) -> list[Entry]:
        """Other scopes; those that stay keep their grant."""
        record = self._of(self._chance.choice(NAMES))
        held = {grant.scope: grant for grant in record.grants}
        chosen = self._chance.sample(list(table.SCOPES), 4)
        grants = tuple(held.get(scope, GrantRecord(scope, "", self._time, "")) for scope in chosen)
        return [change(f"integration/{record.integration_id}", replace(record, grants=grants), self._time)]

    def access(self) -> list[Entry]:
        """Every guild's events, or those of guilds that installed it."""
        record = self._of(self._chance.choice(NAMES))
        opened = record.guild_access is INSTALLED
        after = replace(record, guild_access=ALL, all_guilds_from=-1) if opened else record
        after = after if opened else replace(record, guild_access=INSTALLED)
        return [change(f"integration/{record.integration_id}", after, self._time)]

    def install(self) -> list[Entry]:
        """A guild agrees to more or less, or to nothing any more."""
        name, guild = self._chance.choice(NAMES), self._chance.choice(GUILDS)
        known = self._registry.installations.record(name, guild)
        held = {scope.scope: scope for scope in known.agreed} if known else {}
        chosen = self._chance.sample(list(table.SCOPES), 4)
        agreed = tuple(held.get(scope, AgreedScope(scope)) for scope in chosen)
        record = InstallationRecord(name, guild, "1", 1, 1, agreed, installed=self._chance.random() < 0.8)
        return [change(f"installation/{name}/{guild}", record, self._time)]

    def commit(self) -> list[Entry]:
        """A place is kept, or forgotten; superseded ones leave holes in the log."""
        key = f"cursor/{self._chance.choice(NAMES)}/{self._chance.choice('xy')}"
        if self._chance.random() < 0.1:
            return [Entry(Kind.STATE, self._time, b"", key=key)]
        position = self._chance.randint(0, self._registry.through)
        record = CursorRecord(self._epoch, position, self._time, self._time)
        return [Entry(Kind.STATE, self._time, json.encode(record), key=key)]

    def _of(self, name: str) -> IntegrationRecord:
        held = self._registry.integrations.get(name)
        return held.record if held is not None else integration(name, guild_access=INSTALLED if name == "b" else ALL)


async def gaps_and_rests(log: Log, until: int) -> list[tuple[bool, list[bytes]]]:
    """For each time: whether a start there gets a Gap, and what follows."""
    first = (await log.bounds()).first
    events = await read_all(log, kinds=frozenset({Kind.EVENT}))
    places = [await log.position_at(time) for time in range(0, until, SECOND // 2)]
    return [(place + 1 < first, [e.body for e in events if e.position > place]) for place in places]


async def moves_without_a_difference(seed: int, steps: int, directory: Path) -> None:
    """Let a history happen, move it, and compare all that it means."""
    stores = Stores(directory)
    old = await begin(stores.named("sqlite", "old"))
    try:
        history = History(old, (await old.bounds()).epoch, Random(seed))  # noqa: S311  chance, not secrets
        for _ in range(steps):
            await history.happen()
        before, times = await meaning(old), await gaps_and_rests(old, (steps + 3) * SECOND)
    finally:
        await old.close()
    await export_log(stores.named("sqlite", "old"), directory / "x.export")
    await import_log(stores.named("sqlite", "new"), directory / "x.export")
    new = await open_storage(stores.named("sqlite", "new"))
    try:
        assert await meaning(new) == before
        for (gap, rest), (was_gap, was_rest) in zip(
            await gaps_and_rests(new, (steps + 3) * SECOND), times, strict=True
        ):
            assert (gap, rest) == (was_gap, was_rest)
    finally:
        await new.close()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 90))
def test_an_import_means_the_same_for_every_reader(seed: int, steps: int) -> None:
    """Grants, guild access, agreements, commits and trims in any order: all see what they saw, and nothing besides.

    Each integration the same events and fields; each committed cursor, and each time, the same rest or the same gap.
    """
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(moves_without_a_difference(seed, steps, Path(directory)))


STEPS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), max_size=30)


@given(base=st.integers(1, 5), steps=STEPS)
def test_positions_keep_their_order(base: int, steps: list[tuple[int, int]]) -> None:
    """Of any place, also one where nothing is, exactly those entries come after it that came after it before."""
    places, pairs = PositionMap(base), list[tuple[int, int]]()
    old, new = 0, base
    for more_old, more_new in steps:
        old, new = old + more_old, new + more_new
        places.add(old, new)
        pairs.append((old, new))
    for place in range(old + 3):
        found = places.find(place)
        assert found >= base
        assert [pair for pair in pairs if pair[0] > place] == [pair for pair in pairs if pair[1] > found]


def test_positions_in_records_are_translated() -> None:
    """Grants, the opening to all guilds, agreements and committed cursors; a record without positions stays."""
    mover = PositionRemapper(1, old_epoch=7, new_epoch=8)
    old = [change("x", integration("x"), 1), *(Entry(Kind.EVENT, 1, b"") for _ in range(3))]
    for position, entry in zip((10, 20, 21, 40), old, strict=True):
        mover.remapped(replace(entry, position=position))
    grants = tuple(GrantRecord(scope, "", 1, "", position) for scope, position in enumerate((0, 10, 20, 39, 40)))
    agreed = tuple(AgreedScope(scope, position) for scope, position in enumerate((0, 21, 40)))
    record = integration("x", grants=grants, all_guilds_from=20)
    entries = [
        change("integration/x", record, 1),
        change("installation/x/1", InstallationRecord("x", 1, "1", 1, 1, agreed), 1),
        *(Entry(Kind.STATE, 1, json.encode(CursorRecord(epoch, 39, 1, 1)), key="cursor/x/y") for epoch in (7, 6)),
    ]
    bodies = [mover.remapped(replace(entry, position=50 + n)).body for n, entry in enumerate(entries)]
    changes = [json.decode(json.decode(body, type=Change).record) for body in bodies[:2]]
    assert [grant.get("position", 0) for grant in changes[0]["grants"]] == [0, 2, 3, 4, 5]
    assert changes[0]["all_guilds_from"] == 3
    assert [scope.get("position", 0) for scope in changes[1]["agreed"]] == [0, 4, 5]
    cursors = [json.decode(body, type=CursorRecord) for body in bodies[2:]]
    assert [(cursor.epoch, cursor.position) for cursor in cursors] == [(8, 4), (6, 39)]
