"""Which adapter a run trains, and its start."""

from __future__ import annotations

from pathlib import Path

import torch

from llama_recipes.adapters.lora import add_lora, initialise_lora
from llama_recipes.adapters.peft_format import load_lora_weights, read_lora_config
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import is_given
from llama_recipes.model.llama import Llama


def adapter_config(config: RunConfig) -> LoraConfig | None:
    """The adapter's settings, those of `from_peft_checkpoint` where one goes on; None without."""
    train = config.train_config
    if not train.use_peft:
        return None
    if is_given(train.from_peft_checkpoint):
        return read_lora_config(Path(train.from_peft_checkpoint).expanduser())
    return config.lora_config


def adapt(model: Llama, adapter: LoraConfig | None) -> set[str]:
    """Rewrite a model on meta; return the names of the parameters that the base does not have."""
    if adapter is None:
        return set()
    before = {id(parameter) for parameter in model.parameters()}
    add_lora(model, adapter)
    return {name for name, p in model.named_parameters() if id(p) not in before}


def start_adapter(model: Llama, *, checkpoint: str, seed: int, device: torch.device) -> None:
    """Give the adapter's parameters their first values: fresh ones, or those of `checkpoint`."""
    initialise_lora(model, seed=seed, device=device)
    if is_given(checkpoint):
        load_lora_weights(model, Path(checkpoint).expanduser())
