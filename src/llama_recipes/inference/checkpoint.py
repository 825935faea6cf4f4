"""A run's checkpoint as a model: all of its weights, or an adapter on its base."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llama_recipes.adapters.saved import NamedAdapter
from llama_recipes.adapters.select import recorded_adapter
from llama_recipes.checkpoint.folder import (
    Checkpoint,
    is_checkpoint,
    newest_checkpoint,
    open_checkpoint,
)
from llama_recipes.checkpoint.tensors import TrainedTensors
from llama_recipes.data.tokenizer import Tokenizer, holds_tokenizer, load_tokenizer
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.model.fingerprint import weights_fingerprint
from llama_recipes.model.source import TOKENIZER_FILES, ModelSource, locate, open_model
from llama_recipes.model.vocabulary import with_vocabulary
from llama_recipes.model.weights import EMBEDDING, HEAD, TensorSource
from llama_recipes.quantization.select import Quantization, recorded_quantization

Say = Callable[[str], None]

_WEIGHTS = "weights"
"""The files of a checkpoint that a model is made of; the optimizer's are not even read."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a checkpoint holds, with what it needs of elsewhere.

    source: the base under an adapter, or else the trained model itself. run_folder: of the run that
    saved it; it may be gone. facts: what the run recorded for whoever makes a model of this.
    """

    source: ModelSource
    adapter: NamedAdapter | None
    tokenizer: Tokenizer
    quantization: Quantization | None
    run_folder: Path | None
    facts: Mapping[str, Any]


def checkpoint_at(folder: Path, say: Say) -> Checkpoint | None:
    """The checkpoint that `folder` is, or the newest whole one in it, which is said; None for else.

    Raises CheckpointError where its weights are not those that were written.
    """
    if not folder.is_dir() or (folder / "config.json").exists():
        return None
    path = folder.resolve()  # a step is known by its name, whatever links to it
    if is_checkpoint(path):
        return open_checkpoint(path, only=_WEIGHTS, remedy="Give an earlier one.")
    if not any(map(is_checkpoint, path.glob("step-*"))):
        return None
    found = newest_checkpoint(path, say, only=_WEIGHTS)
    if found is None:
        raise CheckpointError(
            f"None of the checkpoints in {folder} is whole: there is no model to make of them."
        )
    say(f"Taking {found.path.name}, the newest checkpoint in {folder}.")
    return found


def held(checkpoint: Checkpoint, base: str | None) -> Held:
    """base: where the model is that it was trained from, if not where it was then.

    Raises CheckpointError and ConfigError, also for another model or tokenizer than in training.
    """
    identity = checkpoint.state["identity"]
    facts = checkpoint.state.get("made_of", {})
    weights = checkpoint.shards(_WEIGHTS)
    source = _base(checkpoint, base, facts.get("base_model"))
    run_folder = _run_folder(checkpoint)
    tokenizer = _tokenizer(checkpoint, facts.get("tokenizer"), source, run_folder)
    source = with_vocabulary(source, _vocabulary(weights, facts))
    config = recorded_adapter(identity["settings"])
    adapter = None if config is None else NamedAdapter(checkpoint.path, config, weights)
    if adapter is None:
        rounded = identity["settings"]["fsdp_config.pure_bf16"]
        tensors = TrainedTensors(
            source.tensors,
            weights,
            tied=source.config.tie_word_embeddings,
            frozen=torch.bfloat16 if rounded else None,
        )
        source = replace(source, name=str(checkpoint.path), tensors=tensors)
    how = recorded_quantization(identity["settings"])
    return Held(source, adapter, tokenizer, how, run_folder, facts)


def _base(checkpoint: Checkpoint, given: str | None, recorded: str | None) -> ModelSource:
    name = given or recorded
    if name is None:
        raise ConfigError(
            f"{checkpoint.path} does not say which model it was trained from. Name that model with"
            " --base_model."
        )
    try:
        source = open_model(name)
    except CheckpointError as error:
        if given is not None:
            raise
        raise CheckpointError(
            f"{checkpoint.path} was trained from {name}, which cannot be opened: {error} If it is"
            " elsewhere now, say where with --base_model."
        ) from error
    if weights_fingerprint(source.tensors) != _known(checkpoint, "model", "id"):
        raise CheckpointError(
            f"{checkpoint.path} was trained from other weights than those of {name}. Name the very"
            " model that it was trained from with --base_model."
        )
    return source


def _known(checkpoint: Checkpoint, what: str, by: str) -> str:
    """The fingerprint of an input of the training; older checkpoints have nothing beside it."""
    known = checkpoint.state["identity"]["inputs"][what]
    return str(known[by] if isinstance(known, Mapping) else known)


def _vocabulary(weights: TensorSource, facts: Mapping[str, Any]) -> int:
    """Tokens that there are rows for: rows that were added and then frozen are not in the files."""
    rows = (weights.shapes[key][0] for key in (EMBEDDING, HEAD) if key in weights.shapes)
    return max(rows, default=facts.get("vocab_size", 0))


def _run_folder(checkpoint: Checkpoint) -> Path | None:
    way = checkpoint.state.get("output_dir")
    return None if way is None else Path(os.path.normpath(checkpoint.path.parent / way))


def _tokenizer(
    checkpoint: Checkpoint, recorded: str | None, source: ModelSource, run_folder: Path | None
) -> Tokenizer:
    """That of the training, known by its fingerprint: where it was then, or beside a result."""
    wanted = _known(checkpoint, "tokenizer", "with template")
    places: list[Path] = []
    with suppress(CheckpointError):  # it was moved
        named = recorded and locate(recorded, what="tokenizer", hub_files=TOKENIZER_FILES)
        places.append(named or source.path)
    if run_folder is not None and holds_tokenizer(run_folder):
        places.append(run_folder)
    for place in places:
        found = load_tokenizer(place)
        if found.fingerprint == wanted:
            return found
    raise CheckpointError(
        f"The tokenizer that {checkpoint.path} was trained with is not at"
        f" {recorded or source.path} any more, or it is another one now. Put it back there."
    )
