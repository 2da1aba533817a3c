"""External programs that some tests drive: where they are, and what to do if they are missing."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest


def needs(program: str) -> str:
    """The path of a program; without it the test is skipped, where `CI` is set it fails: there a skip would hide it."""
    found = shutil.which(program) or _installed_by_go(program)
    if found is None:
        without(f"{program} is not installed")
    return str(found)


def without(reason: str) -> NoReturn:
    """Skip the test for want of something outside the project; fail it where `CI` is set."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and in CI a skip is a failure")
    pytest.skip(reason)


def _installed_by_go(program: str) -> str | None:
    """Where `go install` puts programs, which is seldom on the PATH."""
    go = shutil.which("go")
    if go is None:
        return None
    asked = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=False)  # noqa: S603  go itself
    return shutil.which(program, path=str(Path(asked.stdout.strip(), "bin")))
