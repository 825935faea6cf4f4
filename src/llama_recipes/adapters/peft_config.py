"""adapter_config.json: an adapter's settings as the peft library writes and reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llama_recipes.adapters.lora import LINEAR_NAMES, VOCABULARY_NAMES
from llama_recipes.configs.peft import (
    AdapterConfig,
    LlamaAdapterConfig,
    LoraConfig,
    PrefixConfig,
)
from llama_recipes.errors import CheckpointError
from llama_recipes.model.config import LlamaConfig

CONFIG_FILE = "adapter_config.json"

_KINDS: Mapping[str, type[AdapterConfig]] = {
    "LORA": LoraConfig,
    "ADAPTION_PROMPT": LlamaAdapterConfig,
    "PREFIX_TUNING": PrefixConfig,
}
"""peft_type → the settings of such an adapter."""
_PEFT_DEFAULTS = {"LORA": {"lora_alpha": 8, "lora_dropout": 0.0}}
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
    "monteclora_config",
    "prefix_projection",
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
_START = "init_lora_weights"
"""Of no more use once there are weights, and with other words in peft: neither read nor written."""


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def adapter_config_file(config: AdapterConfig, base_model: str, shape: LlamaConfig) -> bytes:
    """The content of adapter_config.json. shape: of the base model."""
    (kind,) = (name for name, made in _KINDS.items() if type(config) is made)
    raw = {
        "peft_type": kind,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        **_beside(kind, shape),
        **config.model_dump(mode="json", exclude={_START}),
        **_saved_whole(config, shape),
    }
    return (json.dumps(raw, indent=2) + "\n").encode()


def _saved_whole(config: AdapterConfig, shape: LlamaConfig) -> dict[str, Any]:
    """peft keeps an embedding and a head of their own each, also where the base ties the two."""
    if not isinstance(config, LoraConfig):
        return {}
    if not config.modules_to_save:
        return {"modules_to_save": None}
    tied = shape.tie_word_embeddings
    return {"modules_to_save": list(VOCABULARY_NAMES) if tied else config.modules_to_save}


def _beside(kind: str, shape: LlamaConfig) -> dict[str, Any]:
    """What peft wants to know beside our settings."""
    if kind == "LORA":
        return {"fan_in_fan_out": False}
    if kind == "ADAPTION_PROMPT":
        return {"target_modules": "self_attn"}
    return {
        "num_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_key_value_heads,
        "token_dim": shape.num_key_value_heads * shape.head_dim,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": shape.hidden_size,
        "prefix_projection": False,
    }


def read_raw(folder: Path) -> dict[str, Any]:
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


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The settings an adapter was made with. Raises CheckpointError for what is unsupported."""
    raw = read_raw(folder)
    kind = raw.get("peft_type")
    problems = []
    if kind not in _KINDS:
        problems.append(
            f"{folder} is an adapter of the kind {kind!r}; {', '.join(_KINDS)} can be read."
        )
    used = [name for name in _MUST_BE_EMPTY if raw.get(name)]
    whole = [str(name).rpartition(".")[2] for name in raw.get("modules_to_save") or ()]
    used += [f"modules_to_save={name}" for name in whole if name not in VOCABULARY_NAMES]
    start = str(raw.get("init_lora_weights"))
    used += [f"init_lora_weights={start}"] if start.lower().startswith(_CHANGED_BASES) else []
    if used:
        problems.append(
            f"The adapter in {folder} uses {', '.join(used)}, which is not supported:"
            " its results would be wrong. Merge it with peft first."
        )
    if problems or kind is None:
        raise CheckpointError(*problems)
    model = _KINDS[kind]
    names = model.model_fields.keys() - {_START}
    taken = {name: raw[name] for name in names if raw.get(name) is not None}
    if whole:
        taken["modules_to_save"] = whole
    try:
        config = model.model_validate(_PEFT_DEFAULTS.get(kind, {}) | taken)
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, e['loc']))} is {e['input']!r}" for e in error.errors())
        raise CheckpointError(
            f"{folder / CONFIG_FILE} is not that of an adapter of its kind, {kind}:"
            f" {', '.join(wrong)}."
        ) from None
    _refuse_other_layers(config, folder)
    return config


def _refuse_other_layers(config: AdapterConfig, folder: Path) -> None:
    """Raises CheckpointError for a target that is no linear layer of a Llama's decoder layers."""
    targets = config.target_modules if isinstance(config, LoraConfig) else "all-linear"
    if targets == "all-linear":
        return
    unknown = [name for name in targets if name.rpartition(".")[2] not in LINEAR_NAMES]
    if unknown:
        raise CheckpointError(
            f"The adapter in {folder} has updates for {', '.join(unknown)}; those of"
            f" {', '.join(LINEAR_NAMES)} can be read. Give an adapter of a Llama, or merge this one"
            " with peft."
        )
