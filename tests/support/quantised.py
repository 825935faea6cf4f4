"""Tiny Llamas whose frozen layers are kept in 8 or 4 bits, with the weights that they stand for."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from llama_recipes.adapters.lora import add_lora, initialise_lora
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.model.llama import Linear, Llama
from llama_recipes.model.weights import load_weights
from llama_recipes.quantization.linear import FourBitLinear, Int8Linear
from llama_recipes.quantization.select import Quantization, quantize
from support.in_memory import InMemory
from support.tiny import tiny_llama

CPU = torch.device("cpu")
WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
"""Widths that 4 bits can be cut into."""

KINDS = {
    "8bit": Quantization(8),
    "nf4": Quantization(4),
    "fp4": Quantization(4, "fp4"),
    "nf4, double": Quantization(4, "nf4", use_double_quant=True),
    "fp4, double": Quantization(4, "fp4", use_double_quant=True),
}


def quantised(kind: str, lora: LoraConfig | None = None, **changes) -> Llama:
    """`tiny_llama` in fewer bits, loaded as a checkpoint is; with a fresh adapter, or without."""
    full = tiny_llama(**WIDE, **changes)
    with torch.device("meta"):
        model = Llama(full.config)
        model.requires_grad_(False)
        if lora is not None:
            add_lora(model, lora)
        added = {name for name, p in model.named_parameters() if p.requires_grad}
        quantize(model, KINDS[kind])
    load_weights(model, InMemory(full), device=CPU, skip=added)
    if lora is not None:
        initialise_lora(model, seed=1, device=CPU)
    return model


def encoded_layers(model: nn.Module) -> Iterator[tuple[str, Int8Linear | FourBitLinear]]:
    for name, module in model.named_modules():
        if isinstance(module, Int8Linear | FourBitLinear):
            yield name, module


def dense(model: Llama) -> Llama:
    """The same model with every weight as the number that it stands for."""
    model = copy.deepcopy(model)
    for name, layer in list(encoded_layers(model)):
        parent, _, leaf = name.rpartition(".")
        plain: Linear = layer.dequantized()
        setattr(model.get_submodule(parent), leaf, plain)
    return model
