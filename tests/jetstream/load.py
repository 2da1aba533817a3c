"""Writers that never give up, and what must be true of the log in the end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from hub.errors import StorageUnavailable
from hub.model import Appended, Entry
from hub.storage import Log
from tests.contract.stores import event, read_all

_AGAIN = 0.05
PATIENCE = 60.0


class Load:
    """Events that keep coming, at each replica.

    Attributes:
        acknowledged: by id, where the log said that the event stands.
        refused: how often an append was refused and tried again.
    """

    def __init__(self, logs: Sequence[Log]) -> None:
        self.logs = logs
        self.acknowledged: dict[str, int] = {}
        self.refused = 0
        self._stopped = False
        self._grown = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write for as long as this lasts, then bring what was begun to its end."""
        writers = [asyncio.create_task(self._write(n)) for n in range(len(self.logs) * 4)]
        try:
            yield
        finally:
            self._stopped = True
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*writers)

    async def more(self, count: int) -> None:
        """Wait until so many more events were acknowledged."""
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(PATIENCE):
            while len(self.acknowledged) < wanted:
                self._grown.clear()
                await self._grown.wait()

    async def _write(self, writer: int) -> None:
        log = self.logs[writer % len(self.logs)]
        number = 0
        while not self._stopped:
            entries = [event(f"w{writer}-{number}-{n}", time=number) for n in range(1 + number % 3)]
            for entry, appended in zip(entries, await self._append(log, entries), strict=True):
                self.acknowledged[entry.id] = appended.position
            self._grown.set()
            number += 1

    async def _append(self, log: Log, entries: list[Entry]) -> list[Appended]:
        """Whatever was refused may be in the log or not: the same again is safe."""
        while True:
            try:
                return await log.append(entries)
            except StorageUnavailable:
                self.refused += 1
                await asyncio.sleep(_AGAIN)

    async def check(self) -> None:
        """Every acknowledged event stands where it was said, once; all replicas have the same log, in one order."""
        last = max(self.acknowledged.values())
        entries: list[list[Entry]] = []
        for log in self.logs:
            async with asyncio.timeout(PATIENCE):
                while (await log.bounds()).last < last:  # noqa: ASYNC110  what another replica knows is not told here
                    await asyncio.sleep(_AGAIN)
                entries.append([entry for entry in await read_all(log) if entry.position <= last])
        assert all(others == entries[0] for others in entries)
        found = {entry.id: entry.position for entry in entries[0]}
        assert len(found) == len(entries[0]), "an event stands twice in the log"
        lost = {id_: at for id_, at in self.acknowledged.items() if found.get(id_) != at}
        assert lost == {}
