"""The client as what a bot installs: a wheel beside packages of the bot's own, and the same code in the server."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import protovalidate
import pytest
import tickets_hub
from packaging.requirements import Requirement
from packaging.version import Version
from tickets.hub.v1 import event_pb2 as by_contract
from tickets_hub.buf.validate import validate_pb2
from tickets_hub.v1 import event_pb2 as of_client

import hub.client
from hub.model import Role
from tests.support.hubs import RunningHub
from tests.support.processes import run

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "clients" / "python"
PROJECT: dict[str, Any] = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
OWN_PACKAGES = ("hub", "tickets", "buf")

TYPED = """
from tickets_hub import AsyncClient, Client
from tickets_hub.v1.event_pb2 import Event


def guilds(client: Client) -> list[str]:
    return [event.guild_id for event in client.subscribe(auto_commit=True)]


async def first(client: AsyncClient) -> str:
    async for event in client.subscribe():
        return event.ticket_created.creator_user_id
    return (await client.emit(Event(guild_id=41))).event_id  # type: ignore[arg-type]
"""

BOT = """
import asyncio, json, os, sys

import buf, hub, tickets
from tickets_hub import AsyncClient, Client, Start
from tickets_hub.v1.event_pb2 import Event, MemberVerified

assert {module.OWN for module in (buf, hub, tickets)} == {"the bot's own"}
address = os.environ["HUB_ADDRESS"]

def verified(name):
    return Event(id=name, guild_id="197038439483310086", member_verified=MemberVerified(user_id="53908232506183680"))

async def emit():
    async with AsyncClient(address, os.environ["HUB_BOT_KEY"]) as client:
        await client.emit(verified("by-asyncio"))

with Client(address, os.environ["HUB_BOT_KEY"]) as client:
    client.emit(verified("by-threads"))
asyncio.run(emit())
with Client(address, os.environ["HUB_KEY"]) as client:
    events = client.subscribe(start=Start.earliest())
    print(json.dumps([next(events).id, next(events).id]))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def closure(names: list[str]) -> Iterator[Distribution]:
    """Distributions of this environment, and what they require without extras."""
    pending, found = list(names), set[str]()
    while pending:
        one = distribution(pending.pop())
        if one.name in found:
            continue
        found.add(one.name)
        yield one
        wanted = (Requirement(line) for line in one.requires or ())
        pending += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]


def copy_distribution(one: Distribution, target: Path) -> None:
    """Bring the files of an installed distribution into another environment, as its wheel would."""
    for file in one.files or ():
        if ".." not in file.parts and "__pycache__" not in file.parts:
            place = target / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file.locate()), place)


@pytest.fixture(scope="module")
def bot_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the client's wheel and what that declares, nothing else."""
    folder = tmp_path_factory.mktemp("bot")
    source = shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    commands = (
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)],
        [sys.executable, "-m", "venv", "--without-pip", str(folder / "env")],
    )
    for command in commands:
        subprocess.run(command, check=True, cwd=folder)  # noqa: S603  ourselves
    shutil.rmtree(source)
    python = folder / "env" / "bin" / "python"
    [wheel] = folder.glob("tickets_hub_client-*.whl")
    install = [*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)  # noqa: S603  ourselves
    [packages] = (folder / "env" / "lib").glob("python*/site-packages")
    for one in closure([Requirement(line).name for line in PROJECT["dependencies"]]):
        copy_distribution(one, packages)
    return python


async def test_the_client_works_beside_packages_with_the_hubs_names(
    hub: RunningHub, bot_python: Path, tmp_path: Path
) -> None:
    """Beside a bot's own `hub`, `tickets` and `buf`, both clients emit and subscribe."""
    for name in OWN_PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('OWN = "the bot\'s own"\n')
    (tmp_path / "bot.py").write_text(BOT)
    _, reader = await hub.register("MEMBER_VERIFIED")
    variables = {"HUB_ADDRESS": hub.address, "HUB_KEY": reader.key, "HUB_BOT_KEY": hub.keys[Role.BOT]}
    ended = await run([str(bot_python), "-W", "error", "bot.py"], tmp_path, variables)
    assert (ended.code, ended.err) == (0, "")
    events, modules = (json.loads(line) for line in ended.out.splitlines())
    assert events == ["by-threads", "by-asyncio"]
    assert "tickets_hub" in modules
    assert not {"protovalidate", "structlog", "pydantic", "cryptography", "msgspec"} & set(modules)


@pytest.mark.parametrize("version", ["the same", "another"])
async def test_the_client_accepts_an_existing_validate_proto(bot_python: Path, tmp_path: Path, version: str) -> None:
    """Its pool has `buf/validate/validate.proto` before the client comes, of whichever version: the client uses it."""
    content: bytes = protovalidate.ViolationPb.desc().file.proto.to_binary()
    (tmp_path / "validate.binpb").write_bytes(content)
    program = f"""
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, field_mask_pb2, timestamp_pb2
file = descriptor_pb2.FileDescriptorProto.FromString(open("validate.binpb", "rb").read())
if {version == "another"}:
    file.message_type.add(name="NewInThisVersion")
descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
from tickets_hub.v1 import admin_service_pb2_grpc, event_pb2
print(event_pb2.Event(id="e1").id)
"""
    (tmp_path / "bot.py").write_text(program)
    ended = await run([str(bot_python), "bot.py"], tmp_path, {})
    assert (ended.code, ended.out, ended.err) == (0, "e1\n", "")


async def test_a_strict_program_is_typed(bot_python: Path, tmp_path: Path) -> None:
    """The installed package has its types: events are events, and what is wrong with a request is an error of mypy."""
    (tmp_path / "typed.py").write_text(TYPED)
    checked = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache")]
    ended = await run([*checked, "--python-executable", str(bot_python), "typed.py"], tmp_path)
    assert ended.code == 0, ended.out


async def test_messages_can_be_pickled(bot_python: Path, tmp_path: Path) -> None:
    """A class says where it is imported from: in the client's package, not at a name that the bot may have itself."""
    program = """
import pickle
from tickets_hub.v1.event_pb2 import Event
print(Event.__module__, pickle.loads(pickle.dumps(Event(id="e1"))).id)
"""
    ended = await run([str(bot_python), "-c", program], tmp_path, {})
    assert (ended.code, ended.out, ended.err) == (0, "tickets_hub.v1.event_pb2 e1\n", "")


def test_the_server_reexports_the_client() -> None:
    """`hub.client` and `tickets.hub.v1` are other names of what the client's package has, not copies."""
    assert hub.client.__all__ == tickets_hub.__all__
    for name in tickets_hub.__all__:
        assert getattr(hub.client, name) is getattr(tickets_hub, name)
    assert by_contract.Event is of_client.Event


def test_the_packaged_validate_proto_is_the_published_one() -> None:
    """Byte for byte: a program that brings the same version of the file shares it."""
    assert vars(validate_pb2)["_FILE"] == protovalidate.ViolationPb.desc().file.proto.to_binary()


def test_the_lower_bounds_are_those_of_the_generator() -> None:
    """Generated code refuses an older grpcio or protobuf, so these are the oldest that the client allows."""
    wanted = {one.name: one.specifier for one in map(Requirement, PROJECT["dependencies"])}
    assert set(wanted) == {"grpcio", "protobuf", "googleapis-common-protos"}
    bounds = {one.operator: one.version for one in wanted["grpcio"]}
    service = (SOURCE / "tickets_hub" / "v1" / "event_service_pb2_grpc.py").read_text()
    assert bounds == {">=": service.partition("GRPC_GENERATED_VERSION = '")[2].partition("'")[0]}
    messages = (SOURCE / "tickets_hub" / "v1" / "event_pb2.py").read_text()
    made = Version(messages.partition("# Protobuf Python Version: ")[2].partition("\n")[0])
    assert Version({one.operator: one.version for one in wanted["protobuf"]}[">="]) == made


async def test_the_readme_snippets_compile(bot_python: Path) -> None:
    """Each one of README compiles, with an `await` at its top level as in a notebook."""
    page = (SOURCE / "README.md").read_text()
    snippets = page.split("```python\n")[1:]
    assert len(snippets) >= 2
    for snippet in snippets:
        text = snippet.partition("```")[0]
        check = "import ast, sys; compile(sys.argv[1], 'README', 'exec', ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)"
        imports = "\n".join(line for line in text.splitlines() if line.startswith(("from ", "import ")))
        for command in ((check, text), (imports, "")):
            process = await asyncio.create_subprocess_exec(bot_python, "-c", *command, env=dict(os.environ))
            assert await process.wait() == 0, text
