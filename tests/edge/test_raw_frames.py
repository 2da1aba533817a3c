"""One caller without a key cannot end the hub, whatever bytes it sends: the hub goes on serving everyone."""

import pytest

from tests.support.events import event
from tests.support.failures import TICKET
from tests.support.http2_frames import Connection
from tests.support.hubs import RunningHub

LIST_SCOPES = b"/tickets.hub.v1.DirectoryService/ListScopes"

PATHS = [
    b"/x/\xff",
    b"\xff",
    b"/\xc3\x28/\xa0\xa1",
    b"/tickets.hub.v1.EventService/\xed\xa0\x80",
    LIST_SCOPES + b"\xff",
    b"/grpc.health.v1.Health/\xfe",
    b"/" + b"\xff" * 4_000,
    b"",
    b"/",
    b"//",
    b"x",
    b"/x",
    b"*",
    b"/a/b/c",
    b"/tickets.hub.v1.EventService/",
    b"/tickets.hub.v1.EventService",
    b"/a\x7fb/c",
    b"/%ff/%00",
    b"/" + b"a" * 4_000,
]
"""Paths of calls: no UTF-8, surrogates, none at all, no method, no service."""

FIELDS = [
    (b"authorization", b"Bearer \xff\xfe"),
    (b"authorization", b"\xc3\x28"),
    (b"authorization-bin", b"!!!"),
    (b"x-forwarded-for", b"\xff"),
    (b"grpc-timeout", b"\xff"),
    (b"grpc-timeout", b"99999999999999H"),
    (b"grpc-timeout", b"-1S"),
    (b"grpc-encoding", b"\xff"),
    (b"content-type", b"\xff"),
    (b"user-agent", b"\xff" * 100),
    (b"x-\xff", b"x"),
    (b"\xff", b"\xff"),
    (b"", b""),
    (b"grpc-tags-bin", b"\xff"),
    (b"grpc-trace-bin", b"AAAA"),
    (b":path", b"/again"),
]
"""Metadata that is none."""


async def still_serves(hub: RunningHub, name: str) -> None:
    """The hub takes calls in: an emit of a key is stored, over a channel that was there and over a new connection."""
    await hub.emit(event(name, **TICKET))
    async with Connection.open(hub.address) as connection:
        connection.call(1, LIST_SCOPES, (b"authorization", f"Bearer {hub.bot.key}".encode()))
        connection.message(1, b"")
        assert await connection.ended(1)
    assert not hub.hub.failed.done()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path[:40]))
async def test_a_malformed_path_ends_only_its_call(hub: RunningHub, path: bytes) -> None:
    """From grpcio 1.83 on the first of these ends the server for good, while the process stays alive."""
    async with Connection.open(hub.address) as connection:
        connection.call(1, path)
        connection.message(1, b"")
        await connection.ended(1)
    await still_serves(hub, "a")


@pytest.mark.parametrize("field", FIELDS, ids=repr)
async def test_malformed_metadata_ends_only_its_call(hub: RunningHub, field: tuple[bytes, bytes]) -> None:
    """For a method with a key, one without, and an unknown one."""
    for path in (LIST_SCOPES, b"/grpc.health.v1.Health/Check", b"/x/y"):
        async with Connection.open(hub.address) as connection:
            connection.call(1, path, field)
            connection.message(1, b"")
            await connection.ended(1)
    await still_serves(hub, "a")
