"""Everything that decides how a run goes on, out of a run and back into one.

Weights that are not trained are the base model's and stay with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llama_recipes.checkpoint.folder import Checkpoint, Tensors
from llama_recipes.checkpoint.pieces import Piece, Pieces, Shards
from llama_recipes.checkpoint.store import drafted
from llama_recipes.configs.fsdp import StateDictType
from llama_recipes.errors import CheckpointError, writing
from llama_recipes.model.safetensors_folder import save_tensors
from llama_recipes.parallel.shards import is_first_copy, is_shared, own_rows, whole, with_rows
from llama_recipes.parallel.world import World
from llama_recipes.training.loop import Run
from llama_recipes.training.loss_scale import LossScale
from llama_recipes.training.progress import Progress
from llama_recipes.training.random_state import RandomState

_SEPARATOR = "|"
"""Between a parameter's name and that of its state; no module's name has it."""


def tensors_of(run: Run, layout: StateDictType = StateDictType.FULL_STATE_DICT) -> Tensors:
    """This process's part of trained weights, the optimizer's state, and the random generators.

    layout: each process's own rows, or all of them with the process of rank 0. Every process asks.
    """
    trained = list(_trained(run.model))
    weights: dict[str, Tensor] = dict(trained)
    moments = {
        f"{name}{_SEPARATOR}{part}": value
        for name, weight in trained
        for part, value in run.optimizer.state[weight].items()
    }
    world = run.world
    random = {f"{world.rank}.{name}": value for name, value in run.random.tensors.items()}
    own = "" if world.size == 1 else f"-{world.rank + 1:05}-of-{world.size:05}"
    part = "" if layout == StateDictType.FULL_STATE_DICT else own
    files = {
        f"weights{part}": _pieces(weights, layout, world),
        f"optimizer{part}": _pieces(moments, layout, world),
        f"random{own}": {key: Piece.whole(value) for key, value in random.items()},
    }
    return {name: pieces for name, pieces in files.items() if pieces}


def _pieces(tensors: Mapping[str, Tensor], layout: StateDictType, world: World) -> Pieces:
    gathered = layout == StateDictType.FULL_STATE_DICT
    found = {}
    for key, tensor in tensors.items():
        if gathered or not is_shared(tensor):
            piece = Piece.whole(whole(tensor))
            kept_here = world.rank == 0
        else:
            piece = Piece(*own_rows(tensor), tuple(tensor.shape))
            kept_here = is_first_copy(tensor) and len(piece.rows) > 0
        if kept_here:
            found[key] = piece
    return found


def save_optimizer(run: Run, folder: Path) -> None:
    """The optimizer's state beside the result, for whoever wants to look at it or reuse it.

    Raises CheckpointError where it cannot be written.
    """
    pieces, path = tensors_of(run).get("optimizer"), folder / "optimizer.safetensors"

    def write() -> None:
        if pieces is not None:
            with writing(path), drafted(path) as draft:
                save_tensors({key: piece.rows for key, piece in pieces.items()}, draft)

    run.world.lead(write)


def state_of(run: Run) -> dict[str, Any]:
    """What is no tensor, ready for JSON. Brings the metrics that were written to the disk.

    All of it is copied: it may be written while the run goes on.
    """
    run.count_time()
    selection = {
        field.name: deepcopy(getattr(run.selection, field.name))
        for field in fields(run.selection)
        if field.name not in ("save", "patience")
    }
    if math.isinf(selection["best_loss"]):
        selection["best_loss"] = None
    return {
        "progress": asdict(run.progress),
        "selection": selection,
        "loss_scale": asdict(run.scale),
        "metrics_bytes": run.log.durable_bytes(),
    }


@torch.no_grad()
def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Put a run that was just made where the one was that saved `checkpoint`.

    Raises CheckpointError where it holds the optimizer's state of some trained weights alone.
    """
    state = checkpoint.state
    restore_weights(run.model, checkpoint)
    moments = checkpoint.shards("optimizer")
    parts: dict[str, list[str]] = {}
    for key in moments.shapes:
        name, part = key.split(_SEPARATOR)
        parts.setdefault(name, []).append(part)
    lacking = [name for name, _ in _trained(run.model) if name not in parts]
    if parts and lacking:
        raise CheckpointError(
            f"{checkpoint.path} has no optimizer's state of {len(lacking)} trained weights"
            f" ({lacking[0]}), and of others it has: going on from it would train on something"
            " else. Give an earlier one with --resume FOLDER."
        )
    for name, weight in _trained(run.model):
        rows, first = own_rows(weight)
        for part in parts.get(name, []):
            key = f"{name}{_SEPARATOR}{part}"
            # The steps' count stays where the optimizer keeps it: on the processor, or with a GPU's
            # fused kernel beside the weight.
            value = moments.rows(key, first, len(rows)).to(rows.device)
            shared = with_rows(weight, value) if moments.shapes[key] else value
            run.optimizer.state[weight][part] = shared
    run.progress = Progress(**state["progress"])
    for name, value in state["selection"].items():
        setattr(run.selection, name, math.inf if (name, value) == ("best_loss", None) else value)
    run.scale = LossScale(**state["loss_scale"])
    _restore_random(run, checkpoint.shards("random"))


@torch.no_grad()
def restore_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """What of the model is trained, and nothing else of the run."""
    weights = checkpoint.shards("weights")
    for name, weight in _trained(model):
        rows, first = own_rows(weight)
        rows.copy_(weights.rows(name, first, len(rows)))


def _restore_random(run: Run, stored: Shards) -> None:
    """A process of a rank that the saved run did not have draws as one that starts anew."""
    own = f"{run.world.rank}."
    tensors = {
        key.removeprefix(own): stored.whole(key) for key in stored.shapes if key.startswith(own)
    }
    if tensors:
        run.random = RandomState(tensors)
        run.random.restore()


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
