"""What --flop_counter found, in words."""

from __future__ import annotations

from collections.abc import Iterator

from llama_recipes.monitoring.report.files import RunFiles
from llama_recipes.monitoring.report.points import finite_or_none
from llama_recipes.monitoring.report.scale import number_text


def counted(run: RunFiles) -> Iterator[tuple[str, str]]:
    """Names and values; none for a run whose operations nobody counted."""
    found = run.results.get("flop_counter")
    if not isinstance(found, dict):
        return
    model, recomputed, share, rate = (
        finite_or_none(found.get(name))
        for name in ("model_tflop", "recomputed_tflop", "share_of_matrix_rate", "matrix_tflops")
    )
    speed = finite_or_none(run.results.get("model_tflops"))
    if model is not None:
        yield "Operations of a step", f"{number_text(model)} TFLOP{_of_which(found)}"
    if recomputed:
        yield "Recomputed beside them", f"{number_text(recomputed)} TFLOP"
    if speed is not None:
        yield "Operations a second", f"{number_text(speed)} TFLOP/s per device"
    if share is not None:
        yield "Share of the matrix rate", f"{100 * share:.3g}%"
    if rate is not None:
        source = found.get("matrix_tflops_from")
        yield "Matrix rate", f"{number_text(rate)} TFLOP/s{f', {source}' if source else ''}"


def _of_which(found: dict[str, object]) -> str:
    tokens, step, devices = (found.get(name) for name in ("tokens", "step", "devices"))
    of_all = f", of {devices} devices together" if isinstance(devices, int) and devices > 1 else ""
    return f" for the {number_text(tokens)} tokens of step {number_text(step)}{of_all}"
