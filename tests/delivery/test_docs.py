"""The table of endings in docs/delivery.md is the hub's own: every reason is there, with the status that it has."""

import re
from collections.abc import Iterator
from pathlib import Path

from tickets.hub.v1 import errors_pb2

from hub import errors
from hub.api.status import code_of

PAGE = Path(__file__).parents[2] / "docs" / "delivery.md"

NOT_OF_STREAMS = {
    *("UNSPECIFIED", "NOT_OWNER", "INTEGRATION_NOT_FOUND", "KEY_NOT_FOUND", "EVENT_ID_CONFLICT", "ETAG_MISMATCH"),
    "EMITTER_SEQUENCE_GAP",
    *("STATE_FORBIDS", "ROTATION_IN_PROGRESS", "RULES_NOT_MET", "EMIT_BACKLOG_FULL", "TOO_MANY_INSTALLATIONS"),
    *("TOO_MANY_CHANGES", "TOO_MANY_SEARCHES", "TOO_MANY_ERASURES"),
    *("NOT_SUBJECT", "ERASURE_NOT_FOUND", "DISCLOSURES_NOT_READY"),
    *("ENDPOINT_NOT_FOUND", "ENDPOINT_EXISTS", "ENDPOINT_NOT_VERIFIED", "TOO_MANY_ENDPOINTS"),
}
"""Reasons that no Subscribe ends with."""


def rows() -> Iterator[tuple[str, list[str]]]:
    """The statuses of each row of the table, as text, and its reasons."""
    table = PAGE.read_text().partition("## Endings")[2].partition("\n## ")[0]
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3:
            yield cells[1], re.findall(r"[A-Z_]{5,}", cells[2])


def statuses() -> dict[str, str]:
    """The status of every failure that the hub can name, by its reason."""
    found = {"INTERNAL": "INTERNAL"}
    waiting: list[type[errors.HubError]] = [errors.HubError]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        found[cls.reason()] = code_of(cls.__new__(cls)).name
    return found


def test_every_reason_is_documented_with_its_status() -> None:
    """A missing reason, or one with another status, would mislead a client."""
    known = statuses()
    told = {reason: status for status, reasons in rows() for reason in reasons}
    assert {reason: known[reason] for reason in told} == told
    names = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}  # noqa: SIM118  not a dict
    assert names - NOT_OF_STREAMS - {"INTERNAL"} == told.keys()
    assert any("INTERNAL" in status for status, _ in rows())
