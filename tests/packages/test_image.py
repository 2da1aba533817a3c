"""The steps of deploy/Containerfile, carried out without an engine that builds images.

As root, on a Linux that permits it, each step runs as it stands, in a root of its own: an overlay over this machine's
files, which is read-only but for the volume once it is built. So `useradd` makes its user, and the hub runs as that
user. Elsewhere a folder stands for the root; users and ownership are left out. Neither shows the base image: this
machine and its Python take its place.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.nats_servers import free_port

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
PATIENCE = 60.0

ROOM = """
set -e
mount -t tmpfs -o mode=755 room "$1"
mkdir -p "$1/upper/root" "$1/upper/python" "$1/work/root" "$1/work/python" "$1/root" "$1/volume"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper/root,workdir=$1/work/root" room "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper/python,workdir=$1/work/python" room "$1/root/usr/local"
chroot "$1/root" ldconfig
mount --rbind /proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
mount -t tmpfs -o mode=1777 tmp "$1/root/tmp"
echo ready
exec cat
"""
"""Makes a root in a folder, which no other process sees, and keeps it until the end of standard input.

A second overlay puts the folder of this Python where the base image has its own.
"""

SEAL = """
set -e
chown --reference="$1/root$2" "$1/volume"
chmod --reference="$1/root$2" "$1/volume"
mount --bind "$1/volume" "$1/root$2"
mount -o remount,ro "$1/root/usr/local"
mount -o remount,ro "$1/root"
"""
"""A root as a container has it: read-only, with a volume that takes the owner and the mode of the folder below it."""

pytestmark = pytest.mark.timeout(900)


class Step(NamedTuple):
    """One instruction of a recipe."""

    name: str
    words: str


def steps() -> Iterator[Step]:
    """The instructions of the recipe, in order."""
    for line in CONTAINERFILE.read_text().splitlines():
        if line and not line.startswith("#"):
            yield Step(*line.split(maxsplit=1))


class Image:
    """An image that is built step by step in a folder.

    Attributes:
        environment: what processes in it get.
        health: the command that asks its health.
        command: what a container of it runs.
    """

    has_users = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            name: text for name, text in os.environ.items() if not name.startswith(("HUB_", "PYTHON", "VIRTUAL"))
        }
        self.environment["PATH"] = self._inside("/usr/local/bin") + ":/usr/sbin:/usr/bin:/sbin:/bin"
        self.health: list[str] = []
        self.command: list[str] = []
        self._directory = "/"
        python = self.path("/usr/local/bin/python")  # the base image's
        python.parent.mkdir(parents=True, exist_ok=True)
        python.unlink(missing_ok=True)
        python.symlink_to(self._python())

    def _python(self) -> Path:
        return Path(sys.executable)

    def path(self, inside: str) -> Path:
        """Where a file of the image is for this test."""
        return self.root / inside.lstrip("/")

    def _inside(self, words: str) -> str:
        """Words whose absolute paths lie below the root."""
        return re.sub(r"(^|[\s=:])/(?=\w)", rf"\1{self.root}/", words)

    def build(self) -> None:
        """Carry out every step; the first that fails fails the test."""
        for step in steps():
            getattr(self, f"_{step.name.lower()}", self._told)(step.words)

    def _told(self, words: str) -> None:
        """VOLUME, EXPOSE, STOPSIGNAL, in a folder also USER: nothing to be done."""

    def _from(self, _words: str) -> None:
        """A new stage: what the one before it has made is there only as far as it is copied."""
        if self._directory != "/":
            shutil.rmtree(self.path(self._directory))
            self._directory = "/"

    def _workdir(self, words: str) -> None:
        self._directory = words
        self.path(words).mkdir(parents=True)

    def _copy(self, words: str) -> None:
        if words.startswith("--from="):
            _, source, target = words.split()
            assert source == target  # both stages have this folder: it is there
            assert self.path(source).is_dir()
            return
        *sources, target = words.split()
        for source in sources:
            self._copy_one(ROOT / source, self.path(self._directory) / target)

    def _copy_one(self, source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            is_folder = target.is_dir()
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / source.name if is_folder else target)

    def _run(self, words: str) -> None:
        done = self.start(["sh", "-c", self._runnable(words)])
        out, err = done.communicate(timeout=800)
        assert done.returncode == 0, f"{words}\n{out}{err}"

    def _runnable(self, words: str) -> str:
        kept = [part for part in words.split(" && ") if not part.startswith("useradd ")]
        return self._inside(" && ".join(kept).replace(" -o hub ", " "))

    def _env(self, words: str) -> None:
        for word in self._inside(words).split():
            name, _, text = word.partition("=")
            self.environment[name] = text.replace("$PATH", self.environment["PATH"])

    def _healthcheck(self, words: str) -> None:
        self.health = json.loads(words.partition("CMD ")[2])

    def _cmd(self, words: str) -> None:
        self.command = json.loads(words)

    def _entered(self, words: list[str]) -> list[str]:
        """The command that runs these words in the image, in the folder of the last WORKDIR."""
        program = shutil.which(words[0], path=self.environment["PATH"])
        assert program is not None, words
        return ["env", "-C", str(self.path(self._directory)), program, *words[1:]]

    def start(self, words: list[str], **variables: str) -> subprocess.Popen[str]:
        """A process in the image."""
        return subprocess.Popen(  # noqa: S603  ours
            self._entered(words),
            env=self.environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, words: list[str], **variables: str) -> tuple[int, str, str]:
        """A process to its end: its status and what it printed."""
        process = self.start(words, **variables)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def files(self) -> dict[str, int]:
        """Everything outside the volume that was made, with the times of the last changes."""
        every = (path for path in self.root.rglob("*") if not path.is_relative_to(self.root / "data"))
        return {str(path): path.lstat().st_mtime_ns for path in every}


class RootedImage(Image):
    """An image with a root of its own, which the process `holder` keeps mounted in a folder."""

    has_users = True

    def __init__(self, folder: Path, holder: int) -> None:
        self._folder = folder
        self._holder = holder
        self._runs_as = "root"
        super().__init__(Path(f"/proc/{holder}/root{folder}/root"))

    def _inside(self, words: str) -> str:
        return words

    def _runnable(self, words: str) -> str:
        return words

    def _python(self) -> Path:
        return Path(sys.executable).resolve().relative_to(Path(sys.base_prefix) / "bin")

    def build(self) -> None:
        """Carry out every step, then make the root read-only but for the volume."""
        super().build()
        [volume] = [step.words for step in steps() if step.name == "VOLUME"]
        [self._runs_as] = [step.words for step in steps() if step.name == "USER"]
        self.environment["HOME"] = "/nonexistent"  # engines take the user's, which is not made
        words = [*self._in_its_mounts(), "sh", "-c", SEAL, "sh", str(self._folder), volume]
        subprocess.run(words, check=True, timeout=PATIENCE)  # noqa: S603  ours

    def _in_its_mounts(self) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._holder}/ns/mnt", "--"]

    def _entered(self, words: list[str]) -> list[str]:
        enter = ["chroot", f"--userspec={self._runs_as}", f"{self._folder}/root", "env", "-C", self._directory]
        return [*self._in_its_mounts(), *enter, *words]

    def files(self) -> dict[str, int]:
        """What the overlays have beside this machine's files; the volume lies outside of them."""
        upper = Path(f"/proc/{self._holder}/root{self._folder}/upper")
        return {str(path): path.lstat().st_mtime_ns for path in upper.rglob("*")}


@contextmanager
def room(folder: Path) -> Iterator[int]:
    """The id of a process that keeps a root mounted in a folder; 0 where this machine does not permit that."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "chroot", "useradd"))):
        yield 0
        return
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ROOM, "sh"]
    command += [str(folder), sys.base_prefix]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603  ours
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        yield holder.pid if holder.stdout.readline() == "ready\n" else 0
    finally:
        holder.stdin.close()
        holder.wait(PATIENCE)
        holder.stdout.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image, built."""
    folder = tmp_path_factory.mktemp("image")
    with room(folder) as holder:
        made = RootedImage(folder, holder) if holder else Image(folder)
        made.build()
        yield made


def test_the_hub_has_a_user_of_its_own(image: Image) -> None:
    """It may read the program and change none of it; the volume is its own, and shut to others."""
    if not image.has_users:
        pytest.skip("needs root, and a Linux that permits mounts")
    assert image.run(["sh", "-c", "id -un; id -u"])[:2] == (0, "hub\n10001\n")
    assert image.run(["stat", "-c", "%U %a", "/data"])[:2] == (0, "hub 700\n")
    assert image.run(["find", "/opt/hub", "!", "-readable"])[:2] == (0, "")
    assert image.run(["find", "/opt/hub", "-user", "hub"])[:2] == (0, "")
    code, _, errors = image.run(["touch", "/opt/hub/touched"])
    assert (code, "Read-only file system" in errors) == (1, True)
    assert not image.path("/src").exists()


def test_the_image_serves_and_is_healthy(image: Image) -> None:
    """`hub init` makes the keys, the command serves, the health check passes; nothing but the volume is written."""
    assert image.path("/opt/hub/bin/hub").is_file()
    assert image.path("/data").stat().st_mode & 0o777 == 0o700
    before = image.files()
    code, keys, errors = image.run(["hub", "init"], **variables_before("hub init"))
    assert (code, "HUB_ADMIN_KEY" in keys) == (0, True), errors
    loopback = {"HUB_LISTEN": "127.0.0.1:0", "HUB_HTTP_LISTEN": f"127.0.0.1:{free_port()}"}
    serving = image.start(image.command, **loopback)
    try:
        end = time.monotonic() + PATIENCE
        while image.run(image.health, **loopback)[0] and time.monotonic() < end:
            time.sleep(0.2)
        assert image.run(image.health, **loopback) == (0, "ok\n", "")
    finally:
        serving.send_signal(getattr(signal, stop_signal()))
        out, err = serving.communicate(timeout=PATIENCE)
    assert (serving.returncode, out) == (0, ""), err
    assert [json.loads(line)["event"] for line in err.splitlines()][-1] == "stopped"
    assert image.files() == before


def variables_before(command: str) -> dict[str, str]:
    """The variables that the Containerfile's comment sets for a command in the image."""
    [line] = [one for one in CONTAINERFILE.read_text().splitlines() if one.endswith(f" tickets-hub {command}")]
    return dict(re.findall(r"-e (\w+)=(\S+)", line))


def stop_signal() -> str:
    """The signal that ends a container."""
    [name] = [step.words for step in steps() if step.name == "STOPSIGNAL"]
    return name


def test_the_image_serves_no_plaintext_by_default(image: Image) -> None:
    """With its own settings and no certificate the start is refused, and says what is missing."""
    code, _, errors = image.run(image.command)
    assert code == 2
    assert "tls_certificate" in errors
