"""Following a stream: every message after a position, in order and without a gap.

One ordered consumer at a time numbers its deliveries, so that a lost message shows at the next delivery or heartbeat.
Then, or when the consumer falls silent, a new consumer continues after the last message in order.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from hub.storage.jetstream.connection import Message, NoReply, Stop
from hub.storage.jetstream.stream import ApiError, NatsStream, StoredMessage

SIGN_OF_LIFE = 0.5
"""Seconds without a message after which the server sends a heartbeat."""
SILENCE = 2.0
"""Seconds of silence after which a consumer is replaced."""
_AGAIN = 0.2
_PAGE = 1_000
_FORGOTTEN_AFTER = 30
_NANOSECONDS = 1_000_000_000

log = structlog.get_logger(__name__)

Take = Callable[[list[StoredMessage]], None]


class Delivery:
    """One consumer, from its creation until it breaks.

    Attributes:
        waiting: how many messages it still had to deliver, as of the last one that came; known once it was made.
        broken: set when something was lost, or all may have been.
    """

    def __init__(self, stream: NatsStream, take: Take) -> None:
        self.waiting = 0
        self.broken = asyncio.Event()
        self.last_message = 0.0
        self._stream = stream
        self._take = take
        self._name = f"hub-{secrets.token_hex(8)}"
        self._count = 0
        self._batch: list[StoredMessage] = []
        self._stop: Stop | None = None
        self._loop = asyncio.get_running_loop()

    async def begin(self, subject: str, start: dict[str, object]) -> None:
        """Create the consumer. `start`: its deliver policy.

        Raises:
            NoReply, ApiError: it could not be created.
        """
        self._stream.connection.on_restart.add(self.broken.set)
        inbox, self._stop = await self._stream.connection.subscribe(self._on_message)
        config = {
            "name": self._name,
            "deliver_subject": inbox,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": round(SIGN_OF_LIFE * _NANOSECONDS),
            "inactive_threshold": _FORGOTTEN_AFTER * _NANOSECONDS,
            "mem_storage": True,
            "num_replicas": 1,
            "filter_subject": subject,
            **start,
        }
        self.last_message = self._loop.time()
        body = {"stream_name": self._stream.name, "config": config, "action": "create"}
        made = await self._stream.call(f"CONSUMER.CREATE/{self._name}", body)
        if not self._count:
            self.waiting = int(made["num_pending"])

    async def end(self) -> None:
        """Delete the consumer."""
        self._stream.connection.on_restart.discard(self.broken.set)
        if self._stop is not None:
            await self._stop()
            try:
                await self._stream.connection.send(f"$JS.API.CONSUMER.DELETE.{self._stream.name}.{self._name}", b"")
            except NoReply:
                log.debug("a consumer was not deleted: the server removes it later", consumer=self._name)

    async def until_broken(self) -> None:
        """Wait until the consumer has lost a message or falls silent."""
        while not self.broken.is_set():
            left = self.last_message + SILENCE - self._loop.time()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    await self.broken.wait()
            except TimeoutError:
                continue

    def _on_message(self, message: Message) -> None:
        if self.broken.is_set():
            return
        self.last_message = self._loop.time()
        headers = message.headers or {}
        if "Status" in headers:
            self._on_status(headers, message.reply)
            return
        position, count, self.waiting = _numbers(message.reply)
        if count != self._count + 1:
            self._break(f"{count - self._count - 1} messages were lost")
            return
        self._count = count
        if not self._batch:
            self._loop.call_soon(self._hand_over)
        self._batch.append(StoredMessage(position, message.subject, headers, message.data))

    def _on_status(self, headers: dict[str, str], reply: str) -> None:
        """A heartbeat says how far the consumer has delivered; a flow control request needs a reply."""
        if headers["Status"] != "100":
            self._break(f"the consumer ended: {headers.get('Description', '')}")
        elif int(headers.get("Nats-Last-Consumer", self._count)) != self._count:
            self._break("the last messages were lost")
        elif reply := reply or headers.get("Nats-Consumer-Stalled", ""):
            task = self._loop.create_task(self._stream.connection.send(reply, b""))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _break(self, why: str) -> None:
        log.debug("a delivery broke off", stream=self._stream.name, why=why)
        self.broken.set()

    def _hand_over(self) -> None:
        """Pass on the messages of one turn of the event loop together."""
        batch, self._batch = self._batch, []
        self._take(batch)


class StreamFollower:
    """Passes every message after a position to `take`, once and in order, until it is cancelled."""

    def __init__(self, stream: NatsStream, after: int, take: Take, *, newest_first: bool = False) -> None:
        """`newest_first`: begin with the newest message of each subject, whatever `after` says."""
        self._stream = stream
        self._after = after
        self._pass_on = take
        self._newest_first = newest_first

    async def run(self) -> None:
        """Follow the stream until cancelled."""
        while True:
            delivery = Delivery(self._stream, self._take)
            try:
                await self._begin(delivery)
                await delivery.until_broken()
            except (NoReply, ApiError) as error:
                log.debug("following again in a moment", stream=self._stream.name, error=str(error))
                await asyncio.sleep(_AGAIN)
            finally:
                await delivery.end()

    async def _begin(self, delivery: Delivery) -> None:
        """Create a consumer, and read pages until it exists: creating one needs a leader, reading a page does not."""
        polling = asyncio.create_task(self._poll())
        try:
            await delivery.begin(">", self._start())
        finally:
            polling.cancel()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(_AGAIN)
            if self._newest_first and not self._after:
                continue
            with suppress(NoReply, ApiError):
                listing = await self._stream.page(self._after + 1, _PAGE)
                self._take(listing.messages)

    def _start(self) -> dict[str, object]:
        if self._newest_first and not self._after:
            return {"deliver_policy": "last_per_subject"}
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": self._after + 1}

    def _take(self, batch: list[StoredMessage]) -> None:
        fresh = [stored for stored in batch if stored.position > self._after]
        if fresh:
            self._after = fresh[-1].position
            self._pass_on(fresh)


async def newest(stream: NatsStream, subject: str) -> list[StoredMessage]:
    """The newest message of each matching subject, as one replica of the stream has them.

    Raises:
        NoReply, ApiError: they could not be read.
    """
    found: list[StoredMessage] = []
    arrived = asyncio.Event()

    def take(batch: list[StoredMessage]) -> None:
        found.extend(batch)
        arrived.set()

    delivery = Delivery(stream, take)
    try:
        await delivery.begin(subject, {"deliver_policy": "last_per_subject"})
        wanted = delivery.waiting
        while len(found) < wanted:
            arrived.clear()
            try:
                async with asyncio.timeout(SILENCE):
                    await arrived.wait()
            except TimeoutError:
                raise NoReply("the newest messages were cut off") from None
    finally:
        await delivery.end()
    return found


def _numbers(reply: str) -> tuple[int, int, int]:
    """Read a delivered message's reply subject, as NATS' ADR-15 defines it.

    Returns the position in the stream, the number of this delivery by its consumer, and how many are still pending.
    """
    tokens: list[Any] = reply.split(".")
    at = 5 if len(tokens) == 9 else 7
    return int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 3])
