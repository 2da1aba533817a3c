"""A disk that fails on command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload that makes syncing fail on command."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        reason = "no C compiler, or not Linux: syncing cannot be made to fail"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    library = tmp_path_factory.mktemp("shim") / "fsync_shim.so"
    subprocess.run(  # noqa: S603  our own file, by a fixed command
        [compiler, "-shared", "-fPIC", "-o", library, HERE / "fsync_shim.c", "-ldl"], check=True, capture_output=True
    )
    return library
