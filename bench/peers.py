"""The load on the usual alternatives: NATS JetStream by nats-py, Redis Streams by bare RESP."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Any

import nats
from nats.js.api import StreamConfig

from bench import events
from bench.jobs import NatsConsume, NatsPublish, Outcome, RedisAdd, RedisRead
from bench.loads import Go, finish, sample

FILL = 500
"""Events in flight while a stream is filled; not measured."""

REDIS_PAGE = 100
_HEADER_LINES, _ENTRY_LINES = 5, 8
"""Lines of an XREAD reply of one stream, before its entries and for each entry of one field."""


def bodies(count: int, first: int = 0) -> list[bytes]:
    """The same events that the hub gets, as opaque bytes."""
    return [events.event(first + number).SerializeToString() for number in range(count)]


async def nats_consume(job: NatsConsume, go: Go) -> Outcome:
    """Ordered consumers, each of which gets all events of one stream."""
    client = await nats.connect(job.target)
    stream = client.jetstream(publish_async_max_pending=FILL)
    name = f"catchup{time.time_ns()}"
    await stream.add_stream(StreamConfig(name=name, subjects=[name], allow_atomic=True))
    for start in range(0, job.events, FILL):
        await _publish_atomic(client, name, bodies(min(FILL, job.events - start), start))
    counts = [0] * job.consumers
    ends = [asyncio.Event() for _ in counts]

    def handler(index: int) -> Any:  # noqa: ANN401  a coroutine function
        async def count(_: Any) -> None:  # noqa: ANN401  nats-py's message
            counts[index] += 1
            if counts[index] == job.events:
                ends[index].set()

        return count

    await go()
    began, cpu = time.perf_counter(), time.process_time()
    for index in range(job.consumers):
        await stream.subscribe(name, cb=handler(index), ordered_consumer=True)
    failures = await finish([end.wait() for end in ends], job.seconds)
    result = _outcome(sum(counts), sum(counts), began, cpu, failures)
    await stream.delete_stream(name)
    await client.close()
    return result


async def nats_publish(job: NatsPublish, go: Go) -> Outcome:
    """Publish and wait for the acknowledgement of the stream."""
    client = await nats.connect(job.target)
    stream = client.jetstream()
    name = f"ingest{time.time_ns()}"
    await stream.add_stream(StreamConfig(name=name, subjects=[name], allow_atomic=True))
    size = max(1, job.batch)
    work = iter([bodies(size, number * size) for number in range(job.calls)])
    latencies: list[float] = []

    async def send() -> None:
        for batch in work:
            sent = time.perf_counter()
            if job.batch:
                await _publish_atomic(client, name, batch)
            else:
                await stream.publish(name, batch[0])
            latencies.append(time.perf_counter() - sent)

    await go()
    began, cpu = time.perf_counter(), time.process_time()
    failures = await finish([send() for _ in range(job.in_flight)], job.seconds)
    result = _outcome(len(latencies) * size, len(latencies), began, cpu, failures, latencies)
    await stream.delete_stream(name)
    await client.close()
    return result


async def _publish_atomic(client: Any, name: str, batch: list[bytes]) -> None:  # noqa: ANN401  nats.NATS
    """One atomic batch: all but its last message go without waiting."""
    headers = {"Nats-Batch-Id": uuid.uuid4().hex}
    for number, body in enumerate(batch[:-1], 1):
        await client.publish(name, body, headers={**headers, "Nats-Batch-Sequence": str(number)})
    last = {**headers, "Nats-Batch-Sequence": str(len(batch)), "Nats-Batch-Commit": "1"}
    reply = await client.request(name, batch[-1], timeout=30, headers=last)
    if b'"error"' in reply.data:
        raise RuntimeError(reply.data.decode()[:200])


def command(*words: bytes) -> bytes:
    """A command as Redis reads it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Redis:
    """One connection. A reply is complete once it has its number of lines; no value here adds a line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, target: str) -> "Redis":
        """Connect to host:port."""
        host, port = target.split(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def ask(self, data: bytes, lines: int) -> bytes:
        """Send commands, and read until so many lines have come."""
        self._writer.write(data)
        found = b""
        while (missing := lines - found.count(b"\r\n")) > 0 or not found.endswith(b"\r\n"):
            more = await self._reader.read(1 << 20)
            if not more or (not found and more[:1] == b"-"):
                raise RuntimeError(f"redis: {(found + more)[:200]!r}, {missing} lines were missing")
            found += more
        return found

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._writer.wait_closed()


def _adds(name: bytes, batch: list[bytes]) -> tuple[bytes, int]:
    """Commands that add a batch, and the lines of their replies: in one MULTI where it is more than one."""
    adds = [command(b"XADD", name, b"*", b"e", body.replace(b"\r\n", b"..")) for body in batch]
    if len(batch) == 1:
        return adds[0], 2
    return command(b"MULTI") + b"".join(adds) + command(b"EXEC"), 1 + len(batch) + 1 + 2 * len(batch)


async def redis_read(job: RedisRead, go: Go) -> Outcome:
    """Connections that read all of one stream, a page at a time."""
    name = b"catchup%d" % time.time_ns()
    first = await Redis.connect(job.target)
    for start in range(0, job.events, FILL):
        await first.ask(*_adds(name, bodies(min(FILL, job.events - start), start)))
    connections = [await Redis.connect(job.target) for _ in range(job.consumers)]
    replies = [0]

    async def read(connection: Redis) -> None:
        after, left = b"0", job.events
        while left > 0:
            lines = _HEADER_LINES + _ENTRY_LINES * min(REDIS_PAGE, left)
            asked = command(b"XREAD", b"COUNT", b"%d" % REDIS_PAGE, b"STREAMS", name, after)
            reply = await connection.ask(asked, lines)
            after = reply.split(b"\r\n")[-7]  # the last entry: *2 $ ID *2 $ FIELD $ VALUE
            left -= min(REDIS_PAGE, left)
            replies[0] += 1

    await go()
    began, cpu = time.perf_counter(), time.process_time()
    failures = await finish([read(connection) for connection in connections], job.seconds)
    result = _outcome(job.events * job.consumers, replies[0], began, cpu, failures)
    for connection in (first, *connections):
        await connection.close()
    return result


async def redis_add(job: RedisAdd, go: Go) -> Outcome:
    """Connections that add, each waiting for its reply."""
    name = b"ingest%d" % time.time_ns()
    size = max(1, job.batch)
    work: Iterator[tuple[bytes, int]] = iter([_adds(name, bodies(size, n * size)) for n in range(job.calls)])
    connections = [await Redis.connect(job.target) for _ in range(job.in_flight)]
    latencies: list[float] = []

    async def send(connection: Redis) -> None:
        for asked, lines in work:
            sent = time.perf_counter()
            await connection.ask(asked, lines)
            latencies.append(time.perf_counter() - sent)

    await go()
    began, cpu = time.perf_counter(), time.process_time()
    failures = await finish([send(connection) for connection in connections], job.seconds)
    result = _outcome(len(latencies) * size, len(latencies), began, cpu, failures, latencies)
    for connection in connections:
        await connection.close()
    return result


def _outcome(  # noqa: PLR0913  what a run amounts to
    count: int, messages: int, began: float, cpu: float, failures: list[str], latencies: list[float] | None = None
) -> Outcome:
    return Outcome(
        events=count,
        messages=messages,
        seconds=time.perf_counter() - began,
        cpu=time.process_time() - cpu,
        latencies=sample(latencies or []),
        failures=failures,
    )
