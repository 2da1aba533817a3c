"""Both clients with an outbox, as one kind of bot that a test drives; and what a hub has of their events."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from tickets_hub import AsyncClient, Client, Outbox, OutboxStatus, Policy, Start
from tickets_hub.aio_outbox import AsyncOutboxEmitter
from tickets_hub.outbox_thread import OutboxThread
from tickets_hub.sync_outbox import OutboxEmitter
from tickets_hub.v1.event_pb2 import Event, TicketClosed

from tests.support.real_hub import RealHub

Result = TypeVar("Result")

PATIENCE = 20
POLICY = Policy(first_delay=0.01, max_delay=0.05)


class Bot:
    """A bot on either client; its loop, where it needs one, runs in a thread of its own."""

    def __init__(self, kind: type[AsyncClient] | type[Client], address: str, key: str, outbox: Outbox) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self.client: AsyncClient | Client
        if kind is AsyncClient:
            self.client = AsyncClient(address, key, policy=POLICY, outbox=outbox)
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
            self._wait(self.client.__aenter__())
        else:
            self.client = Client(address, key, policy=POLICY, outbox=outbox)

    def emit(self, event: Event) -> str:
        """Emit one event; its id."""
        if isinstance(self.client, AsyncClient):
            return self._wait(self.client.emit(event)).event_id
        return self.client.emit(event).event_id

    def emit_together(self, events: Sequence[Event]) -> list[str]:
        """Emit events from a task or thread each, begun in this order; their ids."""
        if isinstance(self.client, AsyncClient):
            return self._wait(self._gather(self.client, events))
        client, answers = self.client, [Future[str]() for _ in events]
        threads = [
            threading.Thread(target=lambda e=event, a=answer: a.set_result(client.emit(e).event_id))
            for event, answer in zip(events, answers, strict=True)
        ]
        for thread in threads:
            thread.start()
        return [answer.result(PATIENCE) for answer in answers]

    def emit_once_more(self, event: Event) -> str:
        """Emit after the client was closed, and its loop with it."""
        if isinstance(self.client, AsyncClient):
            return asyncio.run(self.client.emit(event)).event_id
        return self.client.emit(event).event_id

    @property
    def status(self) -> OutboxStatus:
        """How the outbox is doing."""
        return self.client.outbox

    @property
    def file(self) -> OutboxThread:
        """The thread that has the file."""
        assert isinstance(self.client._emitter, AsyncOutboxEmitter | OutboxEmitter)
        return self.client._emitter._file

    def close(self, deadline: float = PATIENCE) -> None:
        """Close the client; with a hub that is there everything is sent then."""
        if isinstance(self.client, Client):
            self.client.close(deadline)
        elif self._loop is not None and self._loop.is_running():
            self._wait(self.client.aclose(deadline))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE)
            self._loop.close()

    async def _gather(self, client: AsyncClient, events: Sequence[Event]) -> list[str]:
        return [answer.event_id for answer in await asyncio.gather(*map(client.emit, events))]

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)


def soon(condition: Callable[[], object]) -> None:
    """Wait until something holds that can only be looked at."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.002)


def stored(hub: RealHub, key: str) -> list[str]:
    """The ids of the events that a hub has by now, oldest first, as a reader gets them."""
    end = hub.bot.emit(Event(guild_id="41", ticket_closed=TicketClosed(message_count=0))).event_id
    found = list[str]()
    with hub.client(key).subscribe(start=Start.earliest()) as events:
        for event in events:
            if event.id == end:
                break
            found.append(event.id)
    return found
