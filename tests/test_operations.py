"""docs/operations.md explains every line that the hub logs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

CALL = re.compile(r"\b(?:get_logger\(\)|_?log)\.(?:info|warning|error)\((.*?)[,)]\s*(?:\w+=|\*\*|$|\n)", re.DOTALL)
"""A line of the log, up to the end of what names it."""


def events() -> set[str]:
    """What names each line that the hub may log."""
    calls = [call for file in (ROOT / "hub").rglob("*.py") for call in CALL.findall(file.read_text())]
    return {name for call in calls for name in re.findall(r'"([^"]+)"', call)}


def test_every_line_of_the_log_is_explained() -> None:
    """The table "What to watch in the log" has each; for one with a colon, the part before it is enough."""
    table = (ROOT / "docs" / "operations.md").read_text().partition("## What to watch")[2].partition("\n## ")[0]
    named = {name.removesuffix(" ...") for name in re.findall(r"`([^`]+)`", table)}
    assert len(events()) > 10
    assert [one for one in sorted(events()) if one not in named and f"{one.partition(':')[0]}:" not in named] == []
