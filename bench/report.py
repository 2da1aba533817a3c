"""Writes the table of figures: as JSON, and as Markdown with charts."""

from typing import Any

import msgspec

from bench import charts
from bench.figures import Figure, lines
from bench.servers import ROOT

DOCS = ROOT / "docs"
PAGE = DOCS / "performance.md"
_PARTS = {
    "reach": ("Against the floor and the peers", "make bench"),
    "growth": ("How cost grows", "make bench-long"),
    "metrics": ("What metrics cost", "make bench-metrics"),
}

_HEAD = """# Performance

The program in `bench/` writes this page from its own measurements, over loopback, on the machines described below.
Compare ratios, because both sides of a ratio come from the same run; absolute figures depend on the machine.

Processor time is that of the server process alone, with all of its threads, as the operating system counts it. The
load comes from other processes on the same cores. Events have about 100 bytes. The floor is a bare grpc.aio server
with ready bytes: no store, no permission, no validation; each stream has a connection of its own. JetStream and Redis
acknowledge after fsync, as the hub does. Values are medians of the runs; a ratio is the median of the ratios. (*): in
some run a load program used more than 90 % of a core, so that it limited the figure. A figure without a target is
reported for comparison.
"""


def save(part: str, figures: list[Figure], described: dict[str, str], seconds: float, runs: int) -> None:
    """Write the figures of a part of the bench; `described`: the machine, before it began."""
    result = _Part(described, runs, round(seconds), figures)
    (DOCS / f"performance-{part}.json").write_bytes(pretty(result))
    charts.save(figures, DOCS / f"performance-{part}")
    write_page()


def save_soak(result: msgspec.Struct) -> None:
    """Write the result of a soak."""
    (DOCS / "performance-soak.json").write_bytes(pretty(result))
    write_page()


def pretty(result: msgspec.Struct) -> bytes:
    """JSON that people can compare line by line."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"


def write_page() -> None:
    """Write the page again from the stored figures."""
    parts = [_HEAD]
    for part, (title, command) in _PARTS.items():
        file = DOCS / f"performance-{part}.json"
        if file.exists():
            parts.append(part_lines(part, title, command, msgspec.json.decode(file.read_bytes(), type=_Part)))
    file = DOCS / "performance-soak.json"
    if file.exists():
        parts.append(soak_lines(msgspec.json.decode(file.read_bytes())))
    PAGE.write_text("\n".join(parts))


class _Part(msgspec.Struct):
    machine: dict[str, str]
    runs: int
    seconds: int
    figures: list[Figure]


def part_lines(part: str, title: str, command: str, result: _Part) -> str:
    """A part as Markdown."""
    notes = [f"- {one.name}: {one.note}" for one in result.figures if one.note]
    return "\n".join(
        [
            f"## {title}\n",
            f"`{command}`: {result.runs} runs, {result.seconds} s in all.\n",
            *machine_lines(result.machine),
            f"\n{picture(part, title)}\n",
            *markdown(lines(result.figures)),
            "",
            *notes,
            "",
        ]
    )


def picture(part: str, title: str) -> str:
    """The charts of a part, as light or dark as the page."""
    dark, light = f"performance-{part}-dark.svg", f"performance-{part}-light.svg"
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{title}" src="{light}"></picture>'
    )


def soak_lines(result: dict[str, Any]) -> str:
    """The soak as Markdown."""
    rows = [[name, f"{value:,.0f}", f"{result['after'][name]:,.0f}"] for name, value in result["before"].items()]
    return "\n".join(
        [
            "## Resources after a mixed load\n",
            f"`make soak`: {result['seconds']} s, {result['calls']:,} calls: emits, some cancelled, streams that open",
            "and close, keys that end under open streams. The hub after its warm-up, and after the load:\n",
            *markdown([["", "before", "after"], *rows]),
            "",
            f"Steps of the event loop over 10 ms: {result['long_steps']}, of which {result['busy_steps']} were on the",
            "processor for that long; the others waited for it.",
            "",
            *(f"- `{step}`" for step in result["worst"]),
            "",
        ]
    )


def machine_lines(described: dict[str, str]) -> list[str]:
    """The machine, a line each."""
    return [f"- {name}: {value}" for name, value in described.items()]


def markdown(table: list[list[str]]) -> list[str]:
    """A table as Markdown, its first line the heading."""
    head, *rows = [f"| {' | '.join(row)} |" for row in table]
    return [head, "|" + "---|" * len(table[0]), *rows]
