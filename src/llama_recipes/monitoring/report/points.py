"""A curve's points: smoothed, and so few of them that a page stays small, without the extremes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
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
    """Each value as the mean of itself and of up to `span` // 2 values on either side of it.

    At the ends and beside a value that is not finite, which stays a gap, as many are left out on
    the one side as there are none on the other: a loss that falls evenly stays where it is, where
    a mean of what came before would lie above it.
    """
    found: list[Point] = []
    for is_gap, group in groupby(points, lambda point: point.value is None):
        part = list(group)
        found += part if is_gap else _centred(part, span // 2)
    return found


def _centred(points: Sequence[Point], most: int) -> list[Point]:
    """most: values on either side that count."""
    sums = [0.0, *accumulate(map(_value, points))]
    found = []
    for place, (step, _) in enumerate(points):
        around = min(most, place, len(points) - 1 - place)
        total = sums[place + around + 1] - sums[place - around]
        found.append(Point(step, total / (2 * around + 1)))
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
