"""Writers that retry, readers that resume, and what must hold for the log in the end."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tickets_hub import Policy, Start
from tickets_hub.aio_client import AsyncClient
from tickets_hub.session import Notice, Reconnecting

from hub.errors import StorageUnavailable
from hub.model import Appended, Entry
from hub.storage import Log
from hub.storage.jetstream.log import JetStreamLog
from tests.support.events import ticket
from tests.support.hubs import RunningHub
from tests.support.nats_servers import PATIENCE
from tests.support.stores import event, read_all

_AGAIN = 0.05
_POLICY = Policy(first_delay=0.05, max_delay=0.5, call_timeout=PATIENCE)


class Writers(ABC):
    """Events that keep coming.

    Attributes:
        acknowledged: by id, what whoever acknowledged the event said of its place.
    """

    def __init__(self, count: int) -> None:
        """`count`: how many write at once."""
        self.acknowledged: dict[str, int] = {}
        self._count = count
        self._stopped = False
        self._grown = asyncio.Event()

    @abstractmethod
    async def write(self, writer: int, number: int) -> dict[str, int]:
        """Have the next events of a writer stored, however long it takes."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write for as long as this lasts, then bring what was begun to its end."""
        writers = [asyncio.create_task(self._go_on(n)) for n in range(self._count)]
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

    async def _go_on(self, writer: int) -> None:
        number = 0
        while not self._stopped:
            self.acknowledged.update(await self.write(writer, number))
            self._grown.set()
            number += 1


class Load(Writers):
    """Events appended at each replica of the log; `acknowledged` has their positions."""

    def __init__(self, logs: Sequence[JetStreamLog]) -> None:
        super().__init__(len(logs) * 4)
        self.logs = logs

    async def write(self, writer: int, number: int) -> dict[str, int]:
        """Append one to three events."""
        entries = [event(f"w{writer}-{number}-{n}", time=number) for n in range(1 + number % 3)]
        appended = await self.append(self.logs[writer % len(self.logs)], entries)
        return {entry.id: one.position for entry, one in zip(entries, appended, strict=True)}

    async def append(self, log: Log, entries: list[Entry]) -> list[Appended]:
        """Whatever was refused may be in the log or not: the same again is safe."""
        while True:
            try:
                return await log.append(entries)
            except StorageUnavailable:
                await asyncio.sleep(_AGAIN)

    async def check(self) -> None:
        """Every acknowledged event stands where it was said, once; all replicas have the same log, in one order."""
        last = max(self.acknowledged.values())
        entries = [[entry for entry in await whole(log, last) if entry.position <= last] for log in self.logs]
        assert all(others == entries[0] for others in entries)
        found = {entry.id: entry.position for entry in entries[0]}
        assert len(found) == len(entries[0]), "an event stands twice in the log"
        lost = {id_: at for id_, at in self.acknowledged.items() if found.get(id_) != at}
        assert lost == {}


class Traffic(Writers):
    """Events emitted at each hub, and a reader of all of them at each; `acknowledged` has their accept times.

    Attributes:
        received: of each hub's reader the ids and accept times, in order.
        broken: why a reader's stream ended, whenever one did.
        seconds: how long each emit took until it was acknowledged.
    """

    def __init__(self, hubs: Sequence[RunningHub], bot: str, reader: str) -> None:
        """`bot`, `reader`: keys."""
        super().__init__(len(hubs) * 2)
        self.received: list[list[tuple[str, int]]] = [[] for _ in hubs]
        self.broken: list[Reconnecting] = []
        self.seconds: list[float] = []
        self._bots = [AsyncClient(hub.address, bot, policy=_POLICY) for hub in hubs]
        self._readers = [AsyncClient(hub.address, reader, policy=_POLICY) for hub in hubs]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """As all writers do; in the end the readers may get what is still missing."""
        readers = [asyncio.create_task(self._read(n)) for n in range(len(self._readers))]
        try:
            async with super().running():
                yield
            async with asyncio.timeout(PATIENCE):
                while min(map(len, self.received)) < len(self.acknowledged):  # noqa: ASYNC110  an end that nobody tells
                    await asyncio.sleep(_AGAIN)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(
                *readers, *(one.aclose() for one in self._bots + self._readers), return_exceptions=True
            )

    async def write(self, writer: int, number: int) -> dict[str, int]:
        """Emit one event; the client repeats what fails."""
        began = time.monotonic()
        reply = await self._bots[writer % len(self._bots)].emit(ticket(f"w{writer}-{number}"))
        self.seconds.append(time.monotonic() - began)
        return {reply.event_id: reply.accept_time.ToMicroseconds()}

    async def _read(self, number: int) -> None:
        events = self._readers[number].subscribe(
            subscription_id=f"reader{number}", start=Start.earliest(), on_notice=self._note
        )
        async for one in events:
            self.received[number].append((one.id, one.accept_time.ToMicroseconds()))

    def _note(self, notice: Notice) -> None:
        if isinstance(notice, Reconnecting):
            self.broken.append(notice)

    def check(self) -> None:
        """Every reader got every acknowledged event, and no other, once, in one order."""
        assert all(others == self.received[0] for others in self.received)
        assert len(self.received[0]) == len(self.acknowledged)
        assert dict(self.received[0]) == self.acknowledged


async def whole(log: Log, last: int) -> list[Entry]:
    """The log, once it goes up to a position; of a replica that stands at one server: that server's copy."""
    async with asyncio.timeout(PATIENCE):
        while (await log.bounds()).last < last:  # noqa: ASYNC110  what another replica knows is not told here
            await asyncio.sleep(_AGAIN)
        return await read_all(log)
