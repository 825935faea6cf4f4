"""adapter_model.safetensors: an adapter's weights under the keys of the peft library.

These are our parameter names behind `base_model.model.`, but for prefix tuning, which is one tensor
of all layers.

Shapes: P virtual tokens, K key/value heads, d head dimension, L decoder layers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llama_recipes.adapters.llama_adapter import AdaptedAttention
from llama_recipes.adapters.lora import lora_biases, lora_layers
from llama_recipes.adapters.modules import modules_of
from llama_recipes.adapters.prefix import PrefixAttention
from llama_recipes.configs.peft import AdapterConfig, LoraConfig
from llama_recipes.errors import CheckpointError
from llama_recipes.model.llama import Llama

WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PROMPTS = "prompt_embeddings"


def adapter_tensors(model: Llama, config: AdapterConfig) -> dict[str, Tensor]:
    """Every weight of the adapter under peft's key, in float32 on the CPU."""
    tensors = {key: p.detach() for key, p in _parameters(model, config).items()}
    layers = [layer.prefix.detach() for _, layer in modules_of(model, PrefixAttention)]
    if layers:
        tensors[_PROMPTS] = torch.stack(layers, dim=1).flatten(1)  # [P, L, 2, K, d]
    return {key: tensor.float().contiguous().cpu() for key, tensor in tensors.items()}


def _parameters(model: Llama, config: AdapterConfig) -> dict[str, Tensor]:
    """The parameters that stand in the file as they are."""
    found: dict[str, Tensor] = {}
    for name, layer in lora_layers(model):
        for part in "lora_A", "lora_B":
            weight = layer.get_submodule(part).get_parameter("weight")
            found[f"{_PREFIX}{name}.{part}.weight"] = weight
    trained_biases = config.bias if isinstance(config, LoraConfig) else "none"
    for name, parameter in lora_biases(model, trained_biases):
        found[f"{_PREFIX}{name.replace('.base.', '.base_layer.')}"] = parameter
    for name, module in modules_of(model, AdaptedAttention):
        found[f"{_PREFIX}{name}.adaption_prompt"] = module.adaption_prompt
        found[f"{_PREFIX}{name}.adaption_gate"] = module.adaption_gate
    return found


@torch.no_grad()
def load_adapter_weights(model: Llama, config: AdapterConfig, folder: Path) -> None:
    """Copy an adapter's weights into a model that `adapt` has rewritten with its settings.

    Raises CheckpointError that lists every missing, extra or misshapen tensor.
    """
    stored = _read(folder)
    prefixes = [layer for _, layer in modules_of(model, PrefixAttention)]
    parameters = _parameters(model, config)
    shapes = {key: tuple(parameter.shape) for key, parameter in parameters.items()}
    if prefixes:
        tokens, *rest = prefixes[0].prefix.shape
        shapes[_PROMPTS] = (tokens, len(prefixes) * torch.Size(rest).numel())
    _check(stored, shapes, folder)
    for key, parameter in parameters.items():
        parameter.copy_(stored[key])
    if prefixes:
        for layer, values in zip(prefixes, stored[_PROMPTS].chunk(len(prefixes), 1), strict=True):
            layer.prefix.copy_(values.reshape(layer.prefix.shape))


def _read(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no {WEIGHTS_FILE}."
            " Older adapter_model.bin files are pickles and are not read: load the adapter with"
            " peft and save it again with safe_serialization=True."
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Save the adapter again.") from None


def _check(stored: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
    problems = [f"missing: {key}" for key in sorted(shapes.keys() - stored.keys())]
    problems += [f"extra: {key}" for key in sorted(stored.keys() - shapes.keys())]
    problems += [
        f"shape of {key}: {tuple(stored[key].shape)} in the file, {shapes[key]} here"
        for key in sorted(shapes.keys() & stored.keys())
        if tuple(stored[key].shape) != shapes[key]
    ]
    if problems:
        shown = problems[:20] + ([f"… and {len(problems) - 20} more"] if len(problems) > 20 else [])
        raise CheckpointError(
            f"The adapter in {folder} does not fit this model:\n  "
            + "\n  ".join(shown)
            + "\nGive the base model that the adapter was made for."
        )
