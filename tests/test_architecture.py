"""ARCHITECTURE.md names every module, and its walks name functions that exist."""

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
PACKAGES = [
    *sorted(file.parent.relative_to(ROOT).as_posix() for file in (ROOT / "hub").rglob("__init__.py")),
    "clients/python/tickets_hub",
]
WALKS = ("The walk of an event", "The walk of a SetScopes", "The walk of a stop")
DOTTED = re.compile(r"`((?:[a-z_]+\.)+[A-Z]?\w+(?:\.\w+)*)`")
"""A dotted name below `hub`: `delivery.feed.Feed.append`."""


def walk(title: str) -> list[str]:
    """The dotted names in a section of the page, in order."""
    _, found, rest = PAGE.partition(f"\n## {title}\n")
    assert found, f"ARCHITECTURE.md has no section {title!r}"
    return DOTTED.findall(rest.partition("\n## ")[0])


@pytest.mark.parametrize("title", WALKS)
def test_every_step_of_a_walk_exists(title: str) -> None:
    """A function that was renamed or moved is renamed in the walk, too."""
    names = walk(title)
    assert len(names) >= 10
    for name in names:
        assert callable(resolve_name(f"hub.{name}")), name


def listed(package: str) -> set[str]:
    """The modules in the table of a package."""
    _, found, rest = PAGE.partition(f"\n### `{package}/`")
    assert found, f"ARCHITECTURE.md has no table of {package}/"
    rows = re.findall(r"^\| (`.*?) \|", re.split(r"\n##", rest)[0], re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_is_listed(package: str) -> None:
    """A module that is added, renamed or removed changes the table of its package, too."""
    files = {file.stem for file in (ROOT / package).glob("*.py")} - {"__init__", "__main__"}
    unnamed = files - listed(package)
    assert unnamed == set(), "not in ARCHITECTURE.md"
    assert listed(package) - files == set(), "in ARCHITECTURE.md, and not in the package"
