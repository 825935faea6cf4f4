"""What is merged or exported: one plain model, whether it was trained whole or as an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llama_recipes.adapters.merged import MergedTensors
from llama_recipes.errors import CheckpointError
from llama_recipes.export.encodings import Encoding
from llama_recipes.export.hf import generation_settings
from llama_recipes.inference.load import Found
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.llama import Llama
from llama_recipes.model.weights import TensorSource, check_weights, widest_dtype

DTYPES: Mapping[Encoding, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class Trained:
    """tensors: of the plain model, in float32 where an adapter was added, else as stored.

    shapes: of exactly the tensors that such a model has, by their Hugging Face keys.
    """

    found: Found
    config: LlamaConfig
    tensors: TensorSource
    shapes: dict[str, tuple[int, ...]]

    @property
    def generation_config(self) -> Mapping[str, Any]:
        return generation_settings(self.found.source.generation_config, self.found.tokenizer)

    def own_encoding(self) -> Encoding:
        """The one that loses nothing of the base model's weights."""
        stored = widest_dtype(self.tensors)
        return next((name for name, dtype in DTYPES.items() if dtype == stored), "F32")

    def rounded(self, key: str, dtype: torch.dtype) -> Tensor:
        """A whole tensor. Raises CheckpointError for a value that `dtype` has no number for."""
        exact = self.tensors.read(key)
        tensor = exact.to(dtype).contiguous()
        if bool(tensor.isinf().any()) and not bool(exact.isinf().any()):
            raise CheckpointError(
                f"{key} holds values beyond the range of {str(dtype).removeprefix('torch.')}."
                " Choose --dtype BF16 or F32."
            )
        return tensor


def plain_model(found: Found) -> Trained:
    """Raises CheckpointError where the weights do not make a whole model."""
    source = found.source
    with torch.device("meta"):
        model = Llama(source.config)
    check_weights(model, source.tensors)
    tensors = source.tensors
    if found.adapter is not None:
        tensors = MergedTensors(
            source.tensors, source.config, found.adapter, how=found.quantization
        )
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    return Trained(found, source.config, tensors, shapes)
