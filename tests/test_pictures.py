"""The pictures of README match their sources, and load nothing from elsewhere."""

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "pictures.py"))
DRAWN = sorted((ROOT / "docs" / "pictures").glob("*.svg"))


@pytest.mark.parametrize("theme", TOOL["THEMES"])
def test_the_flow_picture_is_up_to_date(theme: str) -> None:
    """The picture in the repository is what `make pictures` draws from flow.toml today."""
    assert (ROOT / "docs" / "pictures" / f"flow-{theme}.svg").read_text() == TOOL["flow"](theme)


@pytest.mark.parametrize("picture", DRAWN, ids=lambda path: path.name)
def test_a_picture_is_self_contained(picture: Path) -> None:
    """It is well-formed, has a title for screen readers, and refers to no other file or address."""
    root = ET.fromstring(picture.read_text())  # noqa: S314  our own file
    assert root.findtext("{http://www.w3.org/2000/svg}title")
    rest = picture.read_text().replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?:|@import|@font-face|url\((?!#)|href", rest) == []


def test_the_demo_picture_shows_a_revoked_scope() -> None:
    """The terminal shows the three columns, and the notice of an integration when an admin takes a scope away."""
    shown = "".join(ET.fromstring((ROOT / "docs/pictures/demo.svg").read_text()).itertext()).replace("\xa0", " ")  # noqa: S314  our own file
    for words in ("Stats board", "Doorman", "Archive", "member_verified_identity taken away", "verified: somebody"):
        assert words in shown


def test_readme_shows_every_picture() -> None:
    """Every picture is shown, and every shown picture exists."""
    named = set(re.findall(r"docs/pictures/[\w-]+\.svg", (ROOT / "README.md").read_text()))
    assert named == {str(path.relative_to(ROOT)) for path in DRAWN}
