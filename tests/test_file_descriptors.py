"""A hub with few file descriptors: it warns, keeps a reserve, and no connection hangs."""

import asyncio
import resource
from pathlib import Path

import pytest
from tickets.hub.v1 import directory_service_pb2

from hub.api.descriptors import OPEN_MAX, limit
from tests.support.processes import PATIENCE, Serving, serving

FEW = 256


async def closed_or_quiet(hub: Serving, kept: list[asyncio.StreamWriter]) -> bool:
    """Open one more connection; returns whether the hub closes it at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    kept.append(writer)  # or else it would be closed here
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
    async with asyncio.timeout(PATIENCE):
        try:
            answered = await reader.read(1)
        except ConnectionError:
            answered = b""
    return answered == b""


async def test_connections_beyond_the_limit_are_closed_and_logged(tmp_path: Path) -> None:
    """At 256 descriptors the start warns; connections beyond those it has room for are closed, with a line."""
    limited = ("/bin/sh", "-c", f'ulimit -n {FEW}; exec "$@"', "sh")
    async with serving(cwd=tmp_path, before=limited) as hub:
        key = (await hub.first_keys())["HUB_BOT_KEY"]
        line = await hub.heard("few file descriptors")
        assert (line["level"], line["limit"], 0 < line["connections"] < FEW - 64) == ("warning", FEW, True)
        caller = hub.caller(key)
        await caller.call("DirectoryService/ListScopes", directory_service_pb2.ListScopesRequest())
        kept: list[asyncio.StreamWriter] = []
        closed = [await closed_or_quiet(hub, kept) for _ in range(FEW)]
        assert closed.count(False) <= line["connections"]
        assert closed[-1]
        await hub.heard("no room for connections: new ones are closed")
        await caller.call("DirectoryService/ListScopes", directory_service_pb2.ListScopesRequest())
        for writer in kept:
            writer.close()
        await hub.heard("there is room for connections again")
        assert (await hub.stop()).code == 0


def test_a_hard_limit_that_the_system_does_not_set_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, which has none by default, and refuses "unlimited" as a soft limit: it is raised to OPEN_MAX."""
    unlimited = resource.RLIM_INFINITY
    accepted = []

    def setrlimit(_kind: int, limits: tuple[int, int]) -> None:
        if limits[0] == unlimited:
            raise ValueError("current limit exceeds maximum limit")
        accepted.append(limits)

    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (256, unlimited))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert limit() == OPEN_MAX
    assert accepted == [(OPEN_MAX, unlimited)]
