"""Axes: round numbers to mark them with, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_ROUND = (1, 2, 2.5, 5, 10)
_ROUND_WHOLE = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high`, with round numbers between them in equal distances."""

    low: float
    high: float
    ticks: list[float]
    spacing: float

    def share(self, value: float) -> float:
        """Where a value lies, from 0 at `low` to 1 at `high`."""
        return (value - self.low) / (self.high - self.low)

    def label(self, tick: float) -> str:
        return _tick_text(tick, self.spacing)


def value_axis(values: Iterable[float], *, from_zero: bool, count: int = 4) -> Axis:
    """An axis that begins and ends at a round number. `values` may be empty."""
    found = list(values) or [0.0]
    low, high = min(found), max(found)
    if from_zero:
        low = min(low, 0.0)
    if high - low < 1e-9 * max(abs(low), abs(high)) or high == low:
        low, high = _widened(low, from_zero=from_zero)
    spacing = _spacing((high - low) / count, _ROUND)
    first, last = math.floor(low / spacing + 1e-9), math.ceil(high / spacing - 1e-9)
    ticks = [number * spacing for number in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks, spacing)


def step_axis(steps: Iterable[int], *, count: int = 6) -> Axis:
    """From the first step to the last, marked at whole numbers."""
    found = list(steps) or [0]
    low, high = float(min(found)), float(max(found))
    if low == high:
        low, high = low - 1, high + 1
    spacing = max(1.0, _spacing((high - low) / count, _ROUND_WHOLE))
    first, last = math.ceil(low / spacing - 1e-9), math.floor(high / spacing + 1e-9)
    return Axis(low, high, [number * spacing for number in range(first, last + 1)], spacing)


def number_text(value: object, digits: int = 4) -> str:
    """As a person writes it: 12,345, 0.8123, 1.2e-05, and a dash for none or not finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value == round(value) and 1000 <= abs(value) < 1e15):
        return f"{round(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.{max(0, digits - 4)}f}"
    return f"{value:.{digits}g}"


def _widened(value: float, *, from_zero: bool) -> tuple[float, float]:
    if value == 0:
        return 0.0, 1.0
    if from_zero:
        return (0.0, value * 1.25) if value > 0 else (value * 1.25, 0.0)
    return value - abs(value) * 0.05, value + abs(value) * 0.05


def _spacing(least: float, factors: tuple[float, ...]) -> float:
    """The smallest round number that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in factors if factor * power >= least * (1 - 1e-9))


def _tick_text(tick: float, spacing: float) -> str:
    if abs(tick) < spacing / 1e6:
        return "0"
    if spacing < 1e-4 or abs(tick) >= 1e7:
        mantissa, exponent = f"{tick:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    decimals = max(0, -math.floor(math.log10(spacing) + 1e-9))
    if abs(spacing * 10**decimals - round(spacing * 10**decimals)) > 1e-6:
        decimals += 1  # 2.5, 0.25 …
    return f"{tick:,.{decimals}f}"
