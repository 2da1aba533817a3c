"""Following a stream: every message after a place, in order, without a gap, for as long as it takes.

One ordered consumer at a time: it numbers what it delivers, so that a lost message shows at the next one, or at the
next sign of life. Then, as when it falls silent, another one goes on behind the last message that came in order.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import structlog

from hub.storage._jetstream_api import ApiError, Stored, Stream
from hub.storage._jetstream_wire import Message, NoAnswer, Stop

SIGN_OF_LIFE = 1.0
"""Seconds of nothing after which the server says that there is nothing."""
SILENCE = 3.0
"""Seconds of silence after which a consumer is given up."""
_AGAIN = 0.2
_FORGOTTEN_AFTER = 30
_NANOSECONDS = 1_000_000_000

log = structlog.get_logger(__name__)

Take = Callable[[list[Stored]], None]


class Delivery:
    """One consumer, from its making until it breaks.

    Attributes:
        waiting: how many messages it still had to deliver, as of the last one that came; known once it was made.
        broken: set when something was lost, or all may have been.
    """

    def __init__(self, stream: Stream, take: Take) -> None:
        self.waiting = 0
        self.broken = asyncio.Event()
        self.heard = 0.0
        self._stream = stream
        self._take = take
        self._name = f"hub-{secrets.token_hex(8)}"
        self._count = 0
        self._batch: list[Stored] = []
        self._stop: Stop | None = None
        self._loop = asyncio.get_running_loop()

    async def begin(self, subject: str, start: dict[str, object]) -> None:
        """Make the consumer. `start`: its deliver policy.

        Raises:
            NoAnswer, ApiError: it could not be made.
        """
        self._stream.wire.on_reconnect.add(self.broken.set)
        inbox, self._stop = await self._stream.wire.subscribe(self._on_message)
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
        self.heard = self._loop.time()
        body = {"stream_name": self._stream.name, "config": config, "action": "create"}
        made = await self._stream.call(f"CONSUMER.CREATE/{self._name}", body)
        if not self._count:
            self.waiting = int(made["num_pending"])

    async def end(self) -> None:
        """Let go of the consumer."""
        self._stream.wire.on_reconnect.discard(self.broken.set)
        if self._stop is not None:
            await self._stop()
            try:
                await self._stream.wire.send(f"$JS.API.CONSUMER.DELETE.{self._stream.name}.{self._name}", b"")
            except NoAnswer:
                log.debug("a consumer is left to be forgotten", consumer=self._name)

    async def until_broken(self) -> None:
        """Wait until this consumer is of no more use."""
        while not self.broken.is_set():
            left = self.heard + SILENCE - self._loop.time()
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
        self.heard = self._loop.time()
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
        self._batch.append(Stored(position, message.subject, headers, message.data))

    def _on_status(self, headers: dict[str, str], reply: str) -> None:
        """A sign of life tells how far it delivered; a request for flow control wants an answer."""
        if headers["Status"] != "100":
            self._break(f"the consumer ended: {headers.get('Description', '')}")
        elif int(headers.get("Nats-Last-Consumer", self._count)) != self._count:
            self._break("the last messages were lost")
        elif reply := reply or headers.get("Nats-Consumer-Stalled", ""):
            task = self._loop.create_task(self._stream.wire.send(reply, b""))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _break(self, why: str) -> None:
        log.debug("a delivery broke off", stream=self._stream.name, why=why)
        self.broken.set()

    def _hand_over(self) -> None:
        """What came in one go, in one go."""
        batch, self._batch = self._batch, []
        self._take(batch)


class Follower:
    """Hands every message of a stream after a place to `take`, in order and once, until it is cancelled."""

    def __init__(self, stream: Stream, after: int, take: Take, *, newest_first: bool = False) -> None:
        """`newest_first`: begin with the newest message of each subject, whatever `after` says."""
        self._stream = stream
        self._after = after
        self._pass_on = take
        self._newest_first = newest_first

    async def run(self) -> None:
        """Follow. Ends by cancellation."""
        while True:
            delivery = Delivery(self._stream, self._take)
            try:
                await delivery.begin(">", self._start())
                await delivery.until_broken()
            except (NoAnswer, ApiError) as error:
                log.debug("following again in a moment", stream=self._stream.name, error=str(error))
                await asyncio.sleep(_AGAIN)
            finally:
                await delivery.end()

    def _start(self) -> dict[str, object]:
        if self._newest_first and not self._after:
            return {"deliver_policy": "last_per_subject"}
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": self._after + 1}

    def _take(self, batch: list[Stored]) -> None:
        fresh = [stored for stored in batch if stored.position > self._after]
        if fresh:
            self._after = fresh[-1].position
            self._pass_on(fresh)


async def newest(stream: Stream, subject: str) -> list[Stored]:
    """The newest message of each subject that matches, as some replica of the stream has them.

    Raises:
        NoAnswer, ApiError: they could not be had.
    """
    found: list[Stored] = []
    arrived = asyncio.Event()

    def take(batch: list[Stored]) -> None:
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
                raise NoAnswer("the newest messages were cut off") from None
    finally:
        await delivery.end()
    return found


def _numbers(reply: str) -> tuple[int, int, int]:
    """Of a delivered message: its position, which one it is of this consumer, how many wait behind it (ADR-15)."""
    tokens: list[Any] = reply.split(".")
    at = 5 if len(tokens) == 9 else 7
    return int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 3])
