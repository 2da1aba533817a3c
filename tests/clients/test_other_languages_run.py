"""The readers of docs/other-languages.md, each from an empty folder, as printed, against a real hub."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import admin_calls as admin
from tests.support.first_events import blocks, complaints, file_written, filled_in, following
from tests.support.hubs import RunningHub
from tests.support.processes import PATIENCE
from tests.support.programs import needs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "other-languages.md"
TOOLS = {"Go": "go", "TypeScript": "npm", "Rust": "cargo", "JavaScript": "npm"}


def needs_tools(language: str) -> None:
    """Skip where a language's tools are missing: without Rust in CI, too, as Debian's is too old for the page."""
    if language == "Rust" and shutil.which("cargo") is None:
        pytest.skip("cargo is not installed")
    needs(TOOLS[language])


def variables_for(folder: Path) -> dict[str, str]:
    """Variables with which buf is found, and the programs that Go installs go into the test's own folder."""
    found = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if go := shutil.which("go"):
        asked = subprocess.run([go, "env", "GOMODCACHE"], capture_output=True, text=True, check=True)  # noqa: S603  go itself
        found |= {"GOMODCACHE": asked.stdout.strip(), "GOPATH": str(folder / "go")}
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", TOOLS)
async def test_the_documented_reader_shows_an_event_and_why_its_stream_ends(
    hub: RunningHub, tmp_path: Path, language: str
) -> None:
    """With the files in place its commands lead to the first event; when its key is revoked it says so and ends."""
    needs_tools(language)
    folder = tmp_path / "empty"
    folder.mkdir()
    shutil.copy(ROOT / "generated" / "tickets_hub.binpb", folder)
    integration, reader = await hub.register("TICKET_STATS")
    steps = blocks(PAGE, language)
    files = "".join(file_written(text) for kind, text in steps if kind != "sh")
    commands = "".join(text for kind, text in steps if kind == "sh")
    script = filled_in(files, address=hub.address) + commands
    variables = variables_for(tmp_path) | {"HUB_KEY": reader.key}
    async with following(hub, script, folder, **variables) as shell:
        fields = {"integration_id": integration.integration_id, "overlap": admin.span(0)}
        await admin.ask(hub.admin, "RotateKey", **fields)
        async with asyncio.timeout(PATIENCE):
            await shell.wait()
    assert "KEY_REVOKED" in complaints(folder)
