"""An adapter that was saved: a folder in peft's format, or a part of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from llama_recipes.adapters.peft_format import (
    check_adapter,
    load_adapter_weights,
    read_tensors,
    refuse_differences,
)
from llama_recipes.adapters.select import checkpoint_config
from llama_recipes.configs.peft import AdapterConfig
from llama_recipes.model.llama import Llama
from llama_recipes.model.weights import TensorSource, checkpoint_key


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """tensors: of every weight that is trained beside the frozen base, by the parameter's name.

    path: where it was found, which is what messages call it.
    """

    path: Path
    config: AdapterConfig
    tensors: TensorSource

    def __str__(self) -> str:
        return str(self.path)


SavedAdapter = Path | NamedAdapter


def saved_config(adapter: SavedAdapter) -> AdapterConfig:
    """Its settings. Raises CheckpointError for what cannot be read."""
    return checkpoint_config(adapter) if isinstance(adapter, Path) else adapter.config


def check_saved(model: Llama, adapter: SavedAdapter) -> None:
    """Raises CheckpointError that lists every missing, extra or misshapen tensor; reads none.

    model: rewritten by `adapt` with the adapter's settings, as for all that follow.
    """
    if isinstance(adapter, Path):
        check_adapter(model, saved_config(adapter), adapter)
    else:
        shapes = {name: tuple(parameter.shape) for name, parameter in _trained(model)}
        refuse_differences(dict(adapter.tensors.shapes), shapes, adapter.path)


@torch.no_grad()
def load_saved(model: Llama, adapter: SavedAdapter) -> None:
    """Copy the adapter's weights into the model. Raises CheckpointError as `check_saved` does."""
    if isinstance(adapter, Path):
        load_adapter_weights(model, saved_config(adapter), adapter)
        return
    check_saved(model, adapter)
    for name, parameter in _trained(model):
        parameter.copy_(adapter.tensors.read(name))


def read_saved(model: Llama, adapter: SavedAdapter) -> dict[str, Tensor]:
    """The adapter's tensors by the names of the base model's checkpoint, as `read_tensors` says.

    Raises CheckpointError as `check_saved` does.
    """
    if isinstance(adapter, Path):
        return read_tensors(model, saved_config(adapter), adapter)
    check_saved(model, adapter)
    return {checkpoint_key(name): adapter.tensors.read(name) for name, _ in _trained(model)}


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
