"""`make dist`: the wheel and the sdist of the server and its client work away from the repository."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.support.programs import needs

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SERVER_LOCK = ROOT / "requirements" / "server.txt"


def run(*words: str | Path, cwd: Path, seconds: float = 400) -> str:
    """Run a command; returns what it printed, and fails where it fails."""
    environment = {
        name: text for name, text in os.environ.items() if not name.startswith(("HUB_", "PYTHON", "VIRTUAL"))
    }
    environment["PATH"] = f"{Path(needs('grpcurl')).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(  # noqa: S603  ours
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=seconds
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make dist` fills."""
    folder = tmp_path_factory.mktemp("dist")
    run("make", "--silent", "dist", f"DIST={folder}", cwd=ROOT)
    return folder


def fresh_environment(folder: Path) -> Path:
    """A new venv with what the server's lock pins; returns its Python."""
    run(BIN / "uv", "venv", "--quiet", "--python", sys.executable, folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    install(python, "--require-hashes", "--requirement", SERVER_LOCK)
    return python


def install(python: Path, *words: str | Path) -> None:
    """Install something into an environment."""
    run(BIN / "uv", "pip", "install", "--quiet", "--python", python, *words, cwd=python.parent)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("ending", ["*.whl", "*.tar.gz"], ids=["wheel", "sdist"])
def test_the_tour_runs_from_the_installed_packages(dist: Path, tmp_path: Path, ending: str) -> None:
    """Into a fresh environment, in another folder; every command of README's tour prints what README says."""
    needs("grpcurl")
    python = fresh_environment(tmp_path / "venv")
    files = sorted(dist.glob(ending))
    assert [file.name.partition("-")[0] for file in files] == ["tickets_hub", "tickets_hub_client"]
    install(python, "--no-deps", "--no-build-isolation", "--no-index", *files)
    names = "hub, tickets_hub, tickets.hub.v1.event_pb2"
    where = f"import {names}; print(*(one.__file__ for one in ({names})))"
    assert all(Path(file).is_relative_to(tmp_path) for file in run(python, "-c", where, cwd=tmp_path).split())
    assert run(tmp_path / "venv" / "bin" / "hub", "--version", cwd=tmp_path).startswith("hub ")
    run(python, ROOT / "tools" / "tour.py", cwd=tmp_path)


def metadata_of(wheel: Path) -> Message:
    """What a wheel says of itself."""
    with zipfile.ZipFile(wheel) as opened:
        [name] = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(opened.read(name))


def test_the_wheel_has_its_metadata(dist: Path) -> None:
    """Classifiers, the extra, the client of exactly its version; it is typed, and holds nothing of the client."""
    [wheel] = dist.glob("tickets_hub-*.whl")
    says = metadata_of(wheel)
    assert says.get_all("Provides-Extra") == ["jetstream"]
    assert f"tickets-hub-client=={says['Version']}" in says.get_all("Requires-Dist", [])
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.11"} <= set(says.get_all("Classifier", []))
    assert says["License-Expression"] == "MIT"
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    assert {"hub/py.typed", "hub/cli/serve.py"} <= names
    assert not any(name.startswith(("tests/", "bench/", "tickets_hub/")) for name in names)


def test_the_sdist_has_sources_and_documents(dist: Path) -> None:
    """Source, contract, documents and what operators install; no test data, and nothing that git leaves out."""
    [sdist] = dist.glob("tickets_hub-*.tar.gz")
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "hub/app.py", "deploy/hub.service"} <= names
    assert {"protos/tickets/hub/v1/event.proto", "docs/operations.md"} <= names
    assert not any(name.startswith(("tests/", "data/", ".venv/", "clients/")) for name in names)
