"""How long the torture takes: short with every test, long with TORTURE=1, ROUNDS=500 for so many rounds of each test.

What it needs beside Python: a C compiler.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROUNDS = int(os.environ.get("ROUNDS", "0"))
TORTURE = bool(os.environ.get("TORTURE") or ROUNDS)

Compile = Callable[[Path], Path]
Progress = Callable[[int, str], None]


def rounds(short: int, long: int) -> int:
    """How often to go on."""
    return ROUNDS or (long if TORTURE else short)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long form takes its time, and so do schedules over NATS on a busy machine."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(6 * 3600 if TORTURE else 600))


@pytest.fixture
def progress(capsys: pytest.CaptureFixture[str]) -> Progress:
    """Says on the terminal after each hundred rounds of the long form how many are over, and what came of them."""

    def say(number: int, so_far: str) -> None:
        if TORTURE and number % 100 == 0:
            with capsys.disabled():
                print(f"\n{number} rounds: {so_far}", flush=True)  # noqa: T201  that is what it is for

    return say


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Makes a library to preload of a C file."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        reason = "no C compiler, or not Linux: what happens to files cannot be watched or made to fail"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)

    def build(source: Path) -> Path:
        library = tmp_path_factory.mktemp("library") / source.with_suffix(".so").name
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl", "-lpthread"]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603  our own file, by a fixed command
        return library

    return build
