"""Figures: what was measured in several runs, what it is compared with, and how to read it."""

from statistics import median

import msgspec


class Figure(msgspec.Struct):
    """One line of the table.

    Attributes:
        name: what it is.
        unit: of both values.
        against: what it is compared with.
        hub: the hub's values, one for each run.
        other: the other's, of the same runs.
        reach, dream: the target of the ratio, and the stretch target; 0 = only reported.
        more: the ratio should be more than that, not less.
        load_bound: in some run a load program was the limit, not the server.
        note: what else there is to know.
        curve: the name of the curve whose end it is; "" = it is none.
        sizes: where the curve begins (the other's values) and where it is the hub's.
    """

    name: str
    unit: str
    against: str
    hub: list[float] = []
    other: list[float] = []
    reach: float = 0.0
    dream: float = 0.0
    more: bool = False
    load_bound: bool = False
    note: str = ""
    curve: str = ""
    sizes: tuple[int, int] = (0, 0)

    def add(self, hub: float, other: float, *, load_bound: bool = False) -> None:
        """One more run."""
        self.hub.append(hub)
        self.other.append(other)
        self.load_bound = self.load_bound or load_bound

    @property
    def ratio(self) -> float:
        """The hub's value by the other's: the median of the runs' ratios, since the two of a run were neighbours."""
        return median(mine / theirs if theirs else 0.0 for mine, theirs in zip(self.hub, self.other, strict=True))

    @property
    def verdict(self) -> str:
        """How the ratio compares with its targets."""
        if not self.reach:
            return "reported"
        if self._keeps(self.dream):
            return "stretch target met"
        return "met" if self._keeps(self.reach) else "missed"

    def _keeps(self, bound: float) -> bool:
        return self.ratio >= bound if self.more else self.ratio <= bound


def number(value: float) -> str:
    """A number for people: three digits that count, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def bound(figure: Figure, value: float) -> str:
    """A target ratio, for people."""
    return f"{'>=' if figure.more else '<='} {value:g}x" if value else "-"


def lines(figures: list[Figure]) -> list[list[str]]:
    """The table, its heading first."""
    table = [["figure", "unit", "hub", "against", "its value", "ratio", "target", "stretch target", ""]]
    for one in figures:
        name = one.name + (" (*)" if one.load_bound else "")
        values = [number(median(one.hub)), one.against, number(median(one.other)), f"{one.ratio:.2f}x"]
        table.append([name, one.unit, *values, bound(one, one.reach), bound(one, one.dream), one.verdict])
    return table
