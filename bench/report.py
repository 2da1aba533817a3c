"""The table written down: as JSON, and as Markdown with a chart."""

from typing import Any

import msgspec

from bench.figures import Figure, lines
from bench.servers import ROOT

DOCS = ROOT / "docs"
PAGE = DOCS / "performance.md"
_PARTS = {
    "reach": ("Against the floor and the peers", "make bench"),
    "growth": ("How cost grows", "make bench-long"),
}

_BAR, _GAP, _LEFT, _WIDTH = 16, 12, 430, 400
"""Pixels of the chart: a bar, the space after it, the names on the left, the longest bar."""

_HEAD = """# Performance

This page is written by the program, `bench/`, from what it measured on the machine named below, over loopback.
Compare ratios, which are of one run; absolute figures are of this machine.

Processor time is the server's alone, all of its threads, as the operating system counts it per process. The load comes
from other processes on the same cores. Events have about 100 bytes. The floor is a bare grpc.aio server with ready
bytes: no store, no permission, no validation; each stream has a connection of its own. JetStream and Redis acknowledge
after fsync, as the hub does. Values are medians of the runs; a ratio is the median of the ratios. (*): in some run
a load program used more than 90 % of a core, so that it limited the figure. Reach and dream are what was aimed at; a
figure without them is reported for comparison.
"""


def save(part: str, figures: list[Figure], described: dict[str, str], seconds: float, runs: int) -> None:
    """Write down what a part of the bench measured; `described`: the machine, before it began."""
    told = _Part(described, runs, round(seconds), figures)
    (DOCS / f"performance-{part}.json").write_bytes(pretty(told))
    (DOCS / f"performance-{part}.svg").write_text(ratio_chart(figures))
    write_page()


def save_soak(told: msgspec.Struct) -> None:
    """Write down what a soak told."""
    (DOCS / "performance-soak.json").write_bytes(pretty(told))
    write_page()


def pretty(told: msgspec.Struct) -> bytes:
    """JSON that people can compare line by line."""
    return msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n"


def write_page() -> None:
    """Make the page anew from what is written down."""
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


def part_lines(part: str, title: str, command: str, told: _Part) -> str:
    """A part as Markdown."""
    notes = [f"- {one.name}: {one.note}" for one in told.figures if one.note]
    return "\n".join(
        [
            f"## {title}\n",
            f"`{command}`: {told.runs} runs, {told.seconds} s in all.\n",
            *machine_lines(told.machine),
            f"\n![Ratios](performance-{part}.svg)\n",
            *markdown(lines(told.figures)),
            "",
            *notes,
            "",
        ]
    )


def soak_lines(told: dict[str, Any]) -> str:
    """The soak as Markdown."""
    rows = [[name, f"{value:,.0f}", f"{told['after'][name]:,.0f}"] for name, value in told["before"].items()]
    return "\n".join(
        [
            "## What comes back after a mixed load\n",
            f"`make soak`: {told['seconds']} s, {told['calls']:,} calls: emits, some cancelled, streams that come and",
            "go, keys that end under open streams. The hub after its warm-up, and after the load:\n",
            *markdown([["", "before", "after"], *rows]),
            "",
            f"Steps of the event loop over 10 ms: {told['long_steps']}, of which {told['busy_steps']} were on the",
            "processor for that long; the others waited for it.",
            "",
            *(f"- `{step}`" for step in told["worst"]),
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


def ratio_chart(figures: list[Figure]) -> str:
    """A bar for each ratio, as a share of what it may be; a line marks the reach."""
    shown = [one for one in figures if one.reach]
    rows = [_ratio_row(number, one) for number, one in enumerate(shown)]
    mark = _LEFT + _WIDTH // 2
    height = (_BAR + _GAP) * len(shown) + 40
    line = f'<line x1="{mark}" y1="24" x2="{mark}" y2="{height}" stroke="#444" stroke-dasharray="4 3"/>'
    title = f'<text x="{mark}" y="16" text-anchor="middle">reach (shorter is better)</text>'
    return svg(_LEFT + _WIDTH + 90, height, [title, *rows, line])


def _ratio_row(number: int, one: Figure) -> str:
    share = one.reach / one.ratio if one.more else one.ratio / one.reach
    top = 30 + number * (_BAR + _GAP)
    width = min(_WIDTH, round(share * _WIDTH / 2))
    colour = {"dream": "#2f855a", "reached": "#3182ce"}.get(one.verdict, "#c05621")
    name = f"{one.name} / {one.against}"
    told = f"{one.ratio:.2f}x of {'>=' if one.more else '<='} {one.reach:g}x"
    return (
        f'<text x="{_LEFT - 8}" y="{top + 12}" text-anchor="end">{escaped(name)}</text>'
        f'<rect x="{_LEFT}" y="{top}" width="{width}" height="{_BAR}" fill="{colour}"/>'
        f'<text x="{_LEFT + width + 6}" y="{top + 12}">{escaped(told)}</text>'
    )


def svg(width: int, height: int, parts: list[str]) -> str:
    """A drawing."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def escaped(text: str) -> str:
    """Text within a drawing."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
