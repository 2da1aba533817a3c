"""Each client as a program that speaks the line protocol of ``conformance/README.md``: ``make clients-test``."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.programs import needs, without

CLIENTS = Path(__file__).parents[2] / "clients"


def go(directory: Path) -> list[str]:
    """The Go client, with the race detector."""
    program = directory / "conformance"
    build([needs("go"), "build", "-race", "-o", str(program), "./internal/conformance"], CLIENTS / "go")
    return [str(program)]


def typescript(_: Path) -> list[str]:
    """The TypeScript client, as it was built last: `make clients-test` builds it first."""
    program = CLIENTS / "typescript" / "dist" / "esm" / "conformance.js"
    if not program.is_file():
        without("clients/typescript is not built: make clients-test")
    return [needs("node"), str(program)]


def build(command: list[str], cwd: Path) -> None:
    """Run a build; its own messages say what is wrong."""
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603  the client's own tools
    assert ran.returncode == 0, ran.stdout + ran.stderr


COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "aio": lambda _: [sys.executable, "-m", "conformance.adapters.aio"],
    "threaded": lambda _: [sys.executable, "-m", "conformance.adapters.threaded"],
    "go": go,
    "typescript": typescript,
}


@pytest.fixture(scope="session", params=COMMANDS)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a client."""
    return COMMANDS[request.param](tmp_path_factory.mktemp(request.param))
