"""The examples in Python, run as their first lines say, against a real hub."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from examples.demo import fitted
from hub.model import Role
from tests.support.events import ticket
from tests.support.hubs import RunningHub
from tests.support.processes import PATIENCE, ended_of, run

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize(("name", "words"), [("integration.py", ("--start", "earliest")), ("bot.py", ("--rate", "50"))])
async def test_an_example_ends_when_its_output_is_closed(hub: RunningHub, name: str, words: tuple[str, ...]) -> None:
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
async def test_an_address_without_a_port_is_refused(name: str, tmp_path: Path) -> None:
    """At once, also from the variable: gRPC itself would keep trying another port."""
    ended = await run(
        [sys.executable, str(EXAMPLES / name)], tmp_path, {"HUB_ADDRESS": "localhost", "HUB_KEY": "tkt_x"}
    )
    assert (ended.code, ended.out) == (2, "")
    assert "must be host:port, such as 127.0.0.1:50051" in ended.err


async def test_the_demo_prints_whole_cells_into_a_pipe() -> None:
    """Behind a pipe each cell is whole, such as that of a ticket that was closed after so many messages."""
    ended = await run([sys.executable, "-m", "examples.demo", "--seconds", "2", "--rate", "8"], ROOT, {"COLUMNS": "80"})
    assert (ended.code, ended.err) == (0, "")
    closed = [line for line in ended.out.splitlines() if "ticket closed" in line]
    assert closed
    for line in closed:
        first, *others = re.split(r" {2,}", line)
        assert others[0] in (first.partition(": ")[2], "·"), line
    assert "member_verified_identity" in ended.out


def test_a_long_cell_is_cut_with_an_ellipsis_on_a_terminal() -> None:
    """The columns stay aligned."""
    assert fitted("ticket closed, 21 messages", 16, may_cut=True) == "ticket closed…  "
    assert fitted("drop", 16, may_cut=True) == "drop            "
    assert fitted("ticket closed, 21 messages", 16, may_cut=False) == "ticket closed, 21 messages  "
