"""The scripts: read from ``scripts/*.json``, and made from ``endings.json``, one for each ending of a stream."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

Step = dict[str, Any]

POLICY = {"first_delay": 0.02, "max_delay": 0.02, "open_timeout": 20.0, "slack": 20.0, "commit_interval": 0.01}
"""What a script's own policy changes. Short delays, and patience that no loaded machine exhausts."""

DELAY = [POLICY["first_delay"] / 2, POLICY["first_delay"]]
ASKED = 0.06
"""Seconds that the hub asks for: longer than the client's own largest delay, so that the two cannot be confused."""


@dataclass(frozen=True, slots=True)
class Script:
    """One conversation of the hub with a client.

    Attributes:
        name: of its file, or of the ending that it shows.
        rule: what it shows, as a sentence.
        steps: what the hub does, what the client is asked for, and what it must do then.
        policy: the delays and timeouts of the client, in seconds.
    """

    name: str
    rule: str
    steps: list[Step]
    policy: dict[str, float] = field(default_factory=dict)


def load() -> list[Script]:
    """Every script, in the order of their names."""
    return sorted([*written(), *endings()], key=lambda script: script.name)


def written() -> Iterator[Script]:
    """The scripts that are files."""
    for file in HERE.glob("scripts/*.json"):
        content = json.loads(file.read_text())
        yield Script(file.stem, content["rule"], content["steps"], POLICY | content.get("policy", {}))


def endings() -> Iterator[Script]:
    """One script for each row of ``endings.json``."""
    for row in json.loads((HERE / "endings.json").read_text()):
        end = {key: value for key, value in row.items() if key not in ("retry", "goodbye")}
        if row.get("retry_after") is not None:
            end["retry_after"] = ASKED
        name = "-".join(["ending", row["code"], *([row["reason"]] if row["reason"] else [])]).lower()
        name += "-goodbye" if row.get("goodbye") else "-in-time" if "retry_after" in end else ""
        goodbye: list[Step] = []
        if row.get("goodbye"):
            notice = {"reason": row["reason"], "reconnect": True, "retry_delay": f"{ASKED}s"}
            goodbye = [{"send": [{"cursor": "c2", "goodbye": notice}]}]
        rest = resumed(end, "c2" if goodbye else "c1") if row["retry"] else stopped(end)
        rule = "opens the stream again after its last frame" if row["retry"] else "gives the failure to its caller"
        yield Script(
            name.replace("_", "-"), f"After {row['code']} {row['reason'] or '(no reason)'} the client {rule}.",
            [*opened(), *goodbye, *rest], POLICY,
        )  # fmt: skip


def opened() -> list[Step]:
    """A stream that has delivered one event, and a caller who waits for the next."""
    return [
        {"do": "subscribe"},
        {"do": "next"},
        {"opens": {"request": {}}},
        {"send": [{"cursor": "c0", "ready": {"heartbeat_interval": "15s"}}, {"cursor": "c1", "events": ["a"]}]},
        {"gets": {"event": "a", "cursor": "c1"}},
        {"do": "next"},
    ]


def resumed(end: Step, cursor: str) -> list[Step]:
    """The stream ends, and the client goes on after `cursor`, not before its time."""
    asked = "retry_after" in end or cursor == "c2"
    delay = [ASKED, ASKED] if asked else DELAY
    return [
        {"end": end},
        {"notice": {"notice": "reconnecting", "code": end["code"], "reason": end["reason"], "delay": delay}},
        {"opens": {"request": {"cursor": cursor}, "not_before": delay[0]}},
        {"send": [{"cursor": "c3", "events": ["b"]}]},
        {"gets": {"event": "b", "cursor": "c3"}},
    ]


def stopped(end: Step) -> list[Step]:
    """The stream ends, its caller gets the failure once, and no other stream is opened."""
    return [
        {"end": {**end, "message": "no more"}},
        {"gets": {"error": {"code": end["code"], "reason": end["reason"], "message": "no more"}}},
        {"do": "next"},
        {"gets": {"end": True}},
    ]
