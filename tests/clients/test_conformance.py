"""Each client does what the scripts of ``conformance/`` say."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from conformance.__main__ import END, WEBHOOKS, play, verify_webhooks
from conformance.scripts import HERE, Script, load

ROOT = Path(__file__).parents[2]
SCRIPTS = load()
REQUESTS = [case["name"] for case in json.loads(WEBHOOKS.read_text())]


@pytest.fixture(scope="module")
def wrong(client: list[str]) -> dict[str, str]:
    """What a client does otherwise than the scripts say, by the name of the script."""
    return asyncio.run(play(client, SCRIPTS)) | asyncio.run(verify_webhooks(client))


@pytest.mark.timeout(300)  # the first one of a client plays them all
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_client_follows_the_script(wrong: dict[str, str], script: Script) -> None:
    """What it checks is described in the script."""
    assert script.name not in wrong, wrong[script.name]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", REQUESTS)
def test_the_client_verifies_webhooks(wrong: dict[str, str], name: str) -> None:
    """A request of the hub verifies, any other does not."""
    assert name not in wrong, wrong[name]


@pytest.mark.timeout(300)
def test_the_conformance_program_ends_with_its_input(wrong: dict[str, str]) -> None:
    """None of its closed clients keeps it alive."""
    assert END not in wrong, wrong[END]


def test_every_documented_ending_has_a_script() -> None:
    """The rows of "Endings" in docs/delivery.md are those of endings.json: statuses, reasons, and whether to retry."""
    section = (ROOT / "docs" / "delivery.md").read_text().partition("\n## Endings\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    documented = {
        (status, reason)
        for statuses, reasons, *_ in rows[2:]
        for status in re.findall(r"[A-Z_]{2,}", statuses)
        for reason in re.findall(r"[A-Z_]{2,}", reasons) or [""]
    }
    played = {(row["code"], row["reason"]) for row in json.loads((HERE / "endings.json").read_text())}
    assert documented == played


def test_the_documentation_and_the_scripts_agree_on_retries() -> None:
    """If the page says no or never, the script stops; if it says yes, the script continues."""
    section = (ROOT / "docs" / "delivery.md").read_text().partition("\n## Endings\n")[2].partition("\n## ")[0]
    retries = {
        reason: retry.strip("* ")
        for line in section.splitlines()
        if line.startswith("| ")
        for _, reasons, retry, *_ in [line.strip("|").split("|")]
        for reason in re.findall(r"[A-Z_]{4,}", reasons)
    }
    for row in json.loads((HERE / "endings.json").read_text()):
        said = retries.get(row["reason"], "yes")
        if said in ("yes", "no", "never"):
            assert row["retry"] == (said == "yes"), row
