"""run.json: when and where a run ran, and what it was trained on; what no other file tells."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import llama_recipes
from llama_recipes.data.splits import Splits
from llama_recipes.data.store import TokenStore
from llama_recipes.model.llama import Llama
from llama_recipes.model.weights import count_parameters
from llama_recipes.monitoring.report.files import RUN_FILE
from llama_recipes.monitoring.report.tracker import now


def run_facts(
    model: Llama,
    splits: Splits,
    *,
    device: torch.device,
    processes: int,
    total_steps: int,
    started: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What is known before the first step, ready for JSON.

    started: when and after which step it was begun and gone on with, in order.
    """
    parts = {"training": splits.train, "validation": splits.validation}
    return {
        "started": list(started),
        "ended": None,
        "total_steps": total_steps,
        "parameters": count_parameters(model),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "computed_in": str(model.dtype).removeprefix("torch."),
        "device": _device_name(device),
        "processes": processes,
        "versions": {
            "llama-recipes": llama_recipes.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "data": {name: _part(store) for name, store in parts.items() if store is not None},
    }


@dataclass(frozen=True, slots=True)
class EarlierParts:
    """What the run.json of a run that is gone on with tells; empty where it does not."""

    run_id: str = ""
    started: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def earlier_parts(folder: Path | None) -> EarlierParts:
    """Of the run in `folder`, if any; with a file that is damaged only the history is lost."""
    try:
        found = json.loads((folder / RUN_FILE).read_text(encoding="utf-8")) if folder else {}
        started, warnings = found.get("started") or [], found.get("warnings") or []
        return EarlierParts(
            str(found.get("run_id") or ""),
            [start for start in started if isinstance(start, dict)],
            [warning for warning in warnings if isinstance(warning, str)],
        )
    except (OSError, ValueError, AttributeError, TypeError):
        return EarlierParts()


def starts(earlier: EarlierParts, *, after_step: int | None) -> list[dict[str, Any]]:
    """When a run was begun and gone on with, this time included.

    after_step: of the checkpoint that it goes on from; None where it begins anew.
    """
    return [*earlier.started, {"at": now(), "after_step": after_step or 0}]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    return f"processor, {threads} thread{'s' if threads > 1 else ''}"


def _part(store: TokenStore) -> dict[str, Any]:
    """Documents and tokens of a part, the quantiles of their lengths, and what was left out."""
    lengths = np.asarray(store.lengths)
    quantiles = np.quantile(lengths, [0, 0.5, 0.95, 1], method="nearest")
    return {
        "documents": len(store),
        "tokens": int(lengths.sum()),
        "supervised_tokens": int(np.asarray(store.supervised).sum()),
        "lengths": dict(
            zip(("shortest", "median", "95%", "longest"), map(int, quantiles), strict=True)
        ),
        "counts": {name: int(number) for name, number in store.report["counts"].items()},
    }
