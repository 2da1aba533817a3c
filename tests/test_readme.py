"""README is true: its tour, command by command, against a real hub."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest
from tickets.hub.v1.event_pb2 import Event, MemberVerified

from hub.model import Role
from tests.support.hubs import RunningHub
from tests.support.processes import COMMAND, PATIENCE
from tests.support.programs import needs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "docs" / "adr", *(ROOT / "clients").iterdir(), ROOT / "conformance")
    for path in sorted(folder.glob("*.md"))
]

FIELDS = {
    "a duration": ("admin", "AdminService/RotateKey", '{"integration_id": "ID", "overlap": VALUE}'),
    "a time": ("bot", "EventService/EmitEvent", '{"event": {"id": "e", "occur_time": VALUE}}'),
    "a field mask": ("admin", "AdminService/UpdateIntegration", '{"update_mask": VALUE}'),
    "an enum": ("admin", "AdminService/SetScopes", '{"scopes": [{"scope": VALUE}]}'),
    "a Discord id (a string)": ("admin", "AdminService/BlockDeveloper", '{"user_id": VALUE}'),
    "a number": ("admin", "AdminService/ListIntegrations", '{"page_size": VALUE}'),
}
"""For each row of the table on grpcurl: who calls what, with the value in its place."""


def test_the_tour_prints_what_the_readme_shows() -> None:
    """Every command of README's tour is run; what it prints is what README says, but for ids, keys and times."""
    grpcurl = needs("grpcurl")
    environment = {**os.environ, "PATH": f"{Path(grpcurl).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(ROOT / "tools" / "tour.py")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  ourselves
    assert run.returncode == 0, run.stdout + run.stderr


async def grpcurl_says(hub: RunningHub, kind: str, value: str) -> str:
    """What grpcurl prints when a field of this kind is given this value."""
    who, method, body = FIELDS[kind]
    key = hub.keys[Role.BOT if who == "bot" else Role.ADMIN]
    process = await asyncio.create_subprocess_exec(
        *(needs("grpcurl"), "-plaintext", "-H", f"authorization: Bearer {key}", "-d", body.replace("VALUE", value)),
        *(hub.address, f"tickets.hub.v1.{method}"),
        stdout=PIPE,
        stderr=STDOUT,
    )
    out, _ = await process.communicate()
    return out.decode()


def grpcurl_rows() -> list[list[str]]:
    """The rows of the table on what grpcurl refuses: kind, values that it takes, values that it refuses."""
    section = README.partition("### When grpcurl itself refuses")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "`" in line][1:]


def test_the_table_on_grpcurl_has_every_kind() -> None:
    """The rows of the table are those that the next test tries."""
    assert {kind for kind, _, _ in grpcurl_rows() if kind in FIELDS} == set(FIELDS)


@pytest.mark.parametrize("kind", FIELDS)
async def test_grpcurl_accepts_and_refuses_as_documented(hub: RunningHub, kind: str) -> None:
    """Each value of the table reaches the hub, or is refused by grpcurl before it calls, as the table says."""
    [[taken, refused]] = [cells for row, *cells in grpcurl_rows() if row == kind]
    for value in re.findall(r"`([^`]+)`", taken):
        json.loads(value)
        assert "getting request data" not in await grpcurl_says(hub, kind, value)
    for value in re.findall(r"`([^`]+)`", refused):
        assert "getting request data" in await grpcurl_says(hub, kind, value)


async def test_the_python_snippet_runs_as_printed(hub: RunningHub, tmp_path: Path) -> None:
    """It prints an event of the integration whose key is in HUB_KEY, and Ctrl-C ends it without a traceback."""
    [snippet] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    program = tmp_path / "reader.py"
    program.write_text(snippet.replace("127.0.0.1:50051", hub.address))
    _, reader = await hub.register("MEMBER_VERIFIED")
    process = await asyncio.create_subprocess_exec(
        sys.executable, program, env=os.environ | {"HUB_KEY": reader.key}, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    shown = asyncio.ensure_future(process.stdout.readline())
    number = 0
    while not shown.done():  # it subscribes from now on: what was emitted before is not shown
        number += 1
        verified = MemberVerified(user_id="53908232506183680")
        await hub.emit(Event(id=f"e{number}", guild_id="197038439483310086", member_verified=verified))
        await asyncio.wait([shown], timeout=0.2)
        assert number < 5 * PATIENCE
    assert await shown == b"197038439483310086 member_verified\n"
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        _, complaints = await process.communicate()
    assert (process.returncode, complaints) == (0, b"")


async def test_the_first_keys_come_before_the_first_log_line(tmp_path: Path) -> None:
    """On a terminal, where output and log are one, the first two lines of a new hub are its keys."""
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data")),
        *("--log-level", "debug"),
        stdout=PIPE,
        stderr=STDOUT,
        cwd=ROOT,
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        lines = [(await process.stdout.readline()).decode() for _ in range(2)]
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert [line.partition("=")[0] for line in lines] == ["HUB_ADMIN_KEY", "HUB_BOT_KEY"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_has_a_target(page: Path) -> None:
    """Each relative link names a file that is there, and each anchor a heading of that page."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target
