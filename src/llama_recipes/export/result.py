"""A run's weights in `output_dir`: the best, and in `last/` the last where they differ."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_recipes.adapters.peft_format import WEIGHTS_FILE
from llama_recipes.configs.peft import AdapterConfig
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.errors import CheckpointError
from llama_recipes.export.hf import (
    generation_settings,
    save_adapter,
    save_model,
    save_tokenizer,
)
from llama_recipes.model.llama import Llama
from llama_recipes.model.safetensors_folder import read_metadata, weight_files
from llama_recipes.monitoring.results import LAST, RESULTS_FILE
from llama_recipes.parallel.world import CPU_ALONE, World
from llama_recipes.quantization.kept import Kept

_STEP = "step"
"""In the metadata of a result's files: after which optimizer step of its run its weights are."""


def step_of(folder: Path) -> int | None:
    """That of the result in `folder`; None where there is none, or it does not tell."""
    try:
        names = [WEIGHTS_FILE, *weight_files(folder)]
    except CheckpointError:
        return None
    for told in (read_metadata(folder / name) for name in names):
        if _STEP in told:
            return int(told[_STEP])
    return None


def holds_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def drop_last(folder: Path, *, after: int = -1) -> None:
    """Remove the last weights beside a result where they are of a step behind `after`.

    Another run's folder that has this very name stays.
    """
    last = folder / LAST
    step = step_of(last)
    if step is not None and step > after and not (last / RESULTS_FILE).exists():
        shutil.rmtree(last, ignore_errors=True)


class ResultWriter:
    """Called with `best`, it writes the model's present weights as an adapter or a full model.

    kept: how the base is kept under an adapter. world: the processes that share the model, all of
    which call it.
    """

    def __init__(
        self,
        folder: Path,
        model: Llama,
        tokenizer: Tokenizer,
        *,
        adapter: AdapterConfig | None,
        base_model: str,
        base_fingerprint: str,
        kept: Kept | None = None,
        generation_config: Mapping[str, Any] | None,
        world: World = CPU_ALONE,
    ) -> None:
        self.world = world
        self.folder, self.model, self.tokenizer = folder, model, tokenizer
        self.adapter, self.base_model = adapter, base_model
        self.base_fingerprint, self.kept = base_fingerprint, kept
        self.generation_config = generation_settings(generation_config, tokenizer)

    def __call__(self, *, step: int, best: bool) -> None:
        folder = self.folder if best else self.folder / LAST
        told = {_STEP: f"{step}"}
        try:
            self.world.lead(lambda: save_tokenizer(self.tokenizer, folder))
            if self.adapter is not None:
                save_adapter(
                    self.model,
                    folder,
                    config=self.adapter,
                    base_model=self.base_model,
                    base_fingerprint=self.base_fingerprint,
                    kept=self.kept,
                    metadata=told,
                    world=self.world,
                )
            else:
                save_model(
                    self.model,
                    folder,
                    generation_config=self.generation_config,
                    metadata=told,
                    world=self.world,
                )
            if best:  # which is the last, too, until the run goes on
                self.world.lead(lambda: drop_last(self.folder))
        except OSError as error:
            raise CheckpointError(
                f"The result could not be written to {folder}: {error.strerror or error}. What was"
                " saved there before is intact. Make room or give another --output_dir."
            ) from error
