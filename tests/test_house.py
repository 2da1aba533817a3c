"""The house keeps its order: which way imports run, and how long files and functions are."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HUB = Path(__file__).parents[1] / "hub"
FILES = sorted(HUB.rglob("*.py"))

ROOMS = ("errors", "model", "config", "scopes", "storage", "control", "delivery", "api", "cli")
"""From the ground up: each room may know those before it. `clock`, `logs` and `client` stand beside."""

ANYWHERE = {"clock"}
"""Knows nothing of ours, so everyone may know it."""

OUTSIDE = {"aiosqlite": ["storage/sqlite.py"], "nats": ["storage/_jetstream_wire.py"], "grpc": ["api/", "client/"]}
"""Where a driver or a transport may be imported, as the beginnings of paths below hub/."""

STANDARD = frozenset(sys.stdlib_module_names)


def imports(file: Path) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it: "hub.control.keys"."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide which room is meant"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def room(name: str) -> str:
    """The room that a dotted name of ours is in: "control" for hub.control.keys; "" for what is not ours."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == "hub" else ""


def below(file: Path) -> str:
    """A path relative to hub/."""
    return file.relative_to(HUB).as_posix()


def home(file: Path) -> str:
    """The room that a file is in."""
    return below(file).partition("/")[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=below)
def test_imports_run_one_way(file: Path) -> None:
    """Errors <- model <- config, scopes <- storage <- control <- delivery <- api <- cli; never the other way."""
    here = home(file)
    met = {room(name) for name in imports(file)} - {"", here}
    if here in ("__init__", "__main__"):
        allowed = {"cli"}
    elif here == "client":
        allowed = set[str]()
    elif here == "logs":
        allowed = {"errors", "model"}
    elif here == "clock":
        allowed = set()
    else:
        allowed = {*ROOMS[: ROOMS.index(here)], *ANYWHERE} | ({"logs"} if here in ("api", "cli") else set())
        allowed |= {"client"} if here == "cli" else set()  # it may call a hub as others do
    assert met <= allowed


@pytest.mark.parametrize("package", OUTSIDE)
def test_drivers_stay_where_they_are(package: str) -> None:
    """Aiosqlite and nats are each known to one file, gRPC to the api and the client alone."""
    where = [
        below(file) for file in FILES if any(name.split(".")[0].split("_")[0] == package for name in imports(file))
    ]
    assert [path for path in where if not path.startswith(tuple(OUTSIDE[package]))] == []


def test_the_client_knows_the_contract_only() -> None:
    """What integrations install needs the generated modules, gRPC, and nothing of the hub or of its other libraries."""
    allowed = ("hub.client", "tickets.hub.v1", "grpc", "google.protobuf", "google.rpc")
    names = {name for file in FILES if home(file) == "client" for name in imports(file)}
    assert [name for name in names if not name.startswith(allowed) and name.split(".")[0] not in STANDARD] == []


@pytest.mark.parametrize("file", FILES, ids=below)
def test_files_and_functions_are_short(file: Path) -> None:
    """No file has over 400 lines, no function over 70: more than that is not taken in at a glance."""
    text = file.read_text()
    assert text.count("\n") <= 400
    functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    assert [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 70] == []


@pytest.mark.parametrize("file", FILES, ids=below)
def test_every_ignored_rule_has_its_reason(file: Path) -> None:
    """An ignore tells why beside it, or stands below one of the same file that does."""
    reasons: set[str] = set()
    for line in file.read_text().splitlines():
        _, mark, rest = line.partition("# noqa: ")
        for code in rest.partition("  ")[0].split(", ") if mark else ():
            assert "  " in rest or code in reasons, line.strip()
            reasons.add(code)
