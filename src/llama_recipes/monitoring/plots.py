"""The original's four pictures: loss and perplexity, by epoch and by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from llama_recipes.monitoring.curves import LossCurve, curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"loss": ("tab:blue", "tab:red"), "perplexity": ("tab:green", "tab:purple")}
"""Of training and of validation."""


def draw(records: Iterable[Mapping[str, Any]]) -> dict[str, bytes]:
    """The pictures as PNG by the end of their names; `records` are the lines of metrics.jsonl."""
    found, pictures = curves(records), {}
    for per, ending in (("epoch", ""), ("step", "_by_step")):
        for measure in ("loss", "perplexity"):
            picture = figure(found[f"train_{per}"], found[f"val_{per}"], measure=measure, per=per)
            content = BytesIO()
            picture.savefig(content, format="png")
            pictures[f"train_and_validation_{measure}{ending}.png"] = content.getvalue()
    return pictures


def figure(train: LossCurve, validation: LossCurve, *, measure: str, per: str) -> Figure:
    """One picture. measure: loss or perplexity; per: epoch or step, what x counts.

    Through matplotlib's Agg canvas alone: no screen is needed, and what the process that calls this
    has set up for itself stays as it is.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    made = Figure(figsize=(10, 6), layout="tight")
    FigureCanvasAgg(made)
    axes = made.subplots()
    shown = []
    for curve, part, colour in zip(
        (train, validation), ("train", "validation"), _COLOURS[measure], strict=True
    ):
        if not curve.x:  # a run without validation data has nothing to find in the picture
            continue
        shown.append(part)
        values = curve.losses if measure == "loss" else curve.perplexities
        # A line through one point is nothing to see.
        marker = "o" if len(values) < 50 else None
        axes.plot(curve.x, values, label=part.capitalize(), color=colour, marker=marker)
    axes.set_xlabel(per.capitalize())
    axes.set_ylabel("Loss (nats per token)" if measure == "loss" else "Perplexity")
    axes.set_title(f"{' and '.join(shown)} {measure} by {per}".strip().capitalize())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if shown:
        axes.legend()
    return made
