"""Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

y = W x + scale · B A dropout(x), with W frozen, A [r, in] and B [out, r] trained, and
scale = alpha / r, or alpha / √r with rsLoRA (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).

Shapes: N tokens, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_recipes.adapters.modules import modules_of
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.configs.settings import did_you_mean
from llama_recipes.errors import ConfigError
from llama_recipes.kernels import library
from llama_recipes.kernels.layers import add_low_rank
from llama_recipes.model.llama import Linear, Llama
from llama_recipes.model.weights import EMBEDDING, HEAD, OwnRows, all_rows, set_values
from llama_recipes.quantization.linear import FourBitLinear, Int8Linear

LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a decoder layer: what "all-linear" stands for."""

VOCABULARY_NAMES = ("embed_tokens", "lm_head")
"""The modules that can be trained whole beside the update."""


class LoraLinear(nn.Module):
    """Wraps a linear layer; the wrapped one stays as `base`, which checkpoint keys do not name.

    held: rows of A and columns of B, the first ones, that are part of the base in training: without
    dropout, and without gradients.
    """

    def __init__(self, base: Linear, *, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.base: Linear | Int8Linear | FourBitLinear = base
        self.lora_A = Linear(base.in_features, rank)
        self.lora_B = Linear(rank, base.out_features)
        self.scale = scale
        self.dropout = dropout
        self.held = 0

    def forward(self, x: Tensor) -> Tensor:
        y, a, b = self.base(x), self.lora_A.weight.to(x.dtype), self.lora_B.weight.to(x.dtype)
        if held := self.held:
            y = self._add(y, x, a[:held].detach(), b[:, :held].detach(), dropout=0.0)
            a, b = a[held:], b[:, held:]
        return self._add(y, x, a, b, dropout=self.dropout if self.training else 0.0)

    def _add(self, y: Tensor, x: Tensor, a: Tensor, b: Tensor, *, dropout: float) -> Tensor:
        if library.serves(x, y):
            return add_low_rank(y, x, a, b, scale=self.scale, dropout=dropout)
        dropped = F.dropout(x, dropout)
        return y + self.scale * F.linear(F.linear(dropped, a), b)


def add_lora(model: Llama, config: LoraConfig) -> None:
    """Freeze `model` and wrap the target layers. On meta: `initialise_lora` fills A and B.

    A target is the end of a layer's name, whole parts of it, as in peft: `q_proj`, or
    `model.layers.0.self_attn.q_proj` for one layer alone. Raises ConfigError for a target that
    fits none, and for modules_to_save that cannot be trained whole.
    """
    targets = LINEAR_NAMES if config.target_modules == "all-linear" else config.target_modules
    layers = {
        name: module
        for name, module in model.model.layers.named_modules(prefix="model.layers")
        if isinstance(module, Linear)
    }
    unknown = [target for target in targets if not any(_fits(name, target) for name in layers)]
    if unknown:
        raise ConfigError(
            f"--lora_config.target_modules names {', '.join(unknown)}, which a Llama does not have."
            f"{did_you_mean(unknown[0], LINEAR_NAMES)}"
            f" Choose from {', '.join(LINEAR_NAMES)}, or all-linear."
        )
    model.requires_grad_(False)
    for name, base in layers.items():
        if any(_fits(name, target) for target in targets):
            wrapped = LoraLinear(
                base,
                rank=config.r,
                scale=lora_scale(config),
                dropout=config.lora_dropout,
            )
            _replace(model, name, wrapped)

    for _, weight in whole_weights(model, config.modules_to_save):
        weight.requires_grad_(True)
    if config.bias != "none":
        biases = dict(lora_biases(model, config.bias))
        if not biases:
            raise ConfigError(
                f"--lora_config.bias is {config.bias}, but what it asks to train is not there: the"
                " layers have no biases. Leave it out."
            )
        for bias in biases.values():
            bias.requires_grad_(True)


def lora_scale(config: LoraConfig) -> float:
    """What the update is multiplied by."""
    return config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)


def lora_biases(model: Llama, which: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Biases that are trained beside the adapter: "all", those of wrapped layers ("lora_only")."""
    for name, parameter in model.named_parameters():
        wrapped = name.endswith(".base.bias")
        if name.endswith(".bias") and (which == "all" or (which == "lora_only" and wrapped)):
            yield name, parameter


def whole_weights(model: Llama, names: Sequence[str]) -> Iterator[tuple[str, nn.Parameter]]:
    """The embedding and the head that are trained whole; both names, where they are one weight.

    Raises ConfigError for a name that is neither.
    """
    unknown = [name for name in names if name not in VOCABULARY_NAMES]
    if unknown:
        raise ConfigError(
            f"--lora_config.modules_to_save names {', '.join(unknown)}, which cannot be trained"
            f" whole beside an adapter.{did_you_mean(unknown[0], VOCABULARY_NAMES)}"
            f" Choose from {', '.join(VOCABULARY_NAMES)}."
        )
    tied = model.config.tie_word_embeddings
    if "embed_tokens" in names or (tied and names):
        yield EMBEDDING, model.model.embed_tokens.weight
    if "lm_head" in names or (tied and names):
        yield HEAD, model.head_weight


def _fits(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _replace(model: Llama, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def lora_layers(model: Llama) -> Iterator[tuple[str, LoraLinear]]:
    return modules_of(model, LoraLinear)


def initialise_lora(
    model: Llama, *, seed: int, device: torch.device, own: OwnRows = all_rows
) -> None:
    """A uniform as a fresh linear layer's, B zero: the first output is the base model's own.

    Drawn on the CPU from `seed`, so that the start is the same on every device. own: what this
    process keeps of a parameter.
    """
    generator = torch.Generator().manual_seed(seed)
    for _, layer in lora_layers(model):
        drawn = torch.empty(layer.lora_A.weight.shape)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        zeros = torch.zeros(layer.lora_B.weight.shape)
        set_values(layer.lora_A, "weight", drawn, device=device, own=own)
        set_values(layer.lora_B, "weight", zeros, device=device, own=own)
