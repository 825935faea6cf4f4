"""A base model's checkpoint with an adapter's updates added to its weights, read row by row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llama_recipes.adapters.lora import LINEAR_NAMES, lora_scale
from llama_recipes.adapters.saved import SavedAdapter, read_saved, saved_config
from llama_recipes.adapters.select import adapt
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.errors import CheckpointError
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.llama import Linear, Llama
from llama_recipes.model.weights import TensorSource, all_rows
from llama_recipes.quantization.select import Quantization, quantize, quantized_layer


class MergedTensors:
    """W + scale · B A for every layer that has an update, in float32; rounding is the reader's.

    how: the base as it was in training; the weights that are added to are then those that its few
    bits stand for. Raises CheckpointError where the adapter does not fit the model, or is of a kind
    that no weight can hold.
    """

    def __init__(
        self,
        base: TensorSource,
        config: LlamaConfig,
        adapter: SavedAdapter,
        *,
        how: Quantization | None = None,
    ) -> None:
        settings = saved_config(adapter)
        if not isinstance(settings, LoraConfig):
            raise CheckpointError(
                f"The adapter in {adapter} adds prompts to the attention, which no weight of a"
                " plain model can hold: it cannot be merged. Use it as an adapter, with"
                " llama-recipes chat or peft."
            )
        with torch.device("meta"):
            model = Llama(config)
            adapt(model, settings)
            quantize(model, how)
        self._base, self._how = base, how
        self._stored = read_saved(model, adapter)
        self._scale = lora_scale(settings)
        self.shapes: Mapping[str, tuple[int, ...]] = base.shapes

    def dtype(self, key: str) -> torch.dtype:
        """That of the base, which a merged model usually keeps; `read` gives float32."""
        return self._base.dtype(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        if key in self._stored:  # an embedding, head or bias that was trained itself
            return self._stored[key][start:stop].float()
        rows = self._base_rows(key, start, stop)
        layer = key.removesuffix(".weight")
        if f"{layer}.lora_A.weight" not in self._stored:
            return rows
        a, b = (self._stored[f"{layer}.lora_{part}.weight"].float() for part in "AB")
        return rows + self._scale * b[start:stop] @ a

    def _base_rows(self, key: str, start: int, stop: int | None) -> Tensor:
        if self._how is None or key.split(".")[-2] not in LINEAR_NAMES or key.endswith(".bias"):
            return self._base.read(key, start, stop).float()
        outputs, inputs = self.shapes[key]
        layer = quantized_layer(Linear(inputs, outputs), self._how)
        layer.encode([(0, self._base.read(key).float())], all_rows)
        return layer.dequantized().weight[start:stop]
