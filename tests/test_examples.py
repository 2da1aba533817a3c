"""The examples in Python, run as their first lines say, against a real hub."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from hub.model import Role
from tests.conftest import RunningHub
from tests.delivery.kit import ticket
from tests.processes import PATIENCE, ended_of, run

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(("name", "words"), [("integration.py", ("--start", "earliest")), ("bot.py", ("--rate", "50"))])
async def test_nobody_reads_any_more(hub: RunningHub, name: str, words: tuple[str, ...]) -> None:
    """Behind `| head -1` an example shows its line when it has it, and ends without a traceback."""
    _, reader = await hub.register("TICKET_CREATED")
    variables = {"HUB_ADDRESS": hub.address, "HUB_KEY": reader.key, "HUB_BOT_KEY": hub.keys[Role.BOT]}
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / name), *words), env=os.environ | variables, stdout=writing, stderr=PIPE
    )
    os.close(writing)
    async with asyncio.timeout(PATIENCE):
        assert await asyncio.to_thread(os.read, reading, 4096) != b""
    os.close(reading)
    await hub.emit(ticket("t1"))  # an integration learns of it by what it shows next
    ended = await ended_of(process)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize("name", ["integration.py", "bot.py"])
async def test_an_address_without_a_port(name: str, tmp_path: Path) -> None:
    """It is refused at once, from the variable too: gRPC itself would go on trying another port."""
    ended = await run(
        [sys.executable, str(EXAMPLES / name)], tmp_path, {"HUB_ADDRESS": "localhost", "HUB_KEY": "tkt_x"}
    )
    assert (ended.code, ended.out) == (2, "")
    assert "must be host:port, such as 127.0.0.1:50051" in ended.err
