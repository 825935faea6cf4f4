"""Which layers of a model are kept in 8 or 4 bits, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from llama_recipes.configs.quantization import QuantizationConfig
from llama_recipes.errors import CheckpointError
from llama_recipes.model.llama import Linear, Llama
from llama_recipes.packages import require
from llama_recipes.quantization.linear import BLOCK, FourBitLinear, Int8Linear, QuantType


@dataclass(frozen=True, slots=True)
class Quantization:
    """quant_type and use_double_quant count for 4 bits alone."""

    bits: Literal[8, 4]
    quant_type: QuantType = "nf4"
    use_double_quant: bool = False

    @staticmethod
    def asked_for(setting: bool | str, config: QuantizationConfig) -> Quantization | None:
        """What `train_config.quantization` and its section say; None for a model as it is."""
        if setting == "4bit":
            return Quantization(4, config.quant_type, config.use_double_quant)
        return Quantization(8) if setting else None

    @staticmethod
    def recorded(raw: Mapping[str, Any]) -> Quantization:
        """What `dataclasses.asdict` made of one. Raises CheckpointError for anything else."""
        kinds: dict[Any, QuantType] = {kind: kind for kind in get_args(QuantType)}
        bits, kind = raw.get("bits"), kinds.get(raw.get("quant_type"))
        if bits not in (8, 4) or kind is None:
            raise CheckpointError(
                f"{dict(raw)} is no quantisation that is known here: bits are 8 or 4, quant_type is"
                f" {' or '.join(kinds)}."
            )
        if bits == 8:
            return Quantization(8)
        return Quantization(4, kind, bool(raw.get("use_double_quant")))


def recorded_quantization(settings: Mapping[str, Any]) -> Quantization | None:
    """That of a run by its settings, named as `quantization_config.quant_type`, as a checkpoint
    keeps them."""
    prefix = "quantization_config."
    section = {
        key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)
    }
    config = QuantizationConfig.model_validate(section)
    return Quantization.asked_for(settings["train_config.quantization"], config)


def quantize(model: Llama, how: Quantization | None) -> None:
    """Rewrite a model on meta: every frozen linear layer of its decoder layers is kept so.

    Adapters, embeddings, norms and the head stay as they are. Raises ConfigError where bitsandbytes
    is missing, CheckpointError for a width that 4 bits cannot be cut into.
    """
    if how is None:
        return
    require("bitsandbytes", why="--quantization computes with")
    import bitsandbytes  # noqa: F401 - registers its operators

    layers = {
        name: module
        for name, module in model.model.layers.named_modules(prefix="model.layers")
        if isinstance(module, Linear) and not module.weight.requires_grad
    }
    odd = sorted({layer.in_features for layer in layers.values() if layer.in_features % BLOCK})
    if how.bits == 4 and odd:
        raise CheckpointError(
            f"The model has layers of {', '.join(map(str, odd))} inputs; in 4 bits {BLOCK} weights"
            f" of a row share a scale, so that it takes a multiple of {BLOCK}."
            " Use --quantization 8bit."
        )
    for name, layer in layers.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, quantized_layer(layer, how))


def frozen_bytes(model: Llama) -> tuple[int, int]:
    """Of all frozen weights, as they are kept and as they would be in the dtype of the rest."""
    kept = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    plain = kept
    for layer in model.modules():
        if isinstance(layer, Int8Linear | FourBitLinear):
            plain += layer.in_features * layer.out_features * model.dtype.itemsize
            plain -= sum(getattr(layer, part).nbytes for part in layer.parts)
    return kept, plain


def quantized_layer(layer: Linear, how: Quantization) -> Int8Linear | FourBitLinear:
    """The layer that takes the place of `layer` and, once it is encoded, of its weights."""
    if how.bits == 8:
        return Int8Linear(layer)
    return FourBitLinear(layer, quant_type=how.quant_type, double_quant=how.use_double_quant)
