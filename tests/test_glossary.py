"""The glossary names modules that exist, and every term once."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "glossary.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| term ")
]
EXPECTED = {
    *("entry", "position", "epoch", "cursor", "tombstone", "compaction", "projection", "field mask", "chunk", "view"),
    *("fan-out group", "high watermark", "optimistic concurrency", "heartbeat", "takeover", "drain", "group commit"),
}
"""The terms that a newcomer meets first."""


def test_every_module_of_the_glossary_exists() -> None:
    """Each term names one module, by a path from the root of the repository."""
    for term, _, module in ROWS:
        path = re.fullmatch(r"`(hub/[\w/]+\.py)`", module)
        assert path, term
        assert (ROOT / path[1]).is_file(), f"{term}: {module} is gone; name the module where it lives now"


def test_every_term_has_one_sentence() -> None:
    """Each term is explained by one sentence with a full stop; the terms are in order, and none is missing."""
    terms = [term for term, _, _ in ROWS]
    assert terms == sorted(set(terms))
    assert set(terms) >= EXPECTED
    for term, sentence, _ in ROWS:
        assert re.fullmatch(r"[A-Z][^.]*\.", sentence), term
