"""The lock fits pyproject.toml, and names hashes but no addresses."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CLIENT_PROJECT: dict[str, Any] = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text())
CLIENT = CLIENT_PROJECT["project"]
LOCKS = ("dev", "server", "pages")
PRIVATE_PARTS_USED = ("aiosqlite", "nats-py", "grpcio", "grpcio-health-checking", "grpcio-reflection")
PYTHONS = ("3.11", "3.12", "3.13")


def entries(lock: str) -> Iterator[str]:
    """Every entry of a lock as one line: requirement and hashes."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text().replace("\\\n", " ")
    return (line for line in text.splitlines() if line and not line.startswith("#"))


def pinned(lock: str) -> dict[str, Requirement]:
    """What a lock pins, by normalised name."""
    found = (Requirement(line.partition("--hash")[0]) for line in entries(lock))
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def group(name: str) -> Iterator[str]:
    """The requirements of a dependency group, with those of the groups that it includes."""
    for line in PROJECT["dependency-groups"][name]:
        if isinstance(line, str):
            yield line
        else:
            yield from group(line["include-group"])


def declared(lock: str) -> list[Requirement]:
    """What the server and its client ask for in the environment that a lock describes, but for the client itself."""
    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    groups = group("build" if lock == "server" else lock)
    wanted = [Requirement(line) for line in [*project["dependencies"], *CLIENT["dependencies"], *extras, *groups]]
    return [one for one in wanted if one.name != CLIENT["name"]]


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_matches_the_declared_dependencies(lock: str) -> None:
    """Each declared dependency is pinned to a version that its bounds allow; else run `make lock`."""
    pins = pinned(lock)
    for wanted in declared(lock):
        pin = pins.get(canonicalize_name(wanted.name))
        assert pin is not None, f"{wanted.name} is not in requirements/{lock}.txt: run 'make lock'"
        [version] = [specifier.version for specifier in pin.specifier]
        assert wanted.specifier.contains(version), f"{pin} is outside of {wanted}: run 'make lock'"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_has_hashes_and_no_address(lock: str) -> None:
    """Each entry is one exact version with SHA-256 hashes; where packages come from is for the installer to know."""
    for line in entries(lock):
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ; [^#@]+?)?( +--hash=sha256:[0-9a-f]{64})+ *", line), line[:80]
    assert "://" not in (ROOT / "requirements" / f"{lock}.txt").read_text()


def test_the_servers_lock_is_part_of_the_development_lock() -> None:
    """The server's lock is a part of the other: the same versions of the same packages."""
    tested = pinned("dev")
    assert {name: str(pin) for name, pin in pinned("server").items()}.items() <= {
        name: str(pin) for name, pin in tested.items()
    }.items()


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_holds_for_every_python_that_the_project_runs_on(python: str) -> None:
    """On each supported Python, on Linux, the declared dependencies are pinned and not excluded by a marker."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    pins = pinned("dev")
    for wanted in declared("dev"):
        marker = pins[canonicalize_name(wanted.name)].marker
        assert marker is None or marker.evaluate(environment), f"{wanted.name} is left out on Python {python}"


@pytest.mark.parametrize("name", PRIVATE_PARTS_USED)
def test_libraries_with_used_private_parts_have_upper_bounds(name: str) -> None:
    """Where private parts of a library are used, the declaration ends below its next minor version."""
    ours = (wanted for wanted in declared("dev") if str(wanted) not in CLIENT["dependencies"])
    bounds = [wanted.specifier for wanted in ours if canonicalize_name(wanted.name) == name]
    assert bounds
    for specifier in bounds:
        assert {one.operator for one in specifier} == {">=", "<"}, f"{name} has no upper bound"


def test_the_server_comes_with_the_client_of_its_version() -> None:
    """Both have one version, and the server asks for exactly that: they share the contract's messages."""
    assert CLIENT["version"] == PROJECT["project"]["version"]
    assert f"{CLIENT['name']}=={CLIENT['version']}" in PROJECT["project"]["dependencies"]
    for lock in LOCKS:
        assert CLIENT["name"] not in pinned(lock), "it is installed from clients/python, not from a package index"


def test_the_build_backend_is_pinned() -> None:
    """What builds the project is in both locks, so that an install downloads nothing that has no hash."""
    builders = [Requirement(line) for one in (PROJECT, CLIENT_PROJECT) for line in one["build-system"]["requires"]]
    assert builders
    for lock in LOCKS:
        assert {canonicalize_name(builder.name) for builder in builders} <= pinned(lock).keys()
