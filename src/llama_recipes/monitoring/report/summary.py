"""A run in few words: what it is called, how it ended, and the figures that one asks for first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean
from typing import Any, Literal

from llama_recipes.monitoring.report.curves import best_evaluation
from llama_recipes.monitoring.report.files import RunFiles
from llama_recipes.monitoring.report.points import Point, finite_or_none, points_of
from llama_recipes.monitoring.report.scale import number_text
from llama_recipes.monitoring.results import STOPPED_BY, how_it_ended
from llama_recipes.monitoring.run_log import perplexity
from llama_recipes.monitoring.screen import duration

State = Literal["done", "going on", "interrupted", "failed"]
_MOST_CHARACTERS = 2500
"""Of what an error said."""
_SAID_ABOVE = ("stop_reason", "stop_message")
_ENDS = 10
"""Steps whose mean stands for the begin and the end of a training."""


@dataclass(frozen=True, slots=True)
class Figure:
    """before: what the value was before the training, where that is known."""

    name: str
    value: str
    note: str = ""
    before: str = ""


def state(run: RunFiles) -> tuple[State, str]:
    """How the run ended, in a word and in a sentence."""
    reason = str(run.results.get("stop_reason") or "")
    stopped = reason.removeprefix(STOPPED_BY)
    if not reason:
        said = "It is going on, or was ended before it could say why."
        return "going on", said
    ending = how_it_ended(reason)
    if ending == "finished":
        return "done", f"It came to its end: {reason}."
    if ending == "interrupted":
        return "interrupted", f"It was stopped by {stopped}."
    return "failed", f"It was ended by an error: {stopped}."


def why(run: RunFiles) -> str:
    """What the error said that ended the run; empty for a run that none has ended."""
    said = str(run.results.get("stop_message") or "")
    return said[:_MOST_CHARACTERS] + " …" * (len(said) > _MOST_CHARACTERS)


def method(run: RunFiles) -> str:
    """What is trained, in words."""
    train = "train_config"
    if not run.setting(f"{train}.use_peft"):
        frozen = run.setting(f"{train}.num_freeze_layers")
        all_but = (
            f" but the lowest {frozen} layers" if run.setting(f"{train}.freeze_layers") else ""
        )
        return f"all weights{all_but}"
    kind = run.setting(f"{train}.peft_method")
    if kind == "lora":
        targets = run.setting("lora_config.target_modules")
        where = targets if isinstance(targets, str) else ", ".join(map(str, targets))
        words = f"LoRA of rank {run.setting('lora_config.r')} on {where}"
    elif kind == "prefix":
        words = f"a prefix of {run.setting('prefix_config.num_virtual_tokens')} tokens"
    else:
        words = f"LLaMA-Adapter of {run.setting('llama_adapter_config.adapter_len')} prompts"
    bits = run.setting(f"{train}.quantization")
    kept = "8 bits" if bits is True else str(bits).replace("bit", " bits")
    return f"{words}, base in {kept}" if bits else words


def when(run: RunFiles) -> str:
    """Date and time of the start and the end, and how often it was gone on with."""
    started = [entry for entry in run.facts.get("started", []) if isinstance(entry, dict)]
    if not started:
        return ""
    again = len(started) - 1
    times = "" if not again else f", resumed {again} time{'s' if again > 1 else ''}"
    ended = run.facts.get("ended")
    end = f"; ended on {_date(ended)}" if ended else ""
    return f"{_date(started[0].get('at'))}{times}{end}"


def _date(text: object) -> str:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def figures(run: RunFiles) -> list[Figure]:
    return [*_measured(run), *_losses(run), *_amounts(run), *_speed(run)]


def _measured(run: RunFiles) -> Iterator[Figure]:
    """Figures that stand beside the answers before and after, as the quickstart writes them."""
    for entry in run.samples.get("figures", []):
        after, before = (number_text(finite_or_none(entry.get(key))) for key in ("after", "before"))
        yield Figure(str(entry.get("name")), after, str(entry.get("note", "")), before)


def _losses(run: RunFiles) -> Iterator[Figure]:
    best = best_evaluation(run)
    if best is not None and best.value is not None:
        known = points_of(run.evaluations, "eval_loss")
        first = "" if len(known) < 2 else f", first {number_text(known[0].value)}"
        note = f"perplexity {number_text(perplexity(best.value))}, after step {best.step:,}{first}"
        yield Figure("Best evaluation loss", number_text(best.value), note)
    losses = [point for point in points_of(run.steps, "loss") if point.value is not None]
    if losses:
        few = max(1, min(_ENDS, len(losses) // 4))
        ends = [number_text(_mean(part)) for part in (losses[:few], losses[-few:])]
        note = f"means of the first and the last {few} steps" if few > 1 else "first and last step"
        before = ends[0] if len(losses) > 1 else ""
        yield Figure("Training loss", ends[1], note, before)


def _mean(points: list[Point]) -> float:
    return fmean(point.value for point in points if point.value is not None)


def _amounts(run: RunFiles) -> Iterator[Figure]:
    if not run.steps:
        return
    last = run.steps[-1]
    total = run.facts.get("total_steps")
    planned = f" of {total:,}" if isinstance(total, int) and total != last["step"] else ""
    epochs = last.get("epoch")
    note = f"in epoch {epochs} of {run.setting('train_config.num_epochs')}" if epochs else ""
    yield Figure("Steps", f"{last['step']:,}{planned}", note)
    if "tokens" in last:
        trained = number_text(last.get("supervised_tokens"))
        yield Figure("Tokens", number_text(last["tokens"]), f"{trained} of them trained")


def _speed(run: RunFiles) -> Iterator[Figure]:
    seconds = sum(point.value or 0.0 for point in points_of(run.steps, "step_seconds"))
    if seconds:
        note = "in training steps, without evaluation and saving"
        yield Figure("Time", duration(seconds), note)
        tokens = sum(
            (line.get("tokens_per_second") or 0.0) * (line.get("step_seconds") or 0.0)
            for line in run.steps
        )
        yield Figure("Speed", number_text(round(tokens / seconds)), "tokens per second")
    peaks = [p.value for p in points_of(run.steps, "peak_memory_gib") if p.value is not None]
    if peaks:
        yield Figure("Peak memory", f"{max(peaks):.2f} GiB", str(run.facts.get("device", "")))
    tflops = finite_or_none(run.results.get("model_tflops"))
    if tflops is not None:
        yield Figure("Model speed", number_text(tflops), "TFLOP/s per device, forward and backward")


def leftover_results(run: RunFiles) -> list[tuple[str, str]]:
    """Everything else that results.json has, as it is called there: whoever adds to it is shown."""
    return [
        (name, number_text(value))
        for name, value in run.results.items()
        if value is not None and name not in _SAID_ABOVE and not isinstance(value, dict | list)
    ] + [row for name, value in run.results.items() for row in _inner(name, value)]


def _inner(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if inner is not None and not isinstance(inner, dict | list):
                yield f"{name}.{key}", number_text(inner)
