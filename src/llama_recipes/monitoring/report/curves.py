"""Which curves a report shows."""

from __future__ import annotations

from llama_recipes.monitoring.report.chart import Chart, Curve, draw
from llama_recipes.monitoring.report.files import RunFiles
from llama_recipes.monitoring.report.points import Point, points_of, smoothed, smoothing_span

_MOST_EPOCHS = 25
"""Beyond these, lines between epochs would hide the curve."""


def charts(run: RunFiles) -> str:
    """Loss on the whole width, the others beside each other below."""
    return "".join(draw(chart) for chart in [_loss(run), *_others(run)])


def best_evaluation(run: RunFiles) -> Point | None:
    known = [point for point in points_of(run.evaluations, "eval_loss") if point.value is not None]
    return min(known, key=lambda point: (point.value, point.step)) if known else None


def _loss(run: RunFiles) -> Chart:
    training, evaluated = points_of(run.steps, "loss"), points_of(run.evaluations, "eval_loss")
    curves = []
    span = smoothing_span(len(training))
    if training:
        curves.append(Curve("training", training, "faint" if span else "line"))
    if span:
        name = f"mean of about {span} steps"
        curves.append(Curve(name, smoothed(training, span), "line", spoken=False))
    if evaluated:
        curves.append(Curve("evaluation", evaluated, "evaluation"))
    best = best_evaluation(run)
    if best is not None and len(evaluated) > 1:
        curves.append(Curve("best", [best], "best"))
    return Chart("Loss", "nats per token", curves, is_wide=True, marks=_epochs(run))


def _others(run: RunFiles) -> list[Chart]:
    def chart(name: str, said: str, title: str, unit: str) -> Chart:
        curve = Curve(said, points_of(run.steps, name), "line")
        return Chart(title, unit, [curve] if run.steps else [], from_zero=True)

    clipped = run.setting("train_config.gradient_clipping")
    return [
        chart("lr", "learning rate", "Learning rate", ""),
        chart("grad_norm", "norm", "Gradient norm", "before clipping" if clipped else ""),
        chart("tokens_per_second", "tokens per second", "Speed", "tokens per second"),
    ]


def _epochs(run: RunFiles) -> list[int]:
    """The steps that are the first of their epoch, but for the very first."""
    found = [
        line["step"]
        for before, line in zip(run.steps, run.steps[1:], strict=False)
        if line.get("epoch") != before.get("epoch")
    ]
    return found if len(found) <= _MOST_EPOCHS else []
