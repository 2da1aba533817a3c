"""The section "Five minutes" of examples/discord/README.md, followed in a fresh environment, without Discord itself."""

import asyncio
import os
import re
import shutil
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from pathlib import Path

import pytest

from hub.model import Role
from tests.support.events import EVERY_SCOPE
from tests.support.hubs import RunningHub
from tests.support.processes import PATIENCE

INSTALLING = 300.0
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "discord"
BOT = """
import asyncio
import sys
from types import SimpleNamespace

import discord
from discord.ext import commands


class Bot(commands.Bot):
    async def setup_hook(self):
        {load}


async def main():
    guild, user = SimpleNamespace(id=197038439483310086), SimpleNamespace(id=53908232506183680)
    message_count, xp, money = 3, 20, 5
    async with Bot("t!", intents=discord.Intents.none()) as bot:
        await bot.setup_hook()
        {happenings}
        await asyncio.to_thread(sys.stdin.read)  # until the test closes it


asyncio.run(main())
"""


def lines(beginning: str) -> list[str]:
    """The lines of the page's snippets that begin so."""
    return re.findall(rf"^ +({re.escape(beginning)}.*)$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)


@pytest.mark.timeout(600)
async def test_a_bot_with_the_copied_cog_emits(hub: RunningHub, tmp_path: Path) -> None:
    """The printed command installs what the copied folder needs; every printed line of a bot reaches the hub."""
    shutil.copytree(EXAMPLE / "hub_cog", tmp_path / "hub_cog", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "clients" / "python", tmp_path / "clients" / "python")
    [install] = lines("pip install")
    [load] = lines("await self.load_extension")
    happenings = lines("bot.dispatch(")
    assert len(happenings) == 5
    (tmp_path / "bot.py").write_text(BOT.format(load=load, happenings="\n        ".join(happenings)))
    await finished(await shell(tmp_path, f"{sys.executable} -m venv venv && venv/bin/{install}"))
    _, reader = await hub.register(*EVERY_SCOPE)
    stream = await reader.subscribe()
    variables = {"HUB_ADDRESS": hub.address, "HUB_BOT_KEY": hub.keys[Role.BOT]}
    bot = await shell(tmp_path, "exec venv/bin/python bot.py", **variables)
    try:
        async with asyncio.timeout(PATIENCE):
            got = [event.WhichOneof("payload") for event in await stream.events(len(happenings))]
    finally:
        await finished(bot)
    assert [f'bot.dispatch("hub_{name}"' for name in got] == [line.partition(",")[0] for line in happenings]


async def shell(folder: Path, command: str, **variables: str) -> Process:
    """Begin a command that knows nothing of this project's environment."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("HUB_", "PYTHON", "VIRTUAL"))}
    return await asyncio.create_subprocess_shell(
        command, cwd=folder, env=inherited | variables, stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )


async def finished(process: Process) -> None:
    """Wait for its end, which the end of its input asks for; fails where it fails."""
    async with asyncio.timeout(INSTALLING):
        said, _ = await process.communicate(b"")
    assert process.returncode == 0, said.decode()
