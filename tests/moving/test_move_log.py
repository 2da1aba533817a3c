"""A log that moves to another store: all of it is there, or nobody starts on what is."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from hub.app import Hub
from hub.archive import migration as moving
from hub.archive.empty import open_empty
from hub.archive.export import Export, new_export
from hub.archive.migration import export_log, import_log
from hub.clock import Clock
from hub.config import Settings
from hub.control.hub_secret import HubSecret
from hub.control.registry import Registry
from hub.control.transactions import initialise
from hub.errors import EventIdConflict, StartError
from hub.model import Appended, CursorRecord, Entry, GrantRecord, Kind
from hub.state import IMPORT_KEY
from hub.storage import Log, open_storage
from tests.support.migrations import WAYS, Stores, begin, change, integration, meaning, placeless
from tests.support.stores import append_all, event, read_all, state

TARGETS = pytest.mark.parametrize("target", ["sqlite", "jetstream"])
HERE = Path(__file__).parent
SUPPORT = HERE.parent / "support"
EVENTS = frozenset({Kind.EVENT})
HOUR = 3_600_000_000
DONE = b'{"epoch":1,"done":true}'
SECRET = "a secret that the settings give, long enough"


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    """Stores in this test's directory, and in the shared NATS server."""
    stores = Stores(tmp_path)
    yield stores
    await stores.close()


async def make(settings: Settings, *, events: int = 3) -> None:
    """A store with something of everything in it: 3 + `events` entries besides its first keys."""
    log = await begin(settings)
    await log.append([change("integration/x", integration("x", grants=(GrantRecord(5, "", 10, ""),)), 10)])
    await append_all(log, [event(f"e{n}", b"body %d" % n, 20 + n) for n in range(events)])
    cursor = CursorRecord((await log.bounds()).epoch, 5, 1, 1)
    await log.append([state("cursor/x/y", msgspec.json.encode(cursor)), state("use/key/k", b'{"last_use_time":7}')])
    await log.close()


async def moved(stores: Stores, old: Settings, target: str, **values: Any) -> Log:  # noqa: ANN401  any setting
    """The log of a new store that was made of an old one, open."""
    file = stores.named("sqlite", "").data_dir / "x.export"
    await export_log(old, file)
    new = stores.named(target, "new", **values)
    await import_log(new, file)
    return await open_storage(new)


@pytest.mark.parametrize(("source", "target"), WAYS)
async def test_an_import_has_the_whole_log(stores: Stores, source: str, target: str) -> None:
    """Every entry with its content and time in its order, the audit trail, the secret; more than fits a page.

    The new log is another one by its epoch, and goes on where the old one stood.
    """
    old = stores.named(source, "old")
    await make(old, events=1_200)
    log = await open_storage(old)
    entries, history = await read_all(log), (await log.history(9_999, 9_999)).entries
    was, secret, bounds = await meaning(log), (await log.secrets())[0], await log.bounds()
    await log.close()
    log = await moved(stores, old, target)
    try:
        kept = [entry for entry in await read_all(log) if entry.key != IMPORT_KEY]
        assert [entry for entry in placeless(kept) if not entry.key.startswith("cursor/")] == [
            entry for entry in placeless(entries) if not entry.key.startswith("cursor/")
        ]
        assert placeless((await log.history(9_999, 9_999)).entries) == placeless(history)
        assert await meaning(log) == was
        assert (await log.secrets())[0] == secret
        assert (await log.bounds()).epoch != bounds.epoch
        [appended] = await log.append([event("later", time=5)])
        assert (appended.duplicate, appended.time > entries[-1].time) == (False, True)
    finally:
        await log.close()


@pytest.mark.parametrize(("source", "target"), WAYS)
async def test_known_ids_stay_known(stores: Stores, source: str, target: str) -> None:
    """Within the dedupe window an earlier id is a duplicate, with its first time; other content is a conflict.

    What is past the window is new again.
    """
    old, now = stores.named(source, "old"), Clock().now()
    await make(old)
    log = await open_storage(old)
    await log.append(
        [event("past", time=now - 2 * HOUR), event("known", time=now - HOUR // 2), event("", time=now - 5)]
    )
    await log.close()
    log = await moved(stores, old, target)
    try:
        [place] = [entry.position for entry in await read_all(log) if entry.id == "known"]
        again = await log.append([event("known", time=Clock().now()), event("past", time=Clock().now())])
        assert again[0] == Appended(place, now - HOUR // 2, duplicate=True)
        assert not again[1].duplicate
        with pytest.raises(EventIdConflict):
            await log.append([event("known", b"other", time=Clock().now())])
    finally:
        await log.close()


@TARGETS
async def test_an_id_used_twice_is_imported_twice(stores: Stores, target: str) -> None:
    """Used again after the old hub's dedupe window, within the new hub's: both events are carried."""
    old, now = stores.named("sqlite", "old"), Clock().now()
    await make(old)
    log = await open_storage(old)
    for time in (now - 3 * HOUR, now - HOUR // 2 * 3, now - HOUR // 4):
        await log.append([event("often", b"%d" % time, time)])
    await log.close()
    log = await moved(stores, old, target, dedupe_window=14_400)
    try:
        found = [entry for entry in await read_all(log, kinds=EVENTS) if entry.time > now - 4 * HOUR]
        assert [entry.body for entry in found] == [b"%d" % entry.time for entry in found]
        assert len(found) == 3
    finally:
        await log.close()


@pytest.mark.parametrize(("source", "target"), WAYS)
async def test_removed_events_are_a_gap_in_the_new_log(stores: Stores, source: str, target: str) -> None:
    """Where retention has removed events, a start before that gets a Gap in the new log; a later start does not."""
    old = stores.named(source, "old")
    await make(old)
    log = await open_storage(old)
    await log.append([event("new", time=50), event("newest", time=60)])
    await log.trim((await log.bounds()).last - 1, 100)
    was = [await log.position_at(time) + 1 < (await log.bounds()).first for time in (0, 22, 51)]
    await log.close()
    log = await moved(stores, old, target)
    try:
        assert [entry.id for entry in await read_all(log, kinds=EVENTS)] == ["new", "newest"]
        first = (await log.bounds()).first
        assert [await log.position_at(time) + 1 < first for time in (0, 22, 51)] == was == [True, True, False]
    finally:
        await log.close()


@TARGETS
async def test_a_log_with_only_state_has_a_gap_at_its_newest_removed_event(stores: Stores, target: str) -> None:
    """If only state is left, a start at the newest removed event, or before it, gets the Gap."""
    old = stores.named("sqlite", "old")
    await make(old)
    log = await open_storage(old)
    await log.append([event("last", time=2_000)])
    await log.trim((await log.bounds()).last + 1, 100)
    await log.close()
    log = await moved(stores, old, target)
    try:
        assert await read_all(log, kinds=frozenset({Kind.EVENT, Kind.ERASED})) == []
        first = (await log.bounds()).first
        assert [await log.position_at(time) + 1 < first for time in (0, 2_000, 2_001)] == [True, True, False]
    finally:
        await log.close()


@pytest.mark.parametrize(("source", "target"), WAYS)
async def test_erased_entries_and_tombstones_are_not_exported(stores: Stores, source: str, target: str) -> None:
    """What was erased, what was forgotten, and that the old log was an import itself."""
    old = stores.named(source, "old")
    await make(old)
    log = await open_storage(old)
    await log.append([state("cursor/gone/x", b""), state("claim/gone/x", b""), state(IMPORT_KEY, DONE)])
    [erased] = [entry.position for entry in await read_all(log) if entry.id == "e1"]
    await log.erase([erased])
    await log.close()
    log = await moved(stores, old, target)
    try:
        entries = await read_all(log)
        assert [entry.id for entry in entries if entry.kind is not Kind.STATE] == ["e0", "e2"]
        assert [entry.key for entry in entries if entry.key.endswith("gone/x")] == []
        assert [entry.key for entry in entries].count(IMPORT_KEY) == 1
    finally:
        await log.close()


# What is refused.


@TARGETS
async def test_a_store_that_is_not_empty_is_refused(stores: Stores, target: str, tmp_path: Path) -> None:
    """A hub's store is left as it is, and the complaint says what to do."""
    old, new = stores.named("sqlite", "old"), stores.named(target, "new")
    await make(old)
    await export_log(old, tmp_path / "x.export")
    await (await begin(new)).close()
    with pytest.raises(StartError, match=r"not empty.*(into an empty or a new one|set HUB_NATS_STREAM)"):
        await import_log(new, tmp_path / "x.export")
    log = await open_storage(new)
    assert (await log.bounds()).last == 2
    await log.close()


async def test_a_store_with_another_secret_is_refused(stores: Stores, tmp_path: Path) -> None:
    """A stream that a hub has begun, though nothing was stored yet: its keys would be made with that secret."""
    old, new = stores.named("sqlite", "old"), stores.named("jetstream", "new")
    await make(old)
    await export_log(old, tmp_path / "x.export")
    log = await open_storage(new)
    await log.secrets()
    await log.close()
    with pytest.raises(StartError, match=r"already has a secret: set HUB_NATS_STREAM"):
        await import_log(new, tmp_path / "x.export")


@TARGETS
async def test_an_import_gives_way_to_a_hub_that_starts_first(
    stores: Stores, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that begins on the empty store the moment before the import does: the import stores nothing."""
    old, new = stores.named("sqlite", "old"), stores.named(target, "new")
    await make(old)
    await export_log(old, tmp_path / "x.export")

    async def late(settings: Settings, secret: bytes) -> Log:
        log = await open_empty(settings, secret)
        await initialise(
            log, Registry(HubSecret((await log.secrets())[0]), Clock()), Clock(), HubSecret((await log.secrets())[0])
        )
        return log

    monkeypatch.setattr(moving, "open_empty", late)
    with pytest.raises(StartError, match="a hub has just started on this store"):
        await import_log(new, tmp_path / "x.export")
    hub = await Hub.start(new)
    await hub.stop()


@TARGETS
async def test_a_hub_that_starts_during_an_import_makes_no_keys(stores: Stores, target: str) -> None:
    """One that found the store empty, and begins after the import has: it makes nothing."""
    log = await open_storage(stores.named(target, "new"))
    try:
        found_empty = Registry(HubSecret((await log.secrets())[0]), Clock())
        await log.append([state(IMPORT_KEY, DONE.replace(b"true", b"false"), time=0)])
        assert await initialise(log, found_empty, Clock(), HubSecret((await log.secrets())[0])) is None
        assert [entry.key for entry in await read_all(log)] == [IMPORT_KEY]
    finally:
        await log.close()


async def test_a_store_that_is_in_use_is_not_exported(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub locks its embedded store; in a cluster an entry that is stored meanwhile shows it."""
    log = await begin(stores.named("sqlite", "old"))
    with pytest.raises(StartError, match="is in use by another hub"):
        await export_log(stores.named("sqlite", "old"), tmp_path / "x.export")
    await log.close()
    log = await begin(stores.named("jetstream", "old"))
    said = moving._entries_to_move

    async def meanwhile(store: Log, after: int, through: int) -> AsyncIterator[Entry]:
        async for entry in said(store, after, through):
            yield entry
        await log.append([event()])

    monkeypatch.setattr(moving, "_entries_to_move", meanwhile)
    try:
        with pytest.raises(StartError, match="stop every hub of this store"):
            await export_log(stores.named("jetstream", "old"), tmp_path / "x.export")
    finally:
        await log.close()
    assert not list(tmp_path.glob("x.export*"))


async def test_a_missing_store_is_not_exported(stores: Stores, tmp_path: Path) -> None:
    """Neither a missing directory, of which nothing is made, nor a store without keys."""
    with pytest.raises(StartError, match="there is no store in"):
        await export_log(stores.named("sqlite", "old"), tmp_path / "x.export")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StartError, match="the store is empty"):
        await export_log(stores.named("jetstream", "old"), tmp_path / "x.export")


@TARGETS
async def test_an_import_needs_the_right_secret(stores: Stores, target: str, tmp_path: Path) -> None:
    """An export of a hub whose settings give its secret does not hold it, and is imported with it alone.

    With any other secret, or none, the import is refused before anything is made.
    """
    old = stores.named("sqlite", "old", secret=SECRET)
    await make(old)
    header, _ = await export_log(old, tmp_path / "x.export")
    assert header.secret == b""
    with pytest.raises(StartError, match="set HUB_SECRET to its value at that time"):
        await import_log(stores.named(target, "new"), tmp_path / "x.export")
    with pytest.raises(StartError, match="HUB_SECRET does not match this export"):
        await import_log(stores.named(target, "new", secret=SECRET[::-1]), tmp_path / "x.export")
    new = stores.named(target, "new", secret=SECRET)
    await import_log(new, tmp_path / "x.export")
    hub = await Hub.start(new)
    assert hub.first_keys is None
    await hub.stop()


# What is cut off.


async def killed(appends: int, file: Path, settings: Settings) -> bool:
    """Import in a process that is killed before one of its appends; returns whether it came to its end."""
    names = {name: str(getattr(settings, name)) for name in ("data_dir", "storage", "nats_stream", "listen")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, SUPPORT / "killed_import.py", str(appends), file, json.dumps(names)),
        cwd=HERE.parents[1],
    )
    code = await process.wait()
    assert code in (0, -signal.SIGKILL)
    return code == 0


@TARGETS
async def test_no_hub_starts_on_an_incomplete_import(stores: Stores, target: str, tmp_path: Path) -> None:
    """Killed before any of its appends the import leaves nothing, or a store that every start refuses, saying why.

    Neither a hub nor an export takes it, nor does another import add to it.
    """
    old, file = stores.named("sqlite", "old"), tmp_path / "x.export"
    await make(old, events=600)  # two pages, between two marks
    await export_log(old, file)
    for appends in range(1, 5):
        new = stores.named(target, f"new{appends}")
        if await killed(appends, file, new):
            break
        for refused in (Hub.start(new), export_log(new, tmp_path / "y.export")):
            with pytest.raises(StartError, match=r"did not finish.*run 'hub import' again"):
                await refused
        with pytest.raises(StartError, match="not empty"):
            await import_log(new, file)
    assert appends == 4
    hub = await Hub.start(new)
    await hub.stop()


async def test_an_import_killed_before_its_marker_can_be_repeated(stores: Stores, tmp_path: Path) -> None:
    """What was laid by then, the secret, is what the next import lays again: a stream need not be removed for it."""
    old, file, new = stores.named("sqlite", "old"), tmp_path / "x.export", stores.named("jetstream", "new")
    await make(old)
    await export_log(old, file)
    assert not await killed(0, file, new)
    await import_log(new, file)
    hub = await Hub.start(new)
    await hub.stop()


@TARGETS
async def test_an_import_with_changed_times_stays_marked_as_incomplete(
    stores: Stores, target: str, tmp_path: Path
) -> None:
    """Entries that cannot get the times for which they were made end the import, and no hub starts on what is there."""
    old, file, new = stores.named("sqlite", "old"), tmp_path / "x.export", stores.named(target, "new")
    await make(old)
    await export_log(old, file)
    export = Export.open(file)
    with new_export(tmp_path / "y.export", export.header) as other:
        for entry in export.entries():
            other.add(replace(entry, time=100 - entry.position))
    with pytest.raises(StartError, match="changed the entries"):
        await import_log(new, tmp_path / "y.export")
    with pytest.raises(StartError, match="did not finish"):
        await Hub.start(new)


async def test_an_unreadable_record_is_reported(stores: Stores, tmp_path: Path) -> None:
    """One line says that the file is damaged, also where its digest was made to fit."""
    old, file = stores.named("sqlite", "old"), tmp_path / "x.export"
    await make(old)
    await export_log(old, file)
    export = Export.open(file)
    with new_export(tmp_path / "y.export", export.header) as other:
        for entry in export.entries():
            other.add(replace(entry, body=b"{}") if entry.key.startswith("integration/") else entry)
    with pytest.raises(StartError, match=r"y.export is damaged: .*empty the store"):
        await import_log(stores.named("sqlite", "new"), tmp_path / "y.export")
