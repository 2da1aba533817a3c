"""docs/runbook.md has an entry for each alert and each line of the log of level warning or above, and no others."""

import ast
import json
import re
from collections.abc import Iterator

from tests.operations.prometheus import ROOT, RULES

LEVELS = {"warning", "error", "critical", "exception", "log"}


def logged() -> Iterator[str]:
    """What names each line of level warning or above that the hub's code can log; the client logs for others."""
    for file in (ROOT / "hub").rglob("*.py"):
        if file.relative_to(ROOT / "hub").parts[0] == "client":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and is_logging(node.func):
                yield from names(node)


def is_logging(called: ast.expr) -> bool:
    """Whether this is a logger's method for one of the levels."""
    if not isinstance(called, ast.Attribute) or called.attr not in LEVELS:
        return False
    return re.search(r"\b_?log$|get_logger\(\)$", ast.unparse(called.value)) is not None


def names(call: ast.Call) -> Iterator[str]:
    """The texts that may name the line of one call: of `log`, after the level."""
    assert isinstance(call.func, ast.Attribute)
    [named] = call.args[1:2] if call.func.attr == "log" else call.args[:1]
    for node in ast.walk(named):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def rows(title: str) -> list[str]:
    """What the rows below a heading are about."""
    part = (ROOT / "docs" / "runbook.md").read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    found = [line.split(" | ") for line in part.splitlines() if line.startswith("| `")]
    assert all(len(cells) == 4 and all(cells) for cells in found)
    return [cells[0].strip("|` ") for cells in found]


def test_every_alert_is_in_the_runbook() -> None:
    """By its name, and each entry an alert."""
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    assert len(alerts) > 10
    assert sorted(rows("Alerts")) == sorted(alerts)


def test_every_warning_is_in_the_runbook() -> None:
    """By what names the line, and each entry a line that the code can log."""
    assert sorted(rows("Log events")) == sorted(set(logged()))


def test_the_dashboard_is_json_with_queries() -> None:
    """Each panel asks for something; a test with a real Prometheus tries each query."""
    panels = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())["panels"]
    assert len(panels) > 10
    assert all(target["expr"] for panel in panels for target in panel["targets"])
