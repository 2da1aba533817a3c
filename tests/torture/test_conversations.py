"""Mutated HTTP/2 conversations: whatever strangers send, the hub keeps serving."""

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.edge.test_raw_frames import FIELDS, LIST_SCOPES, PATHS, still_serves
from tests.support import http2_frames
from tests.support.http2_frames import block, frame, message, request
from tests.support.hubs import RunningHub, StartHub
from tests.torture.conftest import rounds

CONVERSATIONS = rounds(400, 100_000)
AT_A_TIME = 8
LISTEN = 0.02
"""Seconds that a client listens to what it has brought about, before it hangs up."""

LINES = 20
"""Lines of the log that strangers at one address may bring about in a minute."""

KNOWN = [LIST_SCOPES, b"/tickets.hub.v1.EventService/Subscribe", b"/grpc.health.v1.Health/Watch"]


def conversation(chance: random.Random) -> bytes:
    """What a client might send in a call or two, some of it right."""
    stream, parts = 1, [http2_frames.PREFACE, frame(http2_frames.SETTINGS, 0, 0, http2_frames.NO_TABLE)]
    for _ in range(chance.randint(1, 4)):
        path = chance.choice([*KNOWN * 4, *PATHS])
        fields = request(path, *chance.sample(FIELDS, chance.choice([0, 0, 1, 2])))
        parts.append(frame(http2_frames.HEADERS, http2_frames.END_HEADERS, stream, block(fields)))
        parts.append(
            frame(http2_frames.DATA, chance.choice([0, 1]), stream, message(chance.randbytes(chance.randint(0, 40))))
        )
        parts.append(any_frame(chance, stream))
        stream += 2
    return b"".join(parts)


def any_frame(chance: random.Random, stream: int) -> bytes:
    """A frame that may not belong there."""
    kind = chance.choice([*range(10), chance.randint(10, 255)])
    payload = chance.randbytes(chance.choice([0, 4, 5, 8, 30]))
    return frame(kind, chance.randint(0, 255), chance.choice([0, stream, stream + 2, 2]), payload)


def mutated(chance: random.Random) -> bytes:
    """The same with some of it altered, left out, repeated or moved."""
    raw = bytearray(conversation(chance))
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        at = chance.randrange(len(raw))
        length = chance.randint(1, 12)
        part = raw[at : at + length]
        MUTATIONS[chance.randrange(len(MUTATIONS))](raw, at, part, chance)
    return bytes(raw)


Mutation = Callable[[bytearray, int, bytearray, random.Random], None]


def alter(raw: bytearray, at: int, _: bytearray, chance: random.Random) -> None:
    """Another byte."""
    raw[at] = chance.randrange(256)


def leave_out(raw: bytearray, at: int, part: bytearray, _: random.Random) -> None:
    """Some bytes less."""
    if len(raw) > len(part) + 1:
        del raw[at : at + len(part)]


def repeat(raw: bytearray, at: int, part: bytearray, _: random.Random) -> None:
    """Some bytes twice."""
    raw[at:at] = part


def move(raw: bytearray, at: int, part: bytearray, chance: random.Random) -> None:
    """Some bytes elsewhere."""
    to = chance.randrange(len(raw))
    del raw[at : at + len(part)]
    raw[to:to] = part


MUTATIONS: tuple[Mutation, ...] = (alter, leave_out, repeat, move)


async def converse(hub: RunningHub, seeds: Iterator[int]) -> None:
    """Hold one conversation after the other, each on a connection of its own, and hang up in the middle."""
    host, _, port = hub.address.partition(":")
    for seed in seeds:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(mutated(random.Random(seed)))  # noqa: S311  has to be repeatable
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(LISTEN):
                while await reader.read(65_536):
                    pass
        writer.close()


async def test_mutated_conversations_end_nothing(start_hub: StartHub, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever eight strangers send, those with a key are served, and the hub finds no fault in itself.

    FUZZ_SEED repeats a failure: the seeds are that one and those after it.
    """
    hub = await start_hub(max_failed_authentications=1)
    first = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(10**9)))
    print(f"FUZZ_SEED={first}")  # noqa: T201  pytest shows it where the test fails
    seeds = iter(range(first, first + CONVERSATIONS))
    await asyncio.gather(*(converse(hub, seeds) for _ in range(AT_A_TIME)))
    await still_serves(hub, "a")
    told = capsys.readouterr()
    print(told.out)  # noqa: T201  the seed again
    assert '"incident"' not in told.err
    assert "Traceback" not in told.err
    assert told.err.count("\n") < LINES
