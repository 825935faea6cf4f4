"""A row of the table: a figure, and the aim that it is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Spread

Section = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """unit: written behind a figure. at_least, at_most: the aim; none where it only informs."""

    what: str
    figure: Spread
    unit: str = "×"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        if self.at_least is None and self.at_most is None:
            return None
        low = -float("inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= self.figure.median <= high


def number(value: float) -> str:
    """Three digits that count; whole numbers above a hundred."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
