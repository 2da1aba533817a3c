"""Moving a hub to another store: its log written into a file, and a new log made of that.

Lives here: what is carried, in which order it becomes valid, and what is refused. Must not know the form of the file
(``storage/export.py``) nor what becomes of positions (``places.py``).

All entries move but those that say nothing any more: what was erased, what was forgotten. What retention has removed is
carried as one mark with the time up to which events are gone, so that nobody who asks for older ones is left to
believe that there were none. Until its last transaction the new log says of itself that it is not all there, and no hub
starts on it (`Registry`).
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import msgspec

from hub.clock import Clock
from hub.config import Settings
from hub.control.places import Mover
from hub.control.registry import IMPORT_KEY, SECRET_KEY, SERVICE_KEY, Registry
from hub.errors import Conflict, EventIdConflict, HubError, StartError
from hub.model import Appended, Bounds, Entry, ImportRecord, Kind
from hub.storage import EPHEMERAL_PREFIXES, Log, open_storage
from hub.storage._carried import fitting_secret, require_store
from hub.storage._schema import secret_check
from hub.storage.empty import open_empty
from hub.storage.export import FORMAT, VERSION, Export, Header, Trailer, new_export

PAGE_ENTRIES = 500
PAGE_BYTES = 1024 * 1024
"""What is read, or appended, at once; a single entry may be larger."""


async def export_log(settings: Settings, file: Path) -> tuple[Header, Trailer]:
    """Write the log that the settings name into a new file, 0600, which gets its name when it is whole and on disk.

    Raises:
        StartError: there is no such log, it is in use or not all there, or the file exists or cannot be written.
        StorageUnavailable: the store does not answer.
    """
    if settings.storage == "sqlite":
        require_store(settings)
    log = await open_storage(settings)
    try:
        bounds = await log.bounds()
        header = await _header(log, settings, bounds)
        with new_export(file, header) as export:
            async for entry in _carried(log, bounds):
                export.add(entry)
            if (await log.newest(), await log.bounds()) != (bounds.last, bounds):
                raise StartError("the log has changed meanwhile: stop every hub of this store, then export again")
        return header, export.trailer
    finally:
        await log.close()


async def _header(log: Log, settings: Settings, bounds: Bounds) -> Header:
    """What the file says first; by making it the log is seen to be a hub's, with this secret."""
    secret = await log.secret()
    registry = Registry(secret, Clock())
    registry.apply((await log.snapshot())[0])
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


async def _carried(log: Log, bounds: Bounds) -> AsyncIterator[Entry]:
    """The entries that move. One of them may be ERASED: it stands for all that was removed up to its place."""
    async for entry in _said(log, 0, bounds.first - 1):
        yield entry
    if bounds.first > 1:
        yield Entry(Kind.ERASED, await _removed_through(log, bounds.first), b"", position=bounds.first - 1)
    async for entry in _said(log, bounds.first - 1, bounds.last):
        yield entry


async def _removed_through(log: Log, first: int) -> int:
    """When the newest event below the log's beginning was accepted: who asks for that time does not get all of it."""
    low, high = 0, 1 << 62
    while low < high:
        middle = (low + high) // 2
        if await log.position_at(middle) + 1 < first:
            low = middle + 1
        else:
            high = middle
    return low - 1


async def _said(log: Log, after: int, through: int) -> AsyncIterator[Entry]:
    """The entries after a position and through another that still say something."""
    while after < through:
        page = await log.read(after, PAGE_ENTRIES)
        for entry in page.entries:
            if entry.position <= through and _says_something(entry):
                yield entry
        after = page.through


def _says_something(entry: Entry) -> bool:
    if entry.kind is Kind.ERASED or entry.key.startswith("import/"):
        return False
    return bool(entry.body) or not entry.key.startswith(EPHEMERAL_PREFIXES)


def _window(settings: Settings) -> int:
    return round(settings.dedupe_window * 1e6)


async def import_log(settings: Settings, file: Path) -> tuple[Header, Trailer]:
    """Make the empty store that the settings name into the log of an export. The file is looked through first.

    Raises:
        StartError: the file is none, damaged, of another version or secret; the store is not empty; or it failed on the
            way, and is one on which no hub starts.
    """
    export = Export.open(file)
    header, trailer = export.header, export.trailer
    log = await open_empty(settings, fitting_secret(settings, header.secret, header.secret_check, "export"))
    try:
        window = min(_window(settings), header.dedupe_window)
        await _Import(log, header.epoch, (await log.bounds()).epoch).run(
            _known_within(export.entries(), trailer.last_time - window)
        )
    except Conflict:
        raise StartError("a hub has just started on this store: it is not empty any more") from None
    except EventIdConflict as error:
        raise StartError(f"{error.message}: set HUB_DEDUPE_WINDOW as it was, empty the store, import again") from None
    except msgspec.DecodeError as error:
        raise StartError(f"{file} is damaged: {error}; empty the store") from None
    except HubError as error:
        raise StartError(f"the import broke off, {error.message}: empty the store, then import again") from None
    finally:
        await log.close()
    return header, trailer


def _known_within(entries: Iterable[Entry], since: int) -> Iterator[Entry]:
    """The same entries; ids that are past the dedupe window may stand in the log twice, and are known no more."""
    for entry in entries:
        yield msgspec.structs.replace(entry, id="") if entry.id and entry.time < since else entry


class _Import:
    """Fills an empty log."""

    def __init__(self, log: Log, old_epoch: int, new_epoch: int) -> None:
        self._log = log
        self._epochs = (old_epoch, new_epoch)

    async def run(self, entries: Iterable[Entry]) -> None:
        """Begin, carry everything over, and only then say that it is all there."""
        [begun] = await self._mark(0, done=False, before=0)
        mover = Mover(begun.position, *self._epochs)
        for page in _pages(entries):
            await self._append([mover.moved(entry) for entry in page])
        await self._mark(Clock().now(), done=True, before=begun.position)

    async def _mark(self, time: int, *, done: bool, before: int) -> list[Appended]:
        """Say how far it is. The first mark is older than everything, so that all that follows keeps its time."""
        body = msgspec.json.encode(ImportRecord(self._epochs[0], done))
        expect = {IMPORT_KEY: before} | ({} if done else {SERVICE_KEY: 0, SECRET_KEY: 0})
        return await self._log.append([Entry(Kind.STATE, time, body, key=IMPORT_KEY)], expect)

    async def _append(self, page: list[Entry]) -> None:
        """Append entries; they must get the places and times for which they were made."""
        removed = [entry.position for entry in page if entry.kind is Kind.ERASED]
        events = [msgspec.structs.replace(e, kind=Kind.EVENT) if e.kind is Kind.ERASED else e for e in page]
        appended = await self._log.append(events)
        if appended != [Appended(entry.position, entry.time) for entry in page]:
            raise StartError(
                "the store did not take the entries as they were: see that nothing else writes to it, "
                "set HUB_DEDUPE_WINDOW as it was, empty the store, import again"
            )
        for position in removed:
            await self._log.trim(position + 1, 1)


def _pages(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries, as many as are appended at once."""
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
