"""A small disk: a tmpfs of its own in a namespace of its own, which ends with the process that sees it."""

import shutil
import subprocess

import pytest


def on_small_disk(size: int, taken: int) -> list[str]:
    """The words before a command that give it a disk at ./data, of so many MiB, of which some are taken.

    Skips the test where the system lets no user make one.
    """
    mount, fill = f"mount -t tmpfs -o size={size}m,mode=700 tmpfs data", f"head -c {taken}M /dev/zero > data/taken"
    script = f'{mount} && {fill} && exec "$@"'
    program = shutil.which("unshare") or pytest.skip("util-linux is not installed")
    words = [program, "--user", "--map-root-user", "--mount"]
    tried = subprocess.run([*words, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)  # noqa: S603  ours
    if tried.returncode:
        pytest.skip(f"no disk can be made here: {tried.stderr.decode()}")
    return [*words, "sh", "-c", script, "sh"]
