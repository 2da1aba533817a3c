"""The Node.js example, run as its README says, against a real hub."""

import asyncio
import os
import signal
import subprocess
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from tickets.hub.v1 import event_pb2

from tests.support.admin_calls import ask
from tests.support.hubs import RunningHub, StartHub, scope_requests
from tests.support.programs import needs, without

EXAMPLE = Path(__file__).parents[1] / "examples" / "node"
PATIENCE = 30.0
pytestmark = pytest.mark.timeout(300)  # in a fresh clone the first test installs and builds the client


@pytest.fixture(scope="module")
def node() -> str:
    """The path of node, with the client built and installed."""
    program, npm = needs("node"), needs("npm")
    if not (EXAMPLE / "node_modules" / "@tickets" / "hub" / "dist").is_dir():
        installed = subprocess.run([npm, "ci", "--prefix", EXAMPLE], capture_output=True, text=True, check=False)  # noqa: S603  npm itself
        if installed.returncode:
            without(f"npm ci failed: {installed.stderr.strip()[-200:]}")
    return program


class Terminal:
    """What the example shows, line by line."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def line(self, having: str) -> str:
        """The next line that holds this; fails where the program ends first."""
        assert self.process.stdout is not None
        seen = []
        async with asyncio.timeout(PATIENCE):
            while line := (await self.process.stdout.readline()).decode():
                seen.append(line)
                if having in line:
                    return line
        raise AssertionError(f"no {having!r} in {seen}")

    async def end(self) -> tuple[int | None, str]:
        """Its status and its complaints, once it has ended by itself."""
        async with asyncio.timeout(PATIENCE):
            _, err = await self.process.communicate()
        return self.process.returncode, err.decode()


@asynccontextmanager
async def running(node: str, hub: RunningHub, key: str, *words: str) -> AsyncIterator[Terminal]:
    """The example, for as long as the context lasts."""
    process = await asyncio.create_subprocess_exec(
        *(node, "integration.js", *words),
        cwd=EXAMPLE,
        env=os.environ | {"HUB_ADDRESS": hub.address, "HUB_KEY": key},
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield Terminal(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def verification(event_id: str, user_id: str) -> event_pb2.Event:
    """Somebody was verified in guild 41."""
    return event_pb2.Event(id=event_id, guild_id="41", member_verified=event_pb2.MemberVerified(user_id=user_id))


async def test_the_node_example_shows_what_its_scopes_permit(hub: RunningHub, node: str) -> None:
    """The program is ready, shows an event without the field that it may not see, and the field once it may."""
    integration, reader = await hub.register("MEMBER_VERIFIED")
    async with running(node, hub, reader.key, "latest") as terminal:
        assert "MEMBER_VERIFIED" in await terminal.line("ready")
        await hub.emit(verification("v1", "7001"))
        shown = await terminal.line("memberVerified")
        assert ("guild 41" in shown, "7001" in shown) == (True, False)
        scopes = scope_requests("MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY")
        await ask(hub.admin, "SetScopes", integration_id=integration.integration_id, scopes=scopes, reason="trusted")
        assert "trusted" in await terminal.line("MEMBER_VERIFIED_IDENTITY")
        await hub.emit(verification("v2", "7002"))
        assert "userId=7002" in await terminal.line("memberVerified")


async def test_the_node_example_resumes_at_its_cursor(hub: RunningHub, node: str) -> None:
    """When stopped it prints a cursor; started with that it shows the events since, once."""
    _, reader = await hub.register("MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY")
    async with running(node, hub, reader.key, "latest") as terminal:
        await terminal.line("ready")
        await hub.emit(verification("v1", "7001"))
        await terminal.line("userId=7001")
        terminal.process.send_signal(signal.SIGTERM)
        cursor = (await terminal.line("integration.js ")).split()[-1]
        assert await terminal.end() == (0, "")
    await hub.emit(verification("v2", "7002"))
    async with running(node, hub, reader.key, cursor) as terminal:
        assert "userId=7002" in await terminal.line("memberVerified")


async def test_the_node_example_stops_at_a_permanent_failure(hub: RunningHub, node: str) -> None:
    """When its key is rotated away it ends with the reason; with a wrong key it does not even begin."""
    integration, reader = await hub.register("MEMBER_VERIFIED")
    async with running(node, hub, reader.key) as terminal:
        await terminal.line("ready")
        await ask(hub.admin, "RotateKey", integration_id=integration.integration_id, overlap=Duration())
        code, err = await terminal.end()
        assert (code, "KEY_REVOKED" in err) == (1, True)
    async with running(node, hub, "tkt_wrong") as terminal:
        code, err = await terminal.end()
        assert (code, "KEY_UNKNOWN" in err) == (1, True)


async def test_the_node_example_resumes_at_its_commit(hub: RunningHub, node: str) -> None:
    """Started again without a cursor it shows the events since its commit, none twice."""
    _, reader = await hub.register("MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY")
    async with running(node, hub, reader.key) as terminal:
        await terminal.line("ready")
        await hub.emit(verification("v1", "7001"))
        await terminal.line("userId=7001")
        terminal.process.send_signal(signal.SIGTERM)
        await terminal.line("integration.js ")
        assert await terminal.end() == (0, "")
    await hub.emit(verification("v2", "7002"))
    async with running(node, hub, reader.key) as terminal:
        assert "userId=7002" in await terminal.line("memberVerified")


async def test_the_node_example_obeys_the_retry_delay(start_hub: StartHub, node: str) -> None:
    """Refused with a retry delay it prints the reason, waits, and is served in the end."""
    hub = await start_hub(max_streams=1)
    _, first = await hub.register("MEMBER_VERIFIED")
    _, reader = await hub.register("MEMBER_VERIFIED")
    stream = await first.subscribe()
    async with running(node, hub, reader.key) as terminal:
        await terminal.line("TOO_MANY_STREAMS: ")
        stream.call.cancel()
        await terminal.line("ready")


async def test_the_node_example_ignores_proxies_of_the_environment(
    hub: RunningHub, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables name a proxy that does not exist: the key goes to the hub directly."""
    for name in ("grpc_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    _, reader = await hub.register("MEMBER_VERIFIED")
    async with running(node, hub, reader.key, "latest") as terminal:
        assert "MEMBER_VERIFIED" in await terminal.line("ready")
