"""A tiny base model and an adapter that was trained on it, as folders, and results of both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from llama_recipes.adapters.select import adapt, start_adapter
from llama_recipes.configs.peft import AdapterConfig, LoraConfig
from llama_recipes.export.convert import convert
from llama_recipes.export.encodings import Encoding
from llama_recipes.export.hf import save_adapter
from llama_recipes.export.trained import plain_model
from llama_recipes.inference.load import find
from llama_recipes.model.fingerprint import weights_fingerprint
from llama_recipes.model.source import open_model
from support.in_memory import loaded
from support.tiny_folders import save_tiny_model, save_tiny_tokenizer

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
"""Rows that Q8_0 and 4 bits can be cut into."""


def save_base(folder: Path, **changes) -> Path:
    save_tiny_model(folder, **(SHAPE | changes))
    return folder


def save_trained_adapter(folder: Path, base: Path, config: AdapterConfig = LORA) -> Path:
    """With every trained weight away from where it starts, as a run leaves it."""
    source = open_model(str(base))
    model = loaded(source.tensors, source.config)
    adapt(model, config)
    start_adapter(model, config, checkpoint="", seed=1, device=torch.device("cpu"))
    torch.manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    print_of_base = weights_fingerprint(source.tensors)
    save_adapter(model, folder, config=config, base_model=str(base), base_fingerprint=print_of_base)
    save_tiny_tokenizer(folder)
    (folder / "results.json").write_text(json.dumps({"prompt_format": "chat"}))
    return folder


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def written(name: Path, target: Path, encoding: Encoding = "F32") -> Path:
    """Without the comparison, which is what the tests are about."""
    convert(
        plain_model(find(str(name))),
        target,
        encoding,
        name=str(name),
        base=None,
        compared=False,
        say=lambda text: None,
    )
    return target
