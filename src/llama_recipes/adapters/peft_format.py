"""Adapters as the peft library writes and reads them.

`adapter_config.json` beside `adapter_model.safetensors`, whose keys are our parameter names behind
`base_model.model.`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from llama_recipes.adapters.lora import lora_layers
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.errors import CheckpointError
from llama_recipes.model.llama import Llama

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TAKEN = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "task_type", "use_rslora")
_PEFT_DEFAULTS = {"lora_alpha": 8, "lora_dropout": 0.0}
"""Where a file leaves out what peft and this project start from differently."""
_MUST_BE_EMPTY = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "exclude_modules",
    "kasa_config",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)
"""peft features that change the arithmetic and that this reader would otherwise ignore."""
_CHANGED_BASES = ("corda", "loftq", "lora_ga", "olora", "pissa")
"""Starts of init_lora_weights where peft trains against other weights than the base model's."""


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def lora_config_file(config: LoraConfig, base_model: str) -> bytes:
    """The content of adapter_config.json."""
    raw = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "fan_in_fan_out": False,
        **config.model_dump(mode="json"),
    }
    return (json.dumps(raw, indent=2) + "\n").encode()


def lora_tensors(model: Llama) -> dict[str, torch.Tensor]:
    """Every A and B under peft's key, in float32 on the CPU."""
    return {
        key: weight.detach().float().contiguous().cpu()
        for key, weight in _lora_parameters(model).items()
    }


def _lora_parameters(model: Llama) -> dict[str, torch.Tensor]:
    return {
        f"{_PREFIX}{name}.{part}.weight": layer.get_submodule(part).get_parameter("weight")
        for name, layer in lora_layers(model)
        for part in ("lora_A", "lora_B")
    }


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The raw adapter_config.json. Raises CheckpointError where it is missing or no object."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no {CONFIG_FILE}. Give the folder that a fine-tuning run or peft's"
            " save_pretrained wrote."
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not valid JSON: {error}. Save the adapter again."
        ) from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds no JSON object. Save the adapter again.")
    return raw


def read_lora_config(folder: Path) -> LoraConfig:
    """The settings an adapter was made with. Raises CheckpointError for what is unsupported."""
    raw = read_adapter_config(folder)
    problems = []
    if raw.get("peft_type") != "LORA":
        problems.append(
            f"{folder} is an adapter of the kind {raw.get('peft_type')!r}; LORA can be read."
        )
    used = [name for name in _MUST_BE_EMPTY if raw.get(name)]
    used += [f"bias={raw['bias']}"] if raw.get("bias", "none") != "none" else []
    start = str(raw.get("init_lora_weights"))
    used += [f"init_lora_weights={start}"] if start.lower().startswith(_CHANGED_BASES) else []
    if used:
        problems.append(
            f"The adapter in {folder} uses {', '.join(used)}, which is not supported:"
            " its results would be wrong. Merge it with peft first."
        )
    if problems:
        raise CheckpointError(*problems)
    taken = {k: raw[k] for k in _TAKEN if raw.get(k) is not None}
    try:
        return LoraConfig.model_validate(_PEFT_DEFAULTS | taken)
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, e['loc']))} is {e['input']!r}" for e in error.errors())
        raise CheckpointError(
            f"{folder / CONFIG_FILE} is not that of a LoRA adapter: {', '.join(wrong)}."
        ) from None


@torch.no_grad()
def load_lora_weights(model: Llama, folder: Path) -> None:
    """Copy an adapter's weights into a model that `add_lora` has wrapped with its settings.

    Raises CheckpointError that lists every missing, extra or misshapen tensor.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no {WEIGHTS_FILE}."
            " Older adapter_model.bin files are pickles and are not read: load the adapter with"
            " peft and save it again with safe_serialization=True."
        )
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Save the adapter again.") from None
    wanted = _lora_parameters(model)
    problems = [f"missing: {key}" for key in sorted(wanted.keys() - stored.keys())]
    problems += [f"extra: {key}" for key in sorted(stored.keys() - wanted.keys())]
    problems += [
        f"shape of {key}: {tuple(stored[key].shape)} in the file, {tuple(wanted[key].shape)} here"
        for key in sorted(wanted.keys() & stored.keys())
        if stored[key].shape != wanted[key].shape
    ]
    if problems:
        shown = problems[:20] + ([f"… and {len(problems) - 20} more"] if len(problems) > 20 else [])
        raise CheckpointError(
            f"The adapter in {folder} does not fit this model:\n  "
            + "\n  ".join(shown)
            + "\nGive the base model that the adapter was made for."
        )
    for key, parameter in wanted.items():
        parameter.copy_(stored[key])
