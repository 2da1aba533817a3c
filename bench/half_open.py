"""Half-open calls: what 30,000 calls without a request cost other callers: ``python -m bench half-open``.

The callers write HTTP/2 by hand, each connection up to the calls that a connection may have, and open the next call
when one has ended. Rates are the attempts of all of them together; unpaced they send as fast as they are answered.
"""

import asyncio
import itertools
import statistics
import struct
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench import events, machine, scene, servers
from bench.servers import ROOT, Server, piped

CALLS = 30_000
A_CONNECTION = 1_000
METHOD = b"/tickets.hub.v1.DirectoryService/ListScopes"
EMITS_A_SECOND = 100
SECONDS = 32.0
SCENES = ((1_000, 30), (0, 30), (0, 2))
"""Attempts a second (0 = as fast as they are answered), and over how many connections."""

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
SETTINGS, PING, GOAWAY, RST_STREAM, HEADERS = 4, 6, 7, 3, 1


class Attack(msgspec.Struct, frozen=True):
    """The task of a child process: 30,000 attempts at a pace (0 = none), over connections, with a key or without."""

    target: str
    key: str
    rate: float
    connections: int
    seconds: float


class Seen(NamedTuple):
    """What the bot met, in milliseconds, and the hub's memory in MiB and share of a core.

    Attributes:
        later: the p99 of the second half, when a wave is over.
    """

    p50: float
    p99: float
    later: float
    failed: int
    memory: float
    cpu: float


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def opening(key: str) -> bytes:
    """The header fields of a call."""
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", METHOD), (b":authority", b"hub")]
    fields += [(b"te", b"trailers"), (b"content-type", b"application/grpc")]
    fields += [(b"authorization", b"Bearer " + key.encode())] if key else []
    return b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)


class Flood(asyncio.Protocol):
    """One connection that holds as many half-open calls as it may, and counts those that were ended."""

    def __init__(self, block: bytes) -> None:
        self.open = 0
        self.ended = 0
        self._block = block
        self._streams = itertools.count(1, 2)
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  it is TCP
        self._transport = transport
        transport.write(HELLO)

    def call(self) -> None:
        """Open one call more."""
        self.open += 1
        self._transport.write(frame(HEADERS, 4, next(self._streams), self._block))

    def data_received(self, data: bytes) -> None:
        """Answer settings and pings; note the calls that are ended."""
        data = self._buffer + data
        at = 0
        while len(data) >= at + 9:
            length = int.from_bytes(data[at : at + 3], "big")
            if len(data) < at + 9 + length:
                break
            kind, flags = data[at + 3], data[at + 4]
            if kind == SETTINGS and not flags:
                self._transport.write(frame(SETTINGS, 1, 0))
            elif kind == PING and not flags:
                self._transport.write(frame(PING, 1, 0, data[at + 9 : at + 17]))
            elif kind == RST_STREAM or (kind == HEADERS and flags & 1):
                self.open -= kind == HEADERS
                self.ended += 1
            at += 9 + length
        self._buffer = data[at:]


async def flood(attack: Attack) -> None:
    """Hold the calls, as a child: says what came of them."""
    host, _, port = attack.target.partition(":")
    loop = asyncio.get_running_loop()
    block = opening(attack.key)
    made = [await loop.create_connection(lambda: Flood(block), host, int(port)) for _ in range(attack.connections)]
    floods = [protocol for _, protocol in made]
    print("ready", flush=True)
    began, sent, done = time.monotonic(), 0, 0.0
    while (now := time.monotonic() - began) < attack.seconds:
        due = min(CALLS, round(attack.rate * now) if attack.rate else CALLS) - sent
        done = now if sent < CALLS else done
        for one in floods:
            for _ in range(max(0, min(-(-due // len(floods)), A_CONNECTION - one.open, CALLS - sent))):
                one.call()
                sent += 1
                due -= 1
        await asyncio.sleep(0.005)
    held, ended = sum(one.open for one in floods), sum(one.ended for one in floods)
    print(f"{sent} attempts in {done:.1f} s, {held} open at the end, {ended} ended", flush=True)


async def bot(hub: Server, seconds: float, numbers: "itertools.count[int]") -> Seen:
    """Emit at a steady pace, each on time whatever became of the one before, and look at the hub meanwhile."""
    latencies: list[float] = []
    failed, most = 0, 0
    before = machine.cpu(hub.pid)
    async with servers.channel(hub.target) as channel:
        await channel.channel_ready()
        emit: Any = channel.unary_unary(scene.EMIT)
        metadata = [("authorization", f"Bearer {hub.keys['HUB_BOT_KEY']}")]

        async def once() -> None:
            nonlocal failed
            began = time.perf_counter()
            try:
                await emit(events.emit_request(next(numbers), 0), metadata=metadata, timeout=30)
            except Exception:  # noqa: BLE001  counted
                failed += 1
            latencies.append((time.perf_counter() - began) * 1_000)

        tasks = []
        for _ in range(round(seconds * EMITS_A_SECOND)):
            tasks.append(asyncio.create_task(once()))
            most = max(most, machine.usage(hub.pid).memory)
            await asyncio.sleep(1 / EMITS_A_SECOND)
        await asyncio.gather(*tasks)
    cuts, later = (statistics.quantiles(part, n=100) for part in (latencies, latencies[len(latencies) // 2 :]))
    return Seen(cuts[49], cuts[98], later[98], failed, most / 2**20, (machine.cpu(hub.pid) - before) / seconds)


async def under(hub: Server, attack: Attack, numbers: "itertools.count[int]") -> tuple[Seen, str]:
    """What the bot meets while a child floods the hub."""
    words = [sys.executable, "-m", "bench.half_open"]
    child = await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    try:
        piped(child.stdin).write(msgspec.json.encode(attack) + b"\n")
        await piped(child.stdout).readline()
        seen = await bot(hub, attack.seconds - 1, numbers)
        return seen, (await piped(child.stdout).readline()).decode().strip()
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def measure() -> None:
    """A quiet hub, then each kind of caller at each rate, each on a hub of its own."""
    for kind in ("strangers", "one integration"):
        for rate, connections in SCENES:
            with tempfile.TemporaryDirectory(prefix="bench-") as data:
                async with servers.hub(Path(data) / "hub") as hub:
                    numbers = itertools.count()
                    view = await scene.register(hub, hub.keys["HUB_ADMIN_KEY"])
                    await bot(hub, 3, numbers)
                    quiet = await bot(hub, SECONDS, numbers)
                    key = "" if kind == "strangers" else view.key
                    seen, counts = await under(hub, Attack(hub.target, key, rate, connections, SECONDS), numbers)
            print(
                f"{kind}, {rate or 'no pace'}, {connections} connections: p50 {quiet.p50:.1f} -> {seen.p50:.1f} ms, "
                f"p99 {quiet.p99:.1f} -> {seen.p99:.1f} ms ({seen.later:.1f} in the second half), "
                f"failed {seen.failed}, "
                f"memory {quiet.memory:.0f} -> {seen.memory:.0f} MiB, cpu {quiet.cpu:.2f} -> {seen.cpu:.2f}; "
                f"{counts}",
                flush=True,
            )


if __name__ == "__main__":
    asyncio.run(flood(msgspec.json.decode(sys.stdin.readline(), type=Attack)))
