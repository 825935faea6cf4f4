"""Models as checkpoints, and checkpoints as models, without a file between them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from llama_recipes.adapters.merged import MergedTensors
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.llama import Llama
from llama_recipes.model.weights import TensorSource, load_weights
from llama_recipes.quantization.select import Quantization


class InMemory:
    """The weights of a model as a checkpoint."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = {key: tensor.detach() for key, tensor in model.state_dict().items()}
        self.shapes = {key: tuple(tensor.shape) for key, tensor in self.tensors.items()}

    def dtype(self, key: str) -> torch.dtype:
        return self.tensors[key].dtype

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        return self.tensors[key][start:stop]


def loaded(tensors: TensorSource, config: LlamaConfig) -> Llama:
    """A plain model in float32."""
    with torch.device("meta"):
        model = Llama(config)
    load_weights(model, tensors, device=torch.device("cpu"))
    return model


def merged(base: Llama, adapter: Path, how: Quantization | None = None) -> Llama:
    """`base` with the update of the adapter in `adapter` in its weights."""
    tensors = MergedTensors(InMemory(base), base.config, adapter, how=how)
    return loaded(tensors, base.config)
