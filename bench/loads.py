"""The load on the hub and on its floor: raw bytes over grpc.aio, counted without being parsed."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import msgspec

from bench import centrifugo, events
from bench.jobs import CatchUp, Emit, Idle, Live, Outcome, Stream
from bench.servers import channel

Go = Callable[[], Awaitable[None]]
"""Says that all is ready and waits for the word to go."""

SAMPLE = 20_000
"""Latencies kept at most."""


def metadata(key: str) -> list[tuple[str, str]]:
    """What a caller with this key sends along."""
    return [("authorization", f"Bearer {key}")] if key else []


class Reader:
    """One stream, read until it has had its events."""

    def __init__(self, connection: grpc.aio.Channel, method: str, stream: Stream) -> None:
        self.events = self.frames = self.bytes = 0
        self.channel = connection
        self._stream = stream
        self._method: Any = self.channel.unary_stream(method)
        self.call: Any = None

    async def open(self) -> bytes:
        """Open the stream; returns its first frame."""
        self.call = self._method(self._stream.request, metadata=metadata(self._stream.key))
        return await self._next()

    async def read(self, seen: Callable[[bytes], None] | None = None) -> None:
        """Read on until the events are there."""
        while self.events < self._stream.events:
            data = await self._next()
            found = data.count(events.MARKER)
            if found:
                self.events += found
                self.frames += 1
                self.bytes += len(data)
                if seen is not None:
                    seen(data)

    async def _next(self) -> bytes:
        data = await self.call.read()
        if data is grpc.aio.EOF:
            raise EOFError(f"the stream ended after {self.events} of {self._stream.events} events")
        found: bytes = data
        return found

    async def drain(self) -> None:
        """Read whatever comes, forever."""
        while True:
            await self._next()

    async def all(self) -> None:
        """Open it, and read all of it."""
        await self.count_first()
        await self.read()

    async def count_first(self) -> None:
        """Open it; the first frame counts where it has events (the floor's)."""
        found = (await self.open()).count(events.MARKER)
        if found:
            self.events, self.frames = found, 1


async def opened(stack: AsyncExitStack, target: str, method: str, streams: list[Stream]) -> list[Reader]:
    """A reader for each stream, connected."""
    readers = [Reader(channel(target), method, stream) for stream in streams]
    for reader in readers:
        await stack.enter_async_context(reader.channel)
    await asyncio.gather(*(reader.channel.channel_ready() for reader in readers))
    return readers


async def catch_up(job: CatchUp, go: Go) -> Outcome:
    """All streams at once, until each has had its events."""
    os.nice(job.nice)
    async with AsyncExitStack() as stack:
        readers = await opened(stack, job.target, job.method, job.streams)
        await go()
        began, cpu = time.perf_counter(), time.process_time()
        failures = await finish([reader.all() for reader in readers], job.seconds)
        return outcome(readers, began, cpu, failures)


def outcome(readers: list[Reader], began: float, cpu: float, failures: list[str]) -> Outcome:
    """What some readers have seen until now."""
    return Outcome(
        events=sum(reader.events for reader in readers),
        messages=sum(reader.frames for reader in readers),
        bytes=sum(reader.bytes for reader in readers),
        seconds=time.perf_counter() - began,
        cpu=time.process_time() - cpu,
        failures=failures,
    )


async def finish(works: list[Any], seconds: float) -> list[str]:
    """Wait for all, within a time; tells what failed."""
    tasks = [asyncio.ensure_future(work) for work in works]
    _, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [f"{type(error).__name__}: {error}"[:300] for error in results if isinstance(error, BaseException)][:5]


class Emitter:
    """Sends prepared requests, so many in flight, at a rate or as fast as they are answered."""

    def __init__(self, job: Emit) -> None:
        self._job = job
        size = max(1, job.batch)
        firsts = range(job.first, job.first + job.calls * size, size)
        self._requests = [prepared(job, first) for first in firsts]
        self.channel = channel(job.target)
        self._call: Any = self.channel.unary_unary(job.method)
        self._metadata = metadata(job.key)
        self._next: Iterator[int] = iter(range(job.calls))
        self.sent: list[float] = [0.0] * job.calls
        self.latencies: list[float] = []

    async def run(self) -> None:
        """Send them all."""
        began = time.perf_counter()
        await asyncio.gather(*(self._send(began) for _ in range(self._job.in_flight)))

    async def _send(self, began: float) -> None:
        for number in self._next:
            if self._job.rate:
                await asyncio.sleep(max(0.0, began + number / self._job.rate - time.perf_counter()))
            sent = self.sent[number] = time.perf_counter()
            await self._call(self._requests[number], metadata=self._metadata, timeout=self._job.seconds)
            self.latencies.append(time.perf_counter() - sent)


def prepared(job: Emit, first: int) -> bytes:
    """One of the job's requests: its events from this number on."""
    if job.published:
        each = [events.event(first + number).SerializeToString() for number in range(max(1, job.batch))]
        return centrifugo.batch(each) if job.batch else centrifugo.publish(each[0])
    if job.ready:
        return events.frame(first, max(1, job.batch))
    return events.emit_request(first, job.batch)


def sample(values: list[float]) -> list[float]:
    """Sorted, and not too many."""
    return sorted(values)[:: max(1, len(values) // SAMPLE)]


async def emit(job: Emit, go: Go) -> Outcome:
    """Nothing but calls."""
    emitter = Emitter(job)
    async with emitter.channel:
        await emitter.channel.channel_ready()
        await go()
        began, cpu = time.perf_counter(), time.process_time()
        failures = await finish([emitter.run()], job.seconds)
        calls = len(emitter.latencies)
        return Outcome(
            events=calls * max(1, job.batch),
            messages=calls,
            seconds=time.perf_counter() - began,
            cpu=time.process_time() - cpu,
            latencies=sample(emitter.latencies),
            failures=failures,
        )


async def live(job: Live, go: Go) -> Outcome:
    """Streams that follow what is emitted beside them; latencies are from sending a request to reading its event."""
    emitter = Emitter(job.emit)
    latencies: list[float] = []

    def seen(data: bytes) -> None:
        now = time.perf_counter()
        latencies.extend(now - emitter.sent[number - job.emit.first] for number in events.numbers_in(data))

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(emitter.channel)
        readers = await opened(stack, job.target, job.method, job.streams)
        await asyncio.gather(emitter.channel.channel_ready(), *(reader.open() for reader in readers))
        await go()
        began, cpu = time.perf_counter(), time.process_time()
        wanted = seen if job.emit.batch == 0 else None
        failures = await finish([emitter.run(), *(reader.read(wanted) for reader in readers)], job.seconds)
        result = outcome(readers, began, cpu, failures)
        return msgspec.structs.replace(result, latencies=sample(latencies))


async def idle(job: Idle, go: Go) -> Outcome:
    """Streams that are opened at once and held; whether they are read is up to the job."""
    channels = [channel(job.target) for _ in range(0, len(job.streams), job.shared)]
    readers = [Reader(channels[n // job.shared], job.method, one) for n, one in enumerate(job.streams)]
    began, cpu = time.perf_counter(), time.process_time()
    failures = await finish([reader.open() for reader in readers], job.seconds)
    result = outcome(readers, began, cpu, failures)
    reading = [asyncio.create_task(reader.drain()) for reader in readers if job.reads]
    await go()
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    for one in channels:
        await one.close()
    return result
