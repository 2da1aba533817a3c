"""The tasks of load programs and their results: values that travel between processes as JSON."""

import msgspec


class Stream(msgspec.Struct, frozen=True):
    """A stream to open: its request in bytes, the key it opens with, and how many events end it."""

    request: bytes
    key: str = ""
    events: int = 0


class CatchUp(msgspec.Struct, frozen=True, tag=True):
    """Open all streams at once and read each until it has had its events; `nice`: how much it yields to others."""

    target: str
    method: str
    streams: list[Stream]
    nice: int = 0
    seconds: float = 60.0


class Emit(msgspec.Struct, frozen=True, tag=True):
    """Send requests, `in_flight` at a time, as fast as they are answered.

    Attributes:
        first: the number of the first event; numbers of different jobs must not meet.
        batch: events in a request; 0 = one event in an EmitEventRequest.
        rate: requests a second; 0 = as fast as they are answered.
        ready: the requests are frames as the hub would write them: what the floor hands on.
        published: they are requests to Centrifugo, which publishes each event on its own.
    """

    target: str
    method: str
    calls: int
    in_flight: int
    first: int
    key: str = ""
    batch: int = 0
    rate: float = 0.0
    ready: bool = False
    published: bool = False
    seconds: float = 60.0


class EmitByClient(msgspec.Struct, frozen=True, tag=True):
    """Emit events with our own client from so many tasks at once.

    Attributes:
        bare: by the call of the generated code instead of ``emit()``.
    """

    target: str
    key: str
    calls: int
    callers: int
    first: int
    bare: bool = False
    seconds: float = 60.0


class Live(msgspec.Struct, frozen=True, tag=True):
    """Open streams, send events at a rate, and measure what comes out.

    Attributes:
        method: the streams'.
        emit: what sends; its events are what the streams wait for. Sent one by one, their latencies are taken.
    """

    target: str
    method: str
    streams: list[Stream]
    emit: Emit
    seconds: float = 60.0


class Idle(msgspec.Struct, frozen=True, tag=True):
    """Open streams, then hold them until the load program is ended.

    Attributes:
        reads: take what comes after the first frame.
        shared: streams on one connection.
    """

    target: str
    method: str
    streams: list[Stream]
    reads: bool = True
    shared: int = 1
    seconds: float = 120.0


class NatsConsume(msgspec.Struct, frozen=True, tag=True):
    """Fill a stream, then read it with so many ordered consumers."""

    target: str
    consumers: int
    events: int
    seconds: float = 60.0


class NatsPublish(msgspec.Struct, frozen=True, tag=True):
    """Publish events, `in_flight` at a time; `batch` of them in one atomic batch, 0 = one by one."""

    target: str
    calls: int
    in_flight: int
    batch: int = 0
    seconds: float = 60.0


class RedisRead(msgspec.Struct, frozen=True, tag=True):
    """Fill a stream, then read it over so many connections by ``XREAD COUNT 100``."""

    target: str
    consumers: int
    events: int
    seconds: float = 60.0


class RedisAdd(msgspec.Struct, frozen=True, tag=True):
    """Add events, one connection for each call in flight; `batch` of them in one MULTI, 0 = one by one."""

    target: str
    calls: int
    in_flight: int
    batch: int = 0
    seconds: float = 60.0


class Post(msgspec.Struct, frozen=True, tag=True):
    """Post the same body again and again by aiohttp's client alone: what delivery to a URL costs at least.

    Attributes:
        target: the URL.
        in_flight: requests at a time, each on a connection of its own.
        events: of the body.
        pause: seconds from one request on a connection to the next, at least.
    """

    target: str
    headers: dict[str, str]
    body: bytes
    calls: int
    in_flight: int
    events: int
    pause: float
    seconds: float = 60.0


Job = Post | CatchUp | Emit | EmitByClient | Live | Idle | NatsConsume | NatsPublish | RedisRead | RedisAdd


class Outcome(msgspec.Struct, frozen=True):
    """What a load program saw.

    Attributes:
        events: delivered, or stored.
        messages: frames that brought them, or calls.
        bytes: of those messages.
        seconds: from the word to go until the last answer.
        cpu: processor time of the load program meanwhile.
        latencies: seconds, a sample; sorted.
        failures: what went wrong, if anything: such a run does not count.
    """

    events: int = 0
    messages: int = 0
    bytes: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = []
    failures: list[str] = []
