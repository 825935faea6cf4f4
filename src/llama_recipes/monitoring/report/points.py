"""A curve's points: smoothed, and so few of them that a page stays small, without the extremes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Point(NamedTuple):
    """value None: it was not finite."""

    step: int
    value: float | None


def points_of(lines: Sequence[dict[str, Any]], name: str) -> list[Point]:
    """A value of the lines of metrics.jsonl, by their steps."""
    return [Point(line["step"], finite_or_none(line[name])) for line in lines if name in line]


def finite_or_none(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def smoothing_span(count: int) -> int:
    """Steps that a smoothed value is about the mean of; 0: too few to smooth."""
    return 0 if count < 12 else min(max(count // 12, 4), 200)


def smoothed(points: Sequence[Point], span: int) -> list[Point]:
    """Exponential moving average whose weights have the mean age of a mean over `span` values.

    Divided by the sum of the weights so far, so that it begins at the first value. Values that are
    not finite count for nothing.
    """
    keep = 1 - 2 / (span + 1)
    total = weight = 0.0
    found = []
    for step, value in points:
        if value is not None:
            total = keep * total + (1 - keep) * value
            weight = keep * weight + (1 - keep)
        found.append(Point(step, total / weight if weight and value is not None else None))
    return found


def buckets(points: Sequence[Point], count: int) -> Iterator[Sequence[Point]]:
    """Neighbours together, in at most `count` groups of about the same size."""
    count = min(count, len(points))
    for number in range(count):
        yield points[number * len(points) // count : (number + 1) * len(points) // count]


def thinned(points: Sequence[Point], count: int) -> list[Point]:
    """At most about `count` of the points: of each group of neighbours the lowest and the highest.

    A gap stays a gap, the first and the last point stay too.
    """
    if len(points) <= count:
        return list(points)
    kept: list[Point] = [points[0]]
    for group in buckets(points[1:-1], count // 3):
        known = [point for point in group if point.value is not None]
        chosen = {min(known, key=_value), max(known, key=_value)} if known else set()
        gaps = [point for point in group if point.value is None][:1]
        kept += sorted([*chosen, *gaps], key=lambda point: point.step)
    return [*kept, points[-1]]


def _value(point: Point) -> float:
    assert point.value is not None
    return point.value
