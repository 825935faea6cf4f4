"""Tiny Llamas with an adapter, and folders that one is saved in."""

from __future__ import annotations

from pathlib import Path

import torch

from llama_recipes.adapters.lora import add_lora, initialise_lora, lora_layers
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.export.hf import save_adapter
from llama_recipes.model.llama import Llama
from support.tiny import tiny_llama


def lora(config: LoraConfig, *, trained: bool = True, **changes) -> Llama:
    """A base model with an adapter, as it starts or, `trained`, with a B that is not zero."""
    model = tiny_llama(**changes)
    add_lora(model, config)
    initialise_lora(model, seed=1, device=torch.device("cpu"))
    if trained:
        torch.manual_seed(2)
        for _, layer in lora_layers(model):
            torch.nn.init.normal_(layer.lora_B.weight, std=0.05)
    return model


def saved(model: Llama, folder: Path, config: LoraConfig) -> Path:
    save_adapter(model, folder, config=config, base_model="")
    return folder
