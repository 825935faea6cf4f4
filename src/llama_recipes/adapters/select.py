"""Which adapter a run trains, and its start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llama_recipes.adapters.llama_adapter import add_llama_adapter, start_llama_adapter
from llama_recipes.adapters.lora import add_lora, initialise_lora
from llama_recipes.adapters.peft_config import read_adapter_config
from llama_recipes.adapters.peft_format import load_adapter_weights, read_header
from llama_recipes.adapters.prefix import add_prefix, start_prefix
from llama_recipes.configs.peft import AdapterConfig, LlamaAdapterConfig, LoraConfig, PrefixConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.section import is_given
from llama_recipes.model.llama import Llama
from llama_recipes.model.weights import OwnRows, all_rows

_METHODS: Mapping[str, type[AdapterConfig]] = {
    "lora": LoraConfig,
    "llama_adapter": LlamaAdapterConfig,
    "prefix": PrefixConfig,
}
"""peft_method → its settings, which stand in the section of its name and `_config`."""


def adapter_section(adapter: AdapterConfig) -> str:
    """The section that the settings of such an adapter stand in."""
    (method,) = (name for name, made in _METHODS.items() if type(adapter) is made)
    return f"{method}_config"


def adapter_config(config: RunConfig) -> AdapterConfig | None:
    """The adapter's settings, those of `from_peft_checkpoint` where one goes on; None without."""
    train = config.train_config
    if not train.use_peft:
        return None
    if is_given(train.from_peft_checkpoint):
        return checkpoint_config(Path(train.from_peft_checkpoint).expanduser())
    chosen = config.section(f"{train.peft_method}_config")
    assert isinstance(chosen, AdapterConfig)
    return chosen


def recorded_adapter(settings: Mapping[str, Any]) -> AdapterConfig | None:
    """That of a run by its settings, named as `lora_config.r`, as a checkpoint keeps them.

    Those that the checkpoint is older than have their defaults.
    """
    if not settings["train_config.use_peft"]:
        return None
    method = settings["train_config.peft_method"]
    prefix = f"{method}_config."
    known = {key.removeprefix(prefix): settings[key] for key in settings if key.startswith(prefix)}
    chosen: AdapterConfig = _METHODS[method].model_validate(known)
    return chosen


def checkpoint_config(folder: Path) -> AdapterConfig:
    """The settings of a saved adapter.

    peft saves an embedding that it made larger without saying so among the settings: it shows in
    the weights alone.
    """
    config = read_adapter_config(folder)
    if isinstance(config, LoraConfig):
        held = {*config.modules_to_save, *read_header(folder).modules_to_save}
        config = config.model_copy(update={"modules_to_save": sorted(held)})
    return config


def adapt(model: Llama, adapter: AdapterConfig | None) -> set[str]:
    """Rewrite a model on meta; return the names of the parameters that the base does not have."""
    before = {id(parameter) for parameter in model.parameters()}
    if isinstance(adapter, LoraConfig):
        add_lora(model, adapter)
    elif isinstance(adapter, LlamaAdapterConfig):
        add_llama_adapter(model, adapter)
    elif adapter is not None:
        add_prefix(model, adapter)
    return {name for name, p in model.named_parameters() if id(p) not in before}


def start_adapter(
    model: Llama,
    adapter: AdapterConfig,
    *,
    checkpoint: str,
    seed: int,
    device: torch.device,
    own: OwnRows = all_rows,
) -> None:
    """Give the adapter's parameters their first values: fresh ones, or those of `checkpoint`.

    own: what this process keeps of a parameter.
    """
    if isinstance(adapter, LoraConfig):
        initialise_lora(model, seed=seed, device=device, own=own)
    elif isinstance(adapter, LlamaAdapterConfig):
        start_llama_adapter(model, seed=seed, device=device, own=own)
    else:
        start_prefix(model, seed=seed, device=device, own=own)
    if is_given(checkpoint):
        load_adapter_weights(model, adapter, Path(checkpoint).expanduser(), own=own)
