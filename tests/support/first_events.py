"""What a page tells a newcomer to do, as a shell script that is run until its program shows an event."""

import asyncio
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.events import closed
from tests.support.hubs import RunningHub

GUILD = "197038439483310086"
INSTALLING = 840.0
"""Seconds until the first event: packages come from registries, and compilers compile gRPC."""


def blocks(page: Path, heading: str) -> list[tuple[str, str]]:
    """The fenced blocks of a section, each with its language."""
    section = page.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)


def file_written(text: str) -> str:
    """The command that writes a file; its first line is a comment that names it."""
    _, name, *_ = text.split()
    return f"mkdir -p \"$(dirname {name})\"\ncat > {name} <<'END OF FILE'\n{text}END OF FILE\n"


def filled_in(script: str, **values: str) -> str:
    """The script with what its reader puts in; fails where it does not ask for it."""
    words = {"clone": "PATH/TO/CLONE", "address": "127.0.0.1:50051", "key": "tkt_integration_..."}
    for name, value in values.items():
        assert words[name] in script, words[name]
        script = script.replace(words[name], value)
    return script


@asynccontextmanager
async def following(hub: RunningHub, script: str, folder: Path, **variables: str) -> AsyncIterator[Process]:
    """A shell that runs a script in a folder, stops at what fails, and has shown an event that the hub got meanwhile.

    It knows nothing of this project's environment. `complaints` is what it writes to standard error.
    """
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("HUB_", "PYTHON", "VIRTUAL"))}
    with log_of(folder).open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euc", script),
            cwd=folder,
            env=inherited | variables,
            stdout=PIPE,
            stderr=log,
            start_new_session=True,
        )
    try:
        assert await shows_one(hub, process), complaints(folder)
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


def log_of(folder: Path) -> Path:
    """A file beside the folder, which shall be empty."""
    return folder.with_suffix(".log")


def complaints(folder: Path) -> str:
    """What the shell in this folder has written to standard error."""
    return log_of(folder).read_text()


async def shows_one(hub: RunningHub, process: Process) -> bool:
    """Emit until the program shows an event: it subscribes from now on. False: it has ended before."""
    assert process.stdout is not None
    shown = asyncio.ensure_future(line_of(GUILD, process.stdout))
    number = 0
    async with asyncio.timeout(INSTALLING):
        while not shown.done():
            number += 1
            await hub.emit(closed(f"e{number}", GUILD))
            await asyncio.wait([shown], timeout=1)
    return await shown != ""


async def line_of(guild_id: str, output: asyncio.StreamReader) -> str:
    """The next line that begins with this guild; empty where the output ends first."""
    while line := (await output.readline()).decode():
        if line.startswith(guild_id):
            return line
    return ""
