"""results.json: the original's keys, and how the run ended."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from llama_recipes.errors import LlamaRecipesError
from llama_recipes.monitoring.run_log import finite, perplexity

RESULTS_FILE = "results.json"
LAST = "last"
"""The folder in a result that holds the last weights, where the best ones are others."""
STOPPED_BY = "stopped by "
"""How the reason begins that a run which did not come to its end has: a signal or an error."""


_SECRET = re.compile(r"(?<=://)[^/\s@]+(?=@)|\b(?:hf_|wandb_v1_)\w{20,}|\b[0-9a-f]{40}\b")
"""A name and password in an address, and keys of the hub and of W&B."""


def reason_of(error: BaseException) -> str:
    """What results.json keeps of an error beside its name, and the report shows.

    The sentences of a user's error, of any other its first line. Empty for a signal.
    """
    if not isinstance(error, Exception):
        return ""
    said = str(error)
    if not isinstance(error, LlamaRecipesError):
        said = said.partition("\n")[0]
    return _SECRET.sub("…", said)  # the folder of a run is handed on, and its report


def ending_in(path: Path) -> str | None:
    """How the run of a results.json ended: the `stop_reason` there, empty before its end.

    None for a file that is none of ours, or where there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(content, dict) and "stop_reason" in content
    return str(content["stop_reason"] or "") if known else None


def counted_before(folder: Path | None) -> dict[str, Any]:
    """What --flop_counter found in an earlier part of the run in `folder`, for its results."""
    try:
        found = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}  # it is counted again or missed, and nothing else
    kept = ("model_tflops", "flop_counter")
    return {key: found[key] for key in kept if isinstance(found, dict) and found.get(key)}


def how_it_ended(stop_reason: str) -> Literal["finished", "interrupted", "failed"]:
    """What became of a run, from its reason in results.json; a signal interrupts it."""
    if not stop_reason.startswith(STOPPED_BY):
        return "finished"
    name = stop_reason.removeprefix(STOPPED_BY)
    by_signal = name in (*signal.Signals.__members__, "KeyboardInterrupt")
    return "interrupted" if by_signal else "failed"


def summarise(
    *,
    epoch_losses: Sequence[float],
    eval_losses: Sequence[float],
    epoch_seconds: Sequence[float],
    save_seconds: Sequence[float],
    **facts: Any,
) -> dict[str, Any]:
    """Means over epochs, evaluations and savings; `facts` are added as they are.

    Losses in nats per token, times in seconds; None where there was nothing to average.
    `model_tflops`, TFLOP/s of one device, and `metrics_filename` belong to flop_counter and
    save_metrics, whose facts replace them.
    """
    results = {
        "avg_train_prep": _mean([perplexity(loss) for loss in epoch_losses]),
        "avg_train_loss": _mean(epoch_losses),
        "avg_eval_prep": _mean([perplexity(loss) for loss in eval_losses]),
        "avg_eval_loss": _mean(eval_losses),
        "avg_epoch_time": _mean(epoch_seconds),
        "avg_checkpoint_time": _mean(save_seconds),
        "model_tflops": None,
        "metrics_filename": None,
        **facts,
    }
    return finite(results)


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
