"""The section "Five minutes" of each client's README, followed from nothing: an empty folder and a real hub."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.support.first_events import blocks, complaints, file_written, filled_in, following
from tests.support.hubs import RunningHub
from tests.support.processes import PATIENCE
from tests.support.programs import needs

CLIENTS = Path(__file__).parents[2] / "clients"
TOOLS = {"go": "go", "typescript": "npm", "python": Path(sys.executable).name}
LEFT_OUT = shutil.ignore_patterns("node_modules", "dist", "__pycache__")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", TOOLS)
async def test_the_readme_leads_to_the_first_event(hub: RunningHub, tmp_path: Path, language: str) -> None:
    """Every command works as printed, the program shows an event, and Ctrl-C ends it without an error."""
    needs(TOOLS[language])
    clone, folder = tmp_path / "clone", tmp_path / "empty"
    shutil.copytree(CLIENTS, clone / "clients", ignore=LEFT_OUT)
    folder.mkdir()
    _, reader = await hub.register("TICKET_STATS")
    steps = blocks(CLIENTS / language / "README.md", "Five minutes")
    script = "".join(text if kind == "sh" else file_written(text) for kind, text in steps)
    script = filled_in(script, clone=str(clone), address=hub.address, key=reader.key)
    async with following(hub, script, folder) as shell:
        os.killpg(shell.pid, signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            assert await shell.wait() == 0, complaints(folder)
