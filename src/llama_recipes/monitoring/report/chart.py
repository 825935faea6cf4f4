"""Curves as inline SVG that needs no script: titles show values under the pointer.

The drawing is stretched to the width of the page, lines and dots keep their thickness, and what is
to be read is HTML beside it, so that it is as large on a phone as on a wide screen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from llama_recipes.monitoring.report.points import Point, buckets, thinned
from llama_recipes.monitoring.report.scale import Axis, number_text, step_axis, value_axis

WIDTH, HEIGHT = 1000, 300
_MOST_POINTS = 1200
"""Drawn of one curve; there are not as many columns on a screen."""
_MOST_BANDS = 200
"""Places under the pointer that say something."""


@dataclass(frozen=True, slots=True)
class Curve:
    """name: for the legend and the values under the pointer. kind: how it is drawn.

    spoken: whether its values are said under the pointer.
    """

    name: str
    points: Sequence[Point]
    kind: Literal["faint", "line", "evaluation", "best"]
    spoken: bool = True


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over the optimizer steps. unit: of the values, in words; may be empty.

    marks: steps at which an epoch begins.
    """

    title: str
    unit: str
    curves: Sequence[Curve]
    from_zero: bool = False
    is_wide: bool = False
    marks: Sequence[int] = ()


def draw(chart: Chart) -> str:
    """The chart as an HTML figure; a sentence in its place where it has no value at all."""
    known = [p for curve in chart.curves for p in curve.points if p.value is not None]
    unit = f'<span class="unit">{escape(chart.unit)}</span>' if chart.unit else ""
    caption = f"<figcaption><h3>{escape(chart.title)}</h3>{unit}{_legend(chart)}</figcaption>"
    kind = "chart wide" if chart.is_wide else "chart"
    if not known:
        nothing = '<p class="nothing">Nothing was measured yet.</p>'
        return f'<figure class="{kind}">{caption}{nothing}</figure>'
    x = step_axis(p.step for curve in chart.curves for p in curve.points)
    y = value_axis((p.value for p in known if p.value is not None), from_zero=chart.from_zero)
    labels = "".join(
        f'<span style="bottom:{100 * y.share(tick):.2f}%">{escape(y.label(tick))}</span>'
        for tick in y.ticks
    )
    below = "".join(
        f'<span style="left:{100 * x.share(tick):.2f}%">{escape(x.label(tick))}</span>'
        for tick in x.ticks
    )
    return (
        f'<figure class="{kind}">{caption}<div class="plot"><div class="y" aria-hidden="true">'
        f"{labels}</div>{_svg(chart, x, y)}"
        f'<div class="x" aria-hidden="true">{below}</div></div>'
        '<p class="axis" aria-hidden="true">optimizer step</p></figure>'
    )


def _svg(chart: Chart, x: Axis, y: Axis) -> str:
    parts = [
        f'<path class="grid" d="M0 {_y(y, tick)}H{WIDTH}"/>' for tick in y.ticks if tick != y.low
    ]
    parts += [f'<path class="base" d="M0 {HEIGHT}H{WIDTH}"/>']
    parts += [f'<path class="epoch" d="M{_x(x, step)} 0V{HEIGHT}"/>' for step in chart.marks]
    parts += [_drawn(curve, x, y) for curve in chart.curves]
    parts += _bands(chart, x)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(description(chart))}"'
        f' data-x="{x.low!r} {x.high!r}" data-y="{y.low!r} {y.high!r}">{"".join(parts)}</svg>'
    )


def _drawn(curve: Curve, x: Axis, y: Axis) -> str:
    points = thinned(curve.points, _MOST_POINTS)
    dots = curve.kind in ("evaluation", "best")
    line = "" if curve.kind == "best" else _path(points, x, y)
    drawn = f'<path class="{curve.kind}" data-name="{escape(curve.name)}" d="{line}"/>'
    if not dots:
        return drawn
    marks = "".join(f"M{_x(x, p.step)} {_y(y, p.value)}h0" for p in points if p.value is not None)
    return f'{drawn if line else ""}<path class="{curve.kind} dots" d="{marks}"/>'


def _path(points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Straight lines between neighbours, none over a gap; a point between two gaps is a dot."""
    parts: list[str] = []
    is_down = False
    for number, point in enumerate(points):
        if point.value is None:
            is_down = False
            continue
        parts.append(f"{'L' if is_down else 'M'}{_x(x, point.step)} {_y(y, point.value)}")
        following = points[number + 1] if number + 1 < len(points) else None
        if not is_down and (following is None or following.value is None):
            parts.append("h0")
        is_down = True
    return "".join(parts)


def _x(axis: Axis, step: float) -> str:
    return _short(WIDTH * axis.share(step), 1)


def _y(axis: Axis, value: float) -> str:
    return _short(HEIGHT * (1 - axis.share(value)), 2)


def _short(number: float, decimals: int) -> str:
    return f"{number:.{decimals}f}".rstrip("0").rstrip(".").removeprefix("-") or "0"


def _bands(chart: Chart, x: Axis) -> Iterator[str]:
    """Invisible columns side by side that together cover the plot, each with the values in it."""
    steps = sorted({p.step for curve in chart.curves if curve.spoken for p in curve.points})
    groups = list(buckets([Point(step, None) for step in steps], _MOST_BANDS))
    spoken = [_by_step(curve) for curve in chart.curves if curve.spoken]
    edge = 0.0
    for number, group in enumerate(groups):
        last = group[-1].step
        after = groups[number + 1][0].step if number + 1 < len(groups) else None
        until = WIDTH * x.share((last + after) / 2) if after is not None else float(WIDTH)
        text = _said(spoken, [point.step for point in group])
        yield (
            f'<rect x="{_short(edge, 1)}" width="{_short(until - edge, 1)}" height="{HEIGHT}">'
            f"<title>{escape(text)}</title></rect>"
        )
        edge = until


def _by_step(curve: Curve) -> tuple[str, dict[int, float | None]]:
    return curve.name, {point.step: point.value for point in curve.points}


def _said(curves: Sequence[tuple[str, dict[int, float | None]]], steps: Sequence[int]) -> str:
    """`step 7: loss 1.234`, or for several steps the lowest and the highest of each curve."""
    where = f"step {steps[0]:,}" if len(steps) == 1 else f"steps {steps[0]:,} to {steps[-1]:,}"
    lines = []
    for name, values in curves:
        found = [values[step] for step in steps if step in values]
        known = [value for value in found if value is not None]
        if found and not known:
            lines.append(f"{name} not finite")
        elif known:
            low, high = number_text(min(known), 5), number_text(max(known), 5)
            lines.append(f"{name} {low}" if low == high else f"{name} {low} to {high}")
    return "\n".join([where, *lines])


def _legend(chart: Chart) -> str:
    if len(chart.curves) < 2:
        return ""
    entries = [
        f'<span class="key {curve.kind}">{escape(curve.name)}</span>' for curve in chart.curves
    ]
    return f'<span class="legend">{"".join(entries)}</span>'


def description(chart: Chart) -> str:
    """The curves in words, for those who cannot see them."""
    said = []
    for curve in chart.curves:
        known = [point for point in curve.points if point.value is not None]
        if not curve.spoken or not known:
            continue
        first, last = known[0], known[-1]
        low = min(known, key=lambda point: point.value or 0.0)
        said.append(
            f"{curve.name}: {number_text(first.value)} at step {first.step:,},"
            f" {number_text(last.value)} at step {last.step:,},"
            f" lowest {number_text(low.value)} at step {low.step:,}"
        )
    return f"{chart.title}. {'. '.join(said)}."
