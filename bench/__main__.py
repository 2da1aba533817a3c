"""The bench: ``python -m bench`` measures, prints a table, and writes it down under docs/."""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import latency, machine, reach, report
from bench.figures import Figure, lines

Section = Callable[[Path, int], Awaitable[list[Figure]]]

REACH: dict[str, Section] = {
    "catch-up": reach.catch_up,
    "live": reach.live,
    "unary": reach.unary,
    "batches": reach.batches,
    "latency": latency.latency,
    "long-log": latency.long_log,
}


async def run(names: list[str], runs: int) -> list[Figure]:
    """Measure these sections, each in a directory of its own that goes when it is done."""
    figures: list[Figure] = []
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="bench-") as data:
            found = await REACH[name](Path(data), runs)
        figures += found
        print(f"-- {name}: {time.monotonic() - began:.0f} s")
        show(lines(found)[1:])
    return figures


def show(table: list[list[str]]) -> None:
    """Print a table, its columns aligned."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(REACH)}; all unless given, which are written down")
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    machine.require_linux()
    began = time.monotonic()
    figures = asyncio.run(run(asked.sections or list(REACH), asked.runs))
    print()
    show(lines(figures))
    if not asked.sections:
        report.save_reach(figures, time.monotonic() - began, asked.runs)


if __name__ == "__main__":
    main()
