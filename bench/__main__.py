"""The bench: ``python -m bench`` measures, prints a table, and writes it down under docs/.

``reach``: beside the floor and the peers; ``growth``: how cost grows; ``metrics``: what counting and scraping cost;
``soak``: what comes back after a mixed load;
``half-open``: what calls without a request cost those who are served; ``revocations``: how soon a revocation at one of
three hubs reaches the streams at all of them; ``crawler``: what a crawler of the directory costs a live stream;
``erasure``: what an erasure costs those who emit, and how soon it hides at other hubs.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import (
    counting,
    crawler,
    depth,
    emitters,
    erasures,
    growth,
    half_open,
    latency,
    machine,
    reach,
    replicas,
    report,
    revocations,
    soak,
    webhooks,
)
from bench.figures import Figure, lines

Section = Callable[[Path, int], Awaitable[list[Figure]]]

SECTIONS: dict[str, dict[str, Section]] = {
    "reach": {
        "catch-up": reach.catch_up,
        "live": reach.live,
        "unary": reach.unary,
        "batches": reach.batches,
        "emitters": emitters.emitters,
        "latency": latency.latency,
        "linger": latency.linger,
        "long-log": latency.long_log,
        "webhooks": webhooks.delivery,
        "dead-endpoints": webhooks.dead,
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
    "metrics": {"counting": counting.counting, "scrapes": counting.scrapes},
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
    parser.add_argument(
        "part",
        nargs="?",
        default="reach",
        choices=[*SECTIONS, "soak", "half-open", "revocations", "crawler", "erasure"],
    )
    parser.add_argument("--only", nargs="*", default=[], help="sections; what they tell is not written down")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=100, help="of the revocations, and of erasures that hide")
    parser.add_argument("--events", type=int, default=5_000_000, help="in the log of the erasures")
    parser.add_argument("--seconds", type=float, default=300.0, help="of the soak")
    asked = parser.parse_args()
    machine.require_linux()
    if asked.part == "soak":
        asyncio.run(soak.soak(asked.seconds))
    elif asked.part == "half-open":
        asyncio.run(half_open.measure())
    elif asked.part == "crawler":
        asyncio.run(crawler.measure())
    elif asked.part == "erasure":
        asyncio.run(erasures.measure(asked.events, asked.rounds))
    elif asked.part == "revocations":
        asyncio.run(revocations.measure(asked.rounds))
    else:
        measure(asked.part, asked.only, asked.runs)


if __name__ == "__main__":
    main()
