"""`hub doctor --verify`: finds damage in a store, and the backups that have what is lost. Changes nothing."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from hub.archive.files import require_store
from hub.config import Settings
from hub.errors import HubError
from hub.storage import Log, open_storage
from hub.storage.sqlite.backup_file import Backup, digest
from hub.storage.sqlite.check import Damage, describe, everything
from hub.storage.sqlite.schema import BACKUP_ID, Damaged, database_as_start_error, pragma, read_meta, require_format

PAGE = 500


async def verify(settings: Settings) -> list[Damage]:
    """All damage of the store that the settings name. The hub may run meanwhile.

    Raises:
        StartError: there is no store, it is not a hub's, or it needs a newer hub.
    """
    if settings.storage == "sqlite":
        return _verify_file(require_store(settings))
    log = await open_storage(settings)
    try:
        return await _verify_log(log)
    finally:
        await log.close()


def _verify_file(database: Path) -> list[Damage]:
    with (
        closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection,
        database_as_start_error(f"database {database}"),
    ):
        require_format(connection, f"database {database}", to_write=False)
        return list(everything(connection))


async def _verify_log(log: Log) -> list[Damage]:
    found: list[Damage] = []
    after, last = 0, (await log.bounds()).last
    while after < last:
        try:
            page = await log.read(after, PAGE)
        except HubError as error:
            return [*found, Damage(after + 1, "state", f"or after it: {error.message}")]
        found += [
            Damage(entry.position, "event", "does not match its checksum, or is gone")
            for entry in page.entries
            if entry.kind.name == "DAMAGED"
        ]
        after = page.through
    return found


class BackupFile:
    """A backup that is searched for entries that a store has lost.

    Attributes:
        trouble: why it cannot be used; "" if it is sound.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.trouble = ""
        self._epoch = 0
        self._positions: frozenset[int] = frozenset()

    def check(self, positions: Sequence[int]) -> None:
        """Check it, and find out which of some positions it has."""
        try:
            uri = f"{self.file.absolute().as_uri()}?mode=ro&immutable=1"
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
                self._read(connection, positions)
        except (sqlite3.Error, Damaged, ValueError, TypeError) as error:
            self.trouble = f"it is damaged: {error}"

    def _read(self, connection: sqlite3.Connection, positions: Sequence[int]) -> None:
        if pragma(connection, "application_id") != BACKUP_ID:
            self.trouble = "it is not a backup"
            return
        says = msgspec.convert(dict(connection.execute("SELECT name, value FROM backup")), Backup)
        if digest(connection) != says.digest:
            self.trouble = "it is damaged: its content does not match its digest"
            return
        self._epoch = read_meta(connection).epoch
        found = connection.execute(
            "SELECT position FROM entries WHERE position IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode(list(positions)).decode(),),
        )
        self._positions = frozenset(position for (position,) in found)

    def has(self, position: int, epoch: int) -> bool:
        """Whether it has the entry at a position of the log with this epoch."""
        return not self.trouble and self._epoch == epoch and position in self._positions


def report(settings: Settings, damages: Sequence[Damage], files: Sequence[Path]) -> Iterator[str]:
    """Lines for a person: each damaged entry, with the backups that have it; then what is wrong with a backup."""
    positions = [damage.position for damage in damages if damage.position]
    backups = [BackupFile(file) for file in files]
    for backup in backups:
        backup.check(positions)
    epoch = _epoch(settings)
    for damage in damages:
        having = [str(backup.file) for backup in backups if backup.has(damage.position, epoch)]
        sound = [str(backup.file) for backup in backups if not backup.trouble]
        where = having if damage.position else sound
        yield f"{describe(damage)}: " + (f"sound in {', '.join(where)}" if where else "in no backup that was looked at")
    for backup in backups:
        if backup.trouble:
            yield f"{backup.file}: {backup.trouble}"


def _epoch(settings: Settings) -> int:
    """The epoch of the store's log; 0 if it cannot be read."""
    if settings.storage != "sqlite":
        return 0
    database = require_store(settings)
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection:
        try:
            return read_meta(connection).epoch
        except (sqlite3.Error, Damaged, ValueError, TypeError):
            return 0
