"""`hub top` on a real terminal, of a hub whose names were made to steer it."""

import asyncio
import os
import pty
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from tickets.hub.v1.hub_status_pb2 import ExpiringKey, HubStatus, ReaderStatus, WatchHubRequest

from tests.support.processes import COMMAND, PATIENCE

TITLE = "\x1b]0;owned\x07"
"""Would give the terminal another title."""

EVIL = f"{TITLE}\x1b[2J\x9b31m\u202e[red]x[/red]"
KEY = "tkt_admin_UUHtlkRN8G9w_UBUh7SXHiwBPBbWWzjJwfHi4jd3y0OdDm5"


async def watched(request: WatchHubRequest, context: object) -> AsyncIterator[HubStatus]:
    """A hub that says the same of everything, once, and stays."""
    del request, context
    reader = ReaderStatus(integration_id=EVIL, integration_name=EVIL, subscription_id=EVIL)
    key = ExpiringKey(key_id=EVIL, holder=EVIL, integration_id=EVIL)
    yield HubStatus(version=EVIL, replica=EVIL, readers=[reader], expiring_keys=[key], streams={EVIL: 1})
    await asyncio.Event().wait()


@pytest.fixture
async def evil_address() -> AsyncIterator[str]:
    """Where that hub serves."""
    server = grpc.aio.server()
    method = grpc.unary_stream_rpc_method_handler(watched, WatchHubRequest.FromString, HubStatus.SerializeToString)
    handler = grpc.method_handlers_generic_handler("tickets.hub.v1.AdminService", {"WatchHub": method})
    server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def shown_until(terminal: int, words: bytes | None) -> bytes:
    """What a terminal gets, until it has got these words; without words until nobody writes to it any more."""
    shown = b""
    async with asyncio.timeout(2 * PATIENCE):
        while words is None or words not in shown:
            try:
                shown += await asyncio.to_thread(os.read, terminal, 65_536)
            except OSError:  # the other end is closed
                break
    return shown


@pytest.mark.parametrize("flags", [[], ["--once"]])
async def test_names_cannot_control_the_terminal(tmp_path: Path, evil_address: str, flags: list[str]) -> None:
    """What a terminal would obey is shown as text, live and once; the colours are the program's own."""
    terminal, inside = pty.openpty()
    environment = os.environ | {"HUB_ADMIN_KEY": KEY, "TERM": "xterm-256color", "COLUMNS": "400", "LINES": "60"}
    words = [*COMMAND, "top", *flags, "--address", evil_address]
    process = await asyncio.create_subprocess_exec(
        *words, cwd=tmp_path, env=environment, stdin=inside, stdout=inside, stderr=inside
    )
    os.close(inside)
    shown = await shown_until(terminal, b"keys that expire soon")
    if not flags:
        process.terminate()
    shown += await shown_until(terminal, None)  # else its last words would wait for room
    assert await process.wait() == 0
    os.close(terminal)
    assert TITLE.encode() not in shown
    assert b"\xe2\x80\xae" not in shown
    assert b"\xc2\x9b" not in shown
    assert b"[red]x" in shown
    assert b"\x1b[" in shown
