"""HTTP/2 by hand: a client that sends what no gRPC library would, and sees what comes back, frame by frame."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 1
END_HEADERS = 4

NO_TABLE = struct.pack(">HI", 1, 0)
"""The setting by which the peer sends headers that need no memory to be read."""

PATIENCE = 20.0


class Frame(NamedTuple):
    """A frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame as it goes."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value: bytes) -> bytes:
    """A string of HPACK, not compressed."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest, length = len(value) - 127, bytearray([127])
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes([*length, rest]) + value


def block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Header fields, each as a literal that nobody keeps."""
    return b"".join(b"\0" + text(name) + text(value) for name, value in fields)


def request(path: bytes, *metadata: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The header fields of a gRPC call."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"hub"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *metadata,
    ]


def message(raw: bytes) -> bytes:
    """A message as gRPC frames it."""
    return b"\0" + struct.pack(">I", len(raw)) + raw


class Connection:
    """A connection to a hub. It answers settings and pings, as a peer must, and keeps all frames that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.frames: list[Frame] = []
        self.closed = False
        self._reader = reader
        self._writer = writer
        self._news = asyncio.Condition()

    @classmethod
    @asynccontextmanager
    async def open(cls, address: str, settings: bytes = NO_TABLE) -> AsyncIterator["Connection"]:
        """Connect, and say hello."""
        host, _, port = address.partition(":")
        connection = cls(*await asyncio.open_connection(host, int(port)))
        reading = asyncio.create_task(connection._read())
        connection.send(PREFACE + frame(SETTINGS, 0, 0, settings))
        try:
            yield connection
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            connection._writer.close()
            with suppress(OSError):
                await connection._writer.wait_closed()

    def send(self, raw: bytes) -> None:
        """Send any bytes."""
        if not self._writer.is_closing():
            self._writer.write(raw)

    async def drain(self) -> None:
        """Wait until the peer has taken most of what was sent."""
        with suppress(OSError):
            await self._writer.drain()

    def call(self, stream: int, path: bytes, *metadata: tuple[bytes, bytes], end: bool = False) -> None:
        """Open a call."""
        self.send(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block(request(path, *metadata))))

    def message(self, stream: int, raw: bytes, *, end: bool = True) -> None:
        """Send a message of a call."""
        self.send(frame(DATA, END_STREAM if end else 0, stream, message(raw)))

    async def ping(self) -> None:
        """Send a ping; returns once it is answered, or the connection has ended."""
        before = self.count(PING)
        self.send(frame(PING, 0, 0, bytes(8)))
        await self.until(lambda: self.closed or self.count(PING) > before)

    async def ended(self, stream: int) -> bool:
        """Wait until the peer has ended a call, in whatever way; False: the connection has ended before."""
        await self.until(lambda: self.closed or self.has_ended(stream))
        return self.has_ended(stream)

    def has_ended(self, stream: int) -> bool:
        """Whether the peer has ended a call."""
        return any(
            one.stream == stream
            and (one.kind == RST_STREAM or (one.kind in (DATA, HEADERS) and one.flags & END_STREAM))
            for one in self.frames
        )

    def count(self, kind: int) -> int:
        """How many frames of a kind came that answer one of ours."""
        return sum(1 for one in self.frames if one.kind == kind and one.flags & ACK)

    def text_of(self, stream: int) -> bytes:
        """The header blocks of a call, as they came; what gRPC writes without compression can be read in them."""
        return b"".join(one.payload for one in self.frames if one.stream == stream and one.kind == HEADERS)

    @property
    def farewell(self) -> bytes:
        """What the peer said when it hung up; empty where it did not."""
        return b"".join(one.payload[8:] for one in self.frames if one.kind == GOAWAY)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that frames bring about."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(condition)

    async def _read(self) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readexactly(9)
                kind, flags, stream = struct.unpack(">BBI", head[3:])
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                await self._take(Frame(kind, flags, stream, payload))
        self.closed = True
        async with self._news:
            self._news.notify_all()

    async def _take(self, one: Frame) -> None:
        if one.kind == SETTINGS and not one.flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
        elif one.kind == PING and not one.flags & ACK:
            self.send(frame(PING, ACK, 0, one.payload))
        async with self._news:
            self.frames.append(one)
            self._news.notify_all()
