"""The bench: ``python -m bench`` measures, prints a table, and writes it down under docs/.

``reach``: beside the floor and the peers; ``growth``: how cost grows; ``soak``: what comes back after a mixed load.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import depth, growth, latency, machine, reach, replicas, report, soak
from bench.figures import Figure, lines

Section = Callable[[Path, int], Awaitable[list[Figure]]]

SECTIONS: dict[str, dict[str, Section]] = {
    "reach": {
        "catch-up": reach.catch_up,
        "live": reach.live,
        "unary": reach.unary,
        "batches": reach.batches,
        "latency": latency.latency,
        "long-log": latency.long_log,
        "replicas": replicas.replicas,
    },
    "growth": {
        "outsiders": growth.outsiders,
        "insiders": growth.insiders,
        "log-length": depth.log_length,
        "population": depth.population,
        "reconnect": growth.reconnect,
        "memory": growth.memory,
    },
}


async def run(sections: dict[str, Section], runs: int) -> list[Figure]:
    """Measure these sections, each in a directory of its own that goes when it is done."""
    figures: list[Figure] = []
    for name, section in sections.items():
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bench-") as data:
            found = await section(Path(data), runs)
        figures += found
        print(f"-- {name}: {time.monotonic() - began:.0f} s")
        show(lines(found)[1:])
    return figures


def show(table: list[list[str]]) -> None:
    """Print a table, its columns aligned."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def measure(part: str, only: list[str], runs: int) -> None:
    """Measure a part, or some sections of it; a whole part is written down."""
    began, described = time.monotonic(), machine.described()
    figures = asyncio.run(run({name: SECTIONS[part][name] for name in only or SECTIONS[part]}, runs))
    print()
    show(lines(figures))
    if not only:
        report.save(part, figures, described, time.monotonic() - began, runs)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("part", nargs="?", default="reach", choices=["reach", "growth", "soak"])
    parser.add_argument("--only", nargs="*", default=[], help="sections; what they tell is not written down")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=300.0, help="of the soak")
    asked = parser.parse_args()
    machine.require_linux()
    if asked.part == "soak":
        asyncio.run(soak.soak(asked.seconds))
    else:
        measure(asked.part, asked.only, asked.runs)


if __name__ == "__main__":
    main()
