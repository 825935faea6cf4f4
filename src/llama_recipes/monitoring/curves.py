"""The four curves of a run, out of the lines of its metrics.jsonl.

Train and val(idation), each by step and by epoch. A point of `step` is an optimizer step, or an
evaluation after one; a point of `epoch` is the mean of an epoch's steps over their supervised
tokens (which is the epoch's loss), or the last evaluation of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llama_recipes.monitoring.run_log import perplexity


@dataclass
class LossCurve:
    """x: steps or epochs, from 1. losses: nats per token, NaN where one was not finite."""

    x: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def perplexities(self) -> list[float]:
        return [perplexity(loss) for loss in self.losses]


def curves(records: Iterable[Mapping[str, Any]]) -> dict[str, LossCurve]:
    """`train_step`, `train_epoch`, `val_step` and `val_epoch`, from lines in their order."""
    found = {f"{part}_{per}": LossCurve() for part in ("train", "val") for per in ("step", "epoch")}
    sums: dict[int, tuple[float, float]] = {}
    evaluated: dict[int, float] = {}
    epoch, tokens_before = 1, None
    for record in records:
        if "loss" in record:
            loss, epoch = _number(record["loss"]), record["epoch"]
            tokens = _tokens_of(record, tokens_before)
            tokens_before = record["supervised_tokens"]
            total, counted = sums.get(epoch, (0.0, 0.0))
            sums[epoch] = total + loss * tokens, counted + tokens
            _append(found["train_step"], record["step"], loss)
        elif "eval_loss" in record:
            evaluated[epoch] = _number(record["eval_loss"])
            _append(found["val_step"], record["step"], evaluated[epoch])
    for epoch, (total, counted) in sums.items():
        _append(found["train_epoch"], epoch, total / counted)
    for epoch, loss in evaluated.items():
        _append(found["val_epoch"], epoch, loss)
    return found


def _tokens_of(record: Mapping[str, Any], before: int | None) -> float:
    """Supervised tokens of a step; before: of all steps up to the line before, if there is one.

    The first line counts as a step so far does on average: it may be one that others are missing
    before, of a run that went on without them.
    """
    counted: int = record["supervised_tokens"]
    return counted / record["step"] if before is None else counted - before


def _append(curve: LossCurve, x: int, loss: float) -> None:
    curve.x.append(x)
    curve.losses.append(loss)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
