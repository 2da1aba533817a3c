"""What the contract suite needs of a backend: a store that can be opened, closed, and opened again."""

from pathlib import Path
from typing import Any, Protocol

from hub.config import Settings
from hub.model import Entry, Kind
from hub.storage import Log
from hub.storage.sqlite import SqliteLog


def settings_for(directory: Path, **values: Any) -> Settings:  # noqa: ANN401  any setting of the hub
    """The settings of a hub in a directory."""
    return Settings.model_validate({"data_dir": directory, **values})


class Store(Protocol):
    """One store of a backend, empty at first. `open` may be called again once what it gave was closed."""

    async def open(self, **settings: Any) -> Log:  # noqa: ANN401  any setting of the hub
        """Open it with settings that differ from the defaults."""
        ...

    async def close(self) -> None:
        """Close whatever is still open."""
        ...


class SqliteStore:
    """A store in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: list[SqliteLog] = []

    async def open(self, **settings: Any) -> SqliteLog:  # noqa: ANN401  any setting of the hub
        """See `Store.open`."""
        log = await SqliteLog.open(settings_for(self._directory, **settings))
        self._opened.append(log)
        return log

    async def close(self) -> None:
        """See `Store.close`."""
        for log in self._opened:
            await log.close()


def event(id_: str = "", body: bytes = b"body", time: int = 1_000, guild_id: int = 7, event_type: int = 10) -> Entry:
    """An event, with what a test does not care about filled in."""
    return Entry(Kind.EVENT, time, body, id=id_, event_type=event_type, guild_id=guild_id)


def state(key: str, body: bytes = b"{}", time: int = 1_000) -> Entry:
    """A state entry, with what a test does not care about filled in."""
    return Entry(Kind.STATE, time, body, key=key)


async def read_all(log: Log, after: int = 0, limit: int = 500, kinds: frozenset[Kind] | None = None) -> list[Entry]:
    """The log from a position to its end, by pages."""
    entries: list[Entry] = []
    last = (await log.bounds()).last
    while after < last:
        page = await log.read(after, limit, kinds)
        assert page.through > after, "a page that gets nowhere"
        assert len(page.entries) <= limit
        entries += page.entries
        after = page.through
    return entries
