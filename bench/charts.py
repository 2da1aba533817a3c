"""The charts of docs/performance.md: what the hub and the others need, side by side in one unit; growth as curves.

Lives here: how figures are drawn. Must not know how they are measured.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.layout_engine import ConstrainedLayoutEngine

from bench.figures import Figure, bound, number

COLUMNS = 2
WIDTH, BAR, HEAD = 13.0, 0.24, 0.4
"""Inches: a chart, a bar with its space, and what a panel needs beside its bars."""
CURVE = 2.6
"""Inches: the height of a panel with a curve."""

mpl.rcParams.update({"svg.hashsalt": "tickets hub", "font.size": 9.0, "axes.titlesize": 9.5})  # the same bytes again


class Theme(NamedTuple):
    """Colours of a page."""

    back: str
    ink: str
    faint: str
    hub: str
    other: str
    mark: str


THEMES = {
    "light": Theme("#ffffff", "#1f2328", "#d1d9e0", "#0969da", "#8c959f", "#bc4c00"),
    "dark": Theme("#0d1117", "#e6edf3", "#3d444d", "#4493f8", "#6e7681", "#f0883e"),
}


def save(figures: Sequence[Figure], stem: Path) -> None:
    """Draw the figures, those of one name in one panel: <stem>-light.svg and <stem>-dark.svg."""
    panels: dict[str, list[Figure]] = {}
    for one in figures:
        panels.setdefault(f"{one.curve or one.name} [{one.unit}]", []).append(one)
    for name, theme in THEMES.items():
        canvas = drawn(panels, theme)
        canvas.savefig(f"{stem}-{name}.svg", metadata={"Date": None, "Creator": None}, facecolor=theme.back)


def drawn(panels: dict[str, list[Figure]], theme: Theme) -> Canvas:
    """All panels, in columns, each line of them as high as its highest."""
    named = list(panels.items())
    rows = [named[at : at + COLUMNS] for at in range(0, len(named), COLUMNS)]
    heights = [max(_height(figures) for _, figures in row) for row in rows]
    canvas = Canvas(figsize=(WIDTH, sum(heights)), layout=ConstrainedLayoutEngine(h_pad=0.08))
    grid = canvas.add_gridspec(len(rows), COLUMNS, height_ratios=heights)
    for line, row in enumerate(rows):
        for column, (name, figures) in enumerate(row):
            axes = canvas.add_subplot(grid[line, column])
            _dress(axes, name, theme)
            (_curve if figures[0].curve else _bars)(axes, figures, theme)
    return canvas


def _height(figures: Sequence[Figure]) -> float:
    return CURVE if figures[0].curve else HEAD + BAR * (1 + len(figures))


def _dress(axes: Axes, name: str, theme: Theme) -> None:
    axes.set_title(name, loc="left", color=theme.ink, wrap=True)
    axes.set_facecolor(theme.back)
    axes.tick_params(colors=theme.ink, length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(theme.faint)


def _bars(axes: Axes, figures: Sequence[Figure], theme: Theme) -> None:
    """The hub's value and each other one; a mark where the hub's bar may end, or has to reach, for a ratio aimed at."""
    mine = median(value for one in figures for value in one.hub)
    others = [median(one.other) for one in figures]
    marks = [mine * one.reach / one.ratio if one.reach and one.ratio else 0.0 for one in figures]
    axes.barh(range(1 + len(others)), [mine, *others], height=0.7, color=[theme.hub] + [theme.other] * len(others))
    for row, mark in enumerate(marks, 1):
        if mark:
            axes.plot([mark, mark], [-0.45, row + 0.45], color=theme.mark, linewidth=2.5)
    axes.set_yticks(range(1 + len(others)), [f"hub: {number(mine)}", *map(_compared, figures)])
    axes.set_xlim(0, 1.03 * max([mine, *others, *marks]))
    axes.set_ylim(len(others) + 0.5, -0.5)
    axes.set_xticks([])


def _compared(one: Figure) -> str:
    aimed = f" of {bound(one, one.reach)}" if one.reach else ""
    return f"{one.against}: {number(median(one.other))}, {one.ratio:.2f}x{aimed}"


def _curve(axes: Axes, figures: Sequence[Figure], theme: Theme) -> None:
    """The hub's value at each size, from the smallest on; a mark for each ratio to be reached at its size."""
    first = figures[0]
    sizes = [first.sizes[0], *(one.sizes[1] for one in figures)]
    values = [median(first.other), *(median(one.hub) for one in figures)]
    axes.plot(sizes, values, color=theme.hub, marker="o")
    for size, value in zip(sizes, values, strict=True):
        _note(axes, number(value), (size, value), -16, theme.ink)
    marks = [(one.sizes[1], median(one.other) * one.reach, one) for one in figures if one.reach]
    for size, value, one in marks:
        axes.plot([size], [value], color=theme.mark, marker="_", markersize=22, markeredgewidth=2.5)
        _note(axes, bound(one, one.reach), (size, value), 5, theme.mark)
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / 2, sizes[-1] * 2)
    axes.set_ylim(0, 1.3 * max([*values, *(value for _, value, _ in marks)]))
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_yticks([])


def _note(axes: Axes, text: str, at: tuple[float, float], above: float, colour: str) -> None:
    axes.annotate(text, at, (0, above), textcoords="offset points", ha="center", color=colour)
