"""The curves of a report: each point of the drawing is a value of metrics.jsonl."""

from __future__ import annotations

import math
import random
import re

import pytest

from llama_recipes.monitoring.report.chart import HEIGHT, WIDTH, Chart, Curve, description, draw
from llama_recipes.monitoring.report.points import (
    Point,
    finite_or_none,
    points_of,
    smoothed,
    smoothing_span,
    thinned,
)
from llama_recipes.monitoring.report.scale import number_text, step_axis, value_axis
from support.run_folder import evaluation, page_of, run_folder, step

PLACE = re.compile(r"[ML]([\d.]+) ([\d.]+)")


def figure(page: str, title: str) -> str:
    """The figure of a page that has this title."""
    (found,) = [
        text for text in re.findall(r"<figure.*?</figure>", page, re.S) if f"<h3>{title}<" in text
    ]
    return found


def drawn(figure: str, kind: str) -> list[tuple[float, float]]:
    """Steps and values of a path, calculated back from its places and the axes."""
    low, high = (tuple(map(float, re.search(f'data-{a}="(.*?)"', figure)[1].split())) for a in "xy")
    (path,) = re.findall(rf'<path class="{kind}"[^>]* d="(.*?)"', figure)
    return [
        (
            low[0] + float(x) / WIDTH * (low[1] - low[0]),
            high[0] + (1 - float(y) / HEIGHT) * (high[1] - high[0]),
        )
        for x, y in PLACE.findall(path)
    ]


def assert_same(found, expected, *, step_error: float, value_error: float) -> None:
    assert len(found) == len(expected)
    for (x, y), (number, value) in zip(found, expected, strict=True):
        assert x == pytest.approx(number, abs=step_error)
        assert y == pytest.approx(value, abs=value_error)


def test_each_drawn_point_is_a_value_of_the_metrics(tmp_path):
    generator = random.Random(3)
    lines = [
        step(n, generator.uniform(0.5, 3), lr=1e-4 * n, grad_norm=generator.uniform(0, 9),
             tokens_per_second=generator.uniform(100, 200))
        for n in range(1, 101)
    ]  # fmt: skip
    evaluated = [evaluation(n, generator.uniform(1, 2)) for n in range(10, 101, 10)]
    page = page_of(run_folder(tmp_path, *lines, *evaluated))
    for title, kind, name, measured in (
        ("Loss", "faint", "loss", lines),
        ("Loss", "evaluation", "eval_loss", evaluated),
        ("Learning rate", "line", "lr", lines),
        ("Gradient norm", "line", "grad_norm", lines),
        ("Speed", "line", "tokens_per_second", lines),
    ):
        values = [(line["step"], line[name]) for line in measured]
        largest = max(value for _, value in values)
        found = drawn(figure(page, title), kind)
        assert_same(found, values, step_error=0.01, value_error=largest * 1e-4)
    best = min(evaluated, key=lambda line: line["eval_loss"])
    ((x, y),) = drawn(figure(page, "Loss"), "best dots")
    assert (x, y) == pytest.approx((best["step"], best["eval_loss"]), abs=0.01)
    said = f"step {best['step']}\ntraining "
    (title,) = [t for t in re.findall(r"<title>(.*?)</title>", page, re.S) if t.startswith(said)]
    assert title.endswith(f"\nevaluation {best['eval_loss']:.5g}\nbest {best['eval_loss']:.5g}")


def test_thousands_of_steps_stay_a_small_page_with_their_extremes(tmp_path):
    generator = random.Random(4)
    losses = [generator.uniform(1, 2) for _ in range(30_000)]
    losses[12_345], losses[23_456] = 9.5, 0.01
    lines = [
        step(n, loss, tokens_per_second=100.0, tokens=n, step_seconds=1.0)
        for n, loss in enumerate(losses, 1)
    ]
    page = page_of(run_folder(tmp_path, *lines))
    assert len(page.encode()) < 500_000
    found = drawn(figure(page, "Loss"), "faint")
    assert len(found) < 2000
    values = [value for _, value in found]
    assert max(values) == pytest.approx(9.5, abs=1e-2)
    assert min(values) == pytest.approx(0.01, abs=1e-2)
    (said,) = [t for t in re.findall(r"<title>(.*?)</title>", page, re.S) if " to 9.5" in t]
    first, last = (
        int(n.replace(",", "")) for n in re.match(r"steps (\S+) to (\S+)", said).groups()
    )
    assert first <= 12_346 <= last


@pytest.mark.parametrize(
    ("lines", "dots"),
    [
        ([step(7, 2.5)], 1),
        ([step(1, None), step(2, 2.0), step(3, None)], 1),
        ([step(1, 2.0), step(2, None), step(3, 1.0), step(4, 1.5)], 3),
    ],
)
def test_a_single_point_is_a_dot_and_a_gap_stays_one(lines, dots, tmp_path):
    page = page_of(run_folder(tmp_path, *lines))
    assert len(drawn(figure(page, "Loss"), "line")) == dots
    (path,) = re.findall(r'<path class="line" data-name="training" d="(.*?)"', page)
    runs = path.count("M")
    assert runs == (2 if dots == 3 else 1)
    assert path.count("h0") == 1
    assert ("training not finite" in page) == (None in [line["loss"] for line in lines])


def test_evaluations_alone_are_a_curve_and_nothing_at_all_is_said(tmp_path):
    alone = page_of(run_folder(tmp_path / "a", evaluation(1, 2.0), evaluation(2, 1.0)))
    assert len(drawn(figure(alone, "Loss"), "evaluation")) == 2
    assert "Nothing was measured yet" in figure(alone, "Speed")
    nothing = page_of(run_folder(tmp_path / "b"))
    assert nothing.count("Nothing was measured yet") == 4
    unknown = page_of(run_folder(tmp_path / "c", step(1, None), evaluation(1, None)))
    assert "Nothing was measured yet" in figure(unknown, "Loss")


@pytest.mark.parametrize("span", [4, 5, 30, 200])
def test_the_smoothed_curve_of_a_straight_line_is_that_line(span):
    """It lies neither above a loss that falls nor below one that rises, its ends included."""
    for slope in (-0.01, 0.5):
        line = [Point(n, 3 + slope * n) for n in range(1, 120)]
        line[60] = Point(61, None)
        found = smoothed(line, span)
        assert [point.step for point in found] == [point.step for point in line]
        assert [p.value for p in found] == [
            p.value if p.value is None else pytest.approx(p.value, abs=1e-9) for p in line
        ]


def test_the_smoothed_curve_is_a_mean_over_as_many_values_on_either_side():
    values = [3.0, 1.0, 2.0, 6.0, 8.0, 1.0, None, 2.0]
    expected = [3.0, 2.0, 4.0, 3.6, 5.0, 1.0, None, 2.0]
    found = smoothed([Point(n, value) for n, value in enumerate(values)], 4)
    assert [p.value for p in found] == [value and pytest.approx(value) for value in expected]
    noise = random.Random(5)
    found = smoothed([Point(n, noise.choice([0.0, 2.0])) for n in range(400)], 40)
    assert all(0.4 < point.value < 1.6 for point in found[20:-20])
    assert smoothed([], 4) == []
    assert [smoothing_span(n) for n in (1, 11, 12, 120, 10**6)] == [0, 0, 4, 10, 200]


def test_thinning_keeps_ends_extremes_and_gaps():
    points = [Point(n, math.sin(n)) for n in range(5000)]
    points[777], points[3210] = Point(777, 5.0), Point(3210, None)
    kept = thinned(points, 300)
    assert len(kept) <= 310
    assert kept == sorted(kept, key=lambda point: point.step)
    assert {points[0], points[777], points[3210], points[-1]} <= set(kept)
    assert thinned(points[:200], 300) == points[:200]


def test_what_is_no_finite_number_is_a_gap():
    lines = [{"step": n, "loss": value} for n, value in enumerate((1, 1.5, None, math.nan, "x"))]
    assert [p.value for p in points_of(lines, "loss")] == [1.0, 1.5, None, None, None]
    assert finite_or_none(True) is None
    assert finite_or_none(-math.inf) is None


@pytest.mark.parametrize(
    ("values", "from_zero", "labels"),
    [
        ([1.2, 3.9], False, ["1", "2", "3", "4"]),
        ([0.0, 2e-4], True, ["0", "5e-5", "1e-4", "1.5e-4", "2e-4"]),
        ([1.0, 950.0], True, ["0", "250", "500", "750", "1,000"]),
        ([0.91, 0.93], False, ["0.910", "0.915", "0.920", "0.925", "0.930"]),
        ([5.0], True, ["0", "2", "4", "6"]),
        ([0.0], False, ["0", "0.25", "0.50", "0.75", "1.00"]),
        ([], False, ["0", "0.25", "0.50", "0.75", "1.00"]),
    ],
)
def test_an_axis_is_marked_with_round_numbers(values, from_zero, labels):
    axis = value_axis(values, from_zero=from_zero)
    assert [axis.label(tick) for tick in axis.ticks] == labels
    assert all(axis.low <= value <= axis.high for value in values)


def test_steps_are_marked_at_whole_numbers():
    assert step_axis([1, 2, 3]).ticks == [1, 2, 3]
    assert [step_axis([9]).label(t) for t in step_axis([9]).ticks] == ["8", "9", "10"]
    many = step_axis(range(1, 12_001))
    assert [many.label(tick) for tick in many.ticks][:2] == ["2,000", "4,000"]


def test_numbers_are_written_for_people():
    shown = [number_text(n) for n in (None, 12345, 0.81234, 1.2e-5, 3.0, 12345.6, "x", True)]
    assert shown == ["–", "12,345", "0.8123", "1.2e-05", "3", "12,346", "x", "True"]
    assert [number_text(math.nan), number_text(math.inf), number_text(-math.inf)] == ["–"] * 3


def test_a_chart_is_told_in_words_too():
    curve = Curve("training", [Point(1, 3.0), Point(2, 1.0), Point(3, 2.0)], "line")
    words = description(Chart("Loss", "nats", [curve]))
    assert words == "Loss. training: 3 at step 1, 2 at step 3, lowest 1 at step 2."
    assert f'role="img" aria-label="{words}"' in draw(Chart("Loss", "nats", [curve]))
