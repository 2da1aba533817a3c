"""README prints what really comes out: its tour, command by command, against a hub of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.tools import needs

ROOT = Path(__file__).parent.parent


def test_the_tour_prints_what_really_comes_out() -> None:
    """Every command of README's tour is run; what it prints is what README says, but for ids, keys and times."""
    grpcurl = needs("grpcurl")
    environment = {**os.environ, "PATH": f"{Path(grpcurl).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(ROOT / "tools" / "tour.py")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  ourselves
    assert run.returncode == 0, run.stdout + run.stderr
