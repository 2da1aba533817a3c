"""What the contract suite needs of a backend: a store that can be opened, closed, and opened again."""

import json
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from hub.config import Settings
from hub.model import Entry, Kind
from hub.storage import MAX_APPEND, Log
from hub.storage.jetstream.connection import NatsConnection
from hub.storage.jetstream.log import JetStreamLog
from hub.storage.jetstream.stream import REPLY_TIMEOUT, NatsStream
from hub.storage.sqlite.log import SqliteLog
from tests.support.nats_servers import shared


def settings_for(directory: Path, **values: Any) -> Settings:  # noqa: ANN401  any setting of the hub
    """The settings of a hub in a directory."""
    return Settings.model_validate({"data_dir": directory, **values})


def checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as the hub holds them: ``model_copy`` itself checks nothing."""
    whole = Settings.model_validate(settings)
    return {name: getattr(whole, name) for name in settings}


class Store(Protocol):
    """One store of a backend, empty at first. `open` may be called again once what it gave was closed."""

    async def open(self, **settings: Any) -> Log:  # noqa: ANN401  any setting of the hub
        """Open it with settings that differ from the defaults."""
        ...

    async def lose(self, position: int) -> None:
        """Lose an event behind the hub's back, as a bad disk does."""
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

    async def lose(self, position: int) -> None:
        """See `Store.lose`."""
        with closing(sqlite3.connect(self._directory / "hub.db", isolation_level=None)) as connection:
            connection.execute("DELETE FROM entries WHERE position = ?", (position,))

    async def close(self) -> None:
        """See `Store.close`."""
        for log in self._opened:
            await log.close()


async def remove_streams(url: str, prefix: str) -> None:
    """Leave nothing of the logs whose streams' names begin so."""
    wire = await NatsConnection.connect(Settings.model_validate({"storage": url}))
    listed = json.loads((await wire.request("$JS.API.STREAM.NAMES", time_limit=REPLY_TIMEOUT)).data)
    for name in listed["streams"] or ():
        if name.startswith(prefix):
            await NatsStream(wire, name).call("STREAM.DELETE")
    await wire.close()


class JetStreamStore:
    """A store in streams of its own of the shared NATS server; they are removed at the end."""

    def __init__(self, directory: Path) -> None:
        self._settings = settings_for(directory, storage=shared().url, nats_stream=f"T{secrets.token_hex(8)}")
        self._opened: list[JetStreamLog] = []

    async def open(self, **settings: Any) -> JetStreamLog:  # noqa: ANN401  any setting of the hub
        """See `Store.open`."""
        log = await JetStreamLog.open(self._settings.model_copy(update=checked(settings)))
        self._opened.append(log)
        return log

    async def lose(self, position: int) -> None:
        """See `Store.lose`."""
        await self._opened[-1]._replica.stream.overwrite(position)

    async def close(self) -> None:
        """See `Store.close`."""
        for log in self._opened:
            await log.close()
        await remove_streams(self._settings.storage, self._settings.nats_stream)


def event(id_: str = "", body: bytes = b"body", time: int = 1_000, guild_id: int = 7, event_type: int = 10) -> Entry:
    """An event, with what a test does not care about filled in."""
    return Entry(Kind.EVENT, time, body, id=id_, event_type=event_type, guild_id=guild_id)


def state(key: str, body: bytes = b"{}", time: int = 1_000) -> Entry:
    """A state entry, with what a test does not care about filled in."""
    return Entry(Kind.STATE, time, body, key=key)


async def append_all(log: Log, entries: Sequence[Entry]) -> None:
    """Append more than one call takes."""
    for start in range(0, len(entries), MAX_APPEND):
        await log.append(entries[start : start + MAX_APPEND])


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
