"""Moving a hub to another store: export writes its log to a file, and import makes a new log from that file.

This module decides what moves and in which order. ``export.py`` knows the format of the file, ``position_map.py`` the
new positions.

All entries move, except for erased events and tombstones. One mark represents everything that retention has removed; it
has the time up to which events are gone, so that a reader who asks for older ones gets a gap. Until its last
transaction the new log is marked as incomplete, and no hub starts on it (`Registry`).
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import msgspec

from hub.archive.empty import open_empty
from hub.archive.export import FORMAT, VERSION, Export, Header, Trailer, new_export
from hub.archive.files import copy_erasures, fitting_secret, require_store
from hub.archive.position_map import PositionRemapper
from hub.clock import Clock
from hub.config import Settings
from hub.control.hub_secret import choose
from hub.control.registry import Registry
from hub.crypto import secret_check
from hub.errors import Conflict, EventIdConflict, HubError, StartError
from hub.model import Appended, Bounds, Entry, ImportRecord, Kind
from hub.state import COMPACTED_PREFIXES, IMPORT, IMPORT_KEY, SECRET_KEY, SERVICE_KEY
from hub.storage import Log, open_storage

PAGE_ENTRIES = 500
PAGE_BYTES = 1024 * 1024
"""The bytes that are read or appended at once; a single entry may be larger."""


async def export_log(settings: Settings, file: Path) -> tuple[Header, Trailer]:
    """Write the log that the settings name into a new file (0600), which gets its name once it is complete and synced.

    Raises:
        StartError: there is no such log, it is in use or incomplete, or the file exists or cannot be written.
        StorageUnavailable: the store does not answer.
    """
    if settings.storage == "sqlite":
        require_store(settings)
    log = await open_storage(settings)
    try:
        bounds = await log.bounds()
        header = await _header(log, settings, bounds)
        with new_export(file, header) as export:
            async for entry in _all_to_move(log, bounds):
                export.add(entry)
            if (await log.newest(), await log.bounds()) != (bounds.last, bounds):
                raise StartError("the log changed during the export: stop every hub of this store, then export again")
        return header, export.trailer
    finally:
        await log.close()


async def _header(log: Log, settings: Settings, bounds: Bounds) -> Header:
    """The header of the export; making it checks that the log is a hub's, with this secret."""
    entries, _ = await log.snapshot()
    chosen = choose(await log.secrets(), entries)
    registry, secret = Registry(chosen, Clock()), chosen.current
    registry.apply(entries)
    if not registry.service.position:
        raise StartError("the store is empty: there is nothing to export")
    return Header(
        format=FORMAT,
        version=VERSION,
        time=Clock().now(),
        epoch=bounds.epoch,
        dedupe_window=_window(settings),
        secret_check=secret_check(secret),
        secret=secret if settings.secret is None else b"",
    )


async def _all_to_move(log: Log, bounds: Bounds) -> AsyncIterator[Entry]:
    """The entries to export. One of them may be ERASED: it represents everything removed up to its position."""
    async for entry in _entries_to_move(log, 0, bounds.first - 1):
        yield entry
    if bounds.first > 1:
        yield Entry(Kind.ERASED, await _removed_through(log, bounds.first), b"", position=bounds.first - 1)
    async for entry in _entries_to_move(log, bounds.first - 1, bounds.last):
        yield entry


async def _removed_through(log: Log, first: int) -> int:
    """Accept time of the newest trimmed event; `since` at or before it is incomplete."""
    low, high = 0, 1 << 62
    while low < high:
        middle = (low + high) // 2
        if await log.position_at(middle) + 1 < first:
            low = middle + 1
        else:
            high = middle
    return low - 1


async def _entries_to_move(log: Log, after: int, through: int) -> AsyncIterator[Entry]:
    """The entries after a position and through another that still have content."""
    while after < through:
        page = await log.read(after, PAGE_ENTRIES)
        for entry in page.entries:
            if entry.kind is Kind.DAMAGED:
                raise StartError(
                    f"the entry at position {entry.position} is damaged: 'hub doctor --verify' lists the damage and "
                    "the backups without it"
                )
            if entry.position <= through and _is_to_move(entry):
                yield entry
        after = page.through


def _is_to_move(entry: Entry) -> bool:
    if entry.kind is Kind.ERASED or IMPORT.has(entry.key):
        return False
    return bool(entry.body) or not entry.key.startswith(COMPACTED_PREFIXES)


def _window(settings: Settings) -> int:
    return round(settings.dedupe_window * 1e6)


async def import_log(settings: Settings, file: Path, erasures: Path | None = None) -> tuple[Header, Trailer]:
    """Import an export into the empty store that the settings name. The whole file is checked first.

    `erasures`: the newest list of erasures, as of `restore`.

    Raises:
        StartError: the file is not an export, is damaged, or of another version or secret; the store is not empty; or
            the import failed, and no hub starts on the store.
    """
    export = Export.open(file)
    header, trailer = export.header, export.trailer
    log = await open_empty(settings, fitting_secret(settings, header.secret, header.secret_check, "export"))
    try:
        copy_erasures(settings, erasures)
        window = min(_window(settings), header.dedupe_window)
        await _Import(log, header.epoch, (await log.bounds()).epoch).run(
            _known_within(export.entries(), trailer.last_time - window)
        )
    except Conflict:
        raise StartError("a hub has just started on this store: it is not empty any more") from None
    except EventIdConflict as error:
        raise StartError(
            f"{error.message}: set HUB_DEDUPE_WINDOW to its former value, empty the store, import again"
        ) from None
    except msgspec.DecodeError as error:
        raise StartError(f"{file} is damaged: {error}; empty the store") from None
    except HubError as error:
        raise StartError(f"the import failed: {error.message}; empty the store, then import again") from None
    finally:
        await log.close()
    return header, trailer


def _known_within(entries: Iterable[Entry], since: int) -> Iterator[Entry]:
    """The same entries, without ids past the dedupe window: those may occur twice in the log."""
    for entry in entries:
        yield msgspec.structs.replace(entry, id="") if entry.id and entry.time < since else entry


class _Import:
    """Fills an empty log."""

    def __init__(self, log: Log, old_epoch: int, new_epoch: int) -> None:
        self._log = log
        self._epochs = (old_epoch, new_epoch)

    async def run(self, entries: Iterable[Entry]) -> None:
        """Mark the log as incomplete, import everything, and only then mark it as complete."""
        [begun] = await self._mark(0, done=False, before=0)
        remapper = PositionRemapper(begun.position, *self._epochs)
        for page in _pages(entries):
            await self._append([remapper.remapped(entry) for entry in page])
        await self._mark(Clock().now(), done=True, before=begun.position)

    async def _mark(self, time: int, *, done: bool, before: int) -> list[Appended]:
        """Append a mark of the import's state. The first one is the oldest entry, so that all keep their times."""
        entry = IMPORT.entry(IMPORT_KEY, time, ImportRecord(self._epochs[0], done))
        expect = {IMPORT_KEY: before} | ({} if done else {SERVICE_KEY: 0, SECRET_KEY: 0})
        return await self._log.append([entry], expect)

    async def _append(self, page: list[Entry]) -> None:
        """Append entries; they must get the positions and times that they were made for."""
        removed = [entry.position for entry in page if entry.kind is Kind.ERASED]
        events = [msgspec.structs.replace(e, kind=Kind.EVENT) if e.kind is Kind.ERASED else e for e in page]
        appended = await self._log.append(events)
        if appended != [Appended(entry.position, entry.time) for entry in page]:
            raise StartError(
                "the store changed the entries: make sure that nothing else writes to it, "
                "set HUB_DEDUPE_WINDOW to its former value, empty the store, import again"
            )
        for position in removed:
            await self._log.trim(position + 1, 1)


def _pages(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """The entries in pages, each of which is appended at once."""
    page: list[Entry] = []
    size = 0
    for entry in entries:
        if page and (len(page) == PAGE_ENTRIES or size + len(entry.body) > PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(entry)
        size += len(entry.body)
    if page:
        yield page
