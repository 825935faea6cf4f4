"""Everything that decides how a run goes on, out of a run and back into one.

Weights that are not trained are the base model's and stay with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llama_recipes.checkpoint.folder import Checkpoint, Tensors
from llama_recipes.checkpoint.store import drafted
from llama_recipes.model.safetensors_folder import save_tensors
from llama_recipes.training.loop import Progress, Run
from llama_recipes.training.random_state import RandomState

_SEPARATOR = "|"
"""Between a parameter's name and that of its state; no module's name has it."""


def tensors_of(run: Run) -> Tensors:
    """Trained weights, the optimizer's state of each, and the random generators."""
    return {
        "weights": {name: weight.detach() for name, weight in _trained(run.model)},
        "optimizer": {
            f"{name}{_SEPARATOR}{part}": value
            for name, weight in _trained(run.model)
            for part, value in run.optimizer.state[weight].items()
        },
        "random": dict(run.random.tensors),
    }


def save_optimizer(run: Run, folder: Path) -> None:
    """The optimizer's state beside the result, for whoever wants to look at it or reuse it."""
    with drafted(folder / "optimizer.safetensors") as draft:
        save_tensors(tensors_of(run)["optimizer"], draft)


def state_of(run: Run) -> dict[str, Any]:
    """What is no tensor, ready for JSON. Brings the metrics that were written to the disk."""
    run.count_time()
    selection = {
        field.name: getattr(run.selection, field.name)
        for field in fields(run.selection)
        if field.name not in ("save", "patience")
    }
    if math.isinf(selection["best_loss"]):
        selection["best_loss"] = None
    return {
        "progress": asdict(run.progress),
        "selection": selection,
        "scaler": run.scaler.state_dict(),
        "metrics_bytes": run.log.durable_bytes(),
    }


@torch.no_grad()
def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Put a run that was just made where the one was that saved `checkpoint`."""
    state = checkpoint.state
    weights, moments = checkpoint.tensors("weights"), checkpoint.tensors("optimizer")
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        name, part = key.split(_SEPARATOR)
        parts.setdefault(name, {})[part] = value
    for name, weight in _trained(run.model):
        weight.copy_(weights[name])
        if name in parts:
            # The steps' count stays where the optimizer keeps it: on the processor, or with a GPU's
            # fused kernel beside the weight.
            run.optimizer.state[weight] = {
                part: value.to(weight.device) for part, value in parts[name].items()
            }
    run.progress = Progress(**state["progress"])
    for name, value in state["selection"].items():
        setattr(run.selection, name, math.inf if (name, value) == ("best_loss", None) else value)
    run.scaler.load_state_dict(state["scaler"])
    run.random = RandomState(checkpoint.tensors("random"))
    run.random.restore()


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
