"""Prefix tuning (Li & Liang 2021, https://arxiv.org/abs/2101.00190).

In every layer each document begins with a few trained keys and values, as if tokens stood before
it. They take no part in rotation: the document's first token has the position after them.

Shapes: P virtual tokens, K key/value heads, d head dimension, L decoder layers.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from llama_recipes.adapters.modules import modules_of
from llama_recipes.configs.peft import PrefixConfig
from llama_recipes.model.attention import AttentionFn
from llama_recipes.model.config import RopeConfig
from llama_recipes.model.llama import Attention, Llama
from llama_recipes.model.rope import rotate, rotation_table
from llama_recipes.model.weights import OwnRows, all_rows, set_values

_DEVIATION = 0.02
"""Of the first values. Our choice: peft draws them with 1; which learns better is not measured."""


class PrefixAttention(nn.Module):
    """Wraps a layer's attention, which stays as `base`; prefix [P, 2, K, d]: keys and values."""

    def __init__(self, base: Attention, *, tokens: int, kv_heads: int, rope: RopeConfig) -> None:
        super().__init__()
        self.base, self.rope = base, rope
        self.prefix = nn.Parameter(torch.empty(tokens, 2, kv_heads, base.head_dim))

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        attention: AttentionFn,
        layer: int,
        rows: Tensor | None = None,
    ) -> Tensor:
        keys, values = self.prefix.to(x.dtype).unbind(1)
        # Queries begin at position 0 here. That the prefix is P positions before them is said by
        # turning its keys back by P: only the difference of two angles counts.
        back = torch.full((len(keys),), -len(keys), device=x.device)
        turned = rotate(keys, rotation_table(self.rope, keys.shape[-1], back, x.dtype))
        prefixed = partial(attention, prefix=(turned, values))
        return self.base(x, rotation, prefixed, layer, rows)  # type: ignore[no-any-return]


def add_prefix(model: Llama, config: PrefixConfig) -> None:
    """Freeze `model` and wrap every layer's attention; `start_prefix` fills it."""
    model.requires_grad_(False)
    for layer in model.layers:
        wrapped = PrefixAttention(
            layer.self_attn,
            tokens=config.num_virtual_tokens,
            kv_heads=model.config.num_key_value_heads,
            rope=model.config.rope,
        )
        layer.self_attn = wrapped  # type: ignore[assignment]


def start_prefix(model: Llama, *, seed: int, device: torch.device, own: OwnRows = all_rows) -> None:
    """Small random numbers, drawn on the CPU from `seed`: the same start on every device.

    own: what this process keeps of a parameter.
    """
    generator = torch.Generator().manual_seed(seed)
    for _, module in modules_of(model, PrefixAttention):
        drawn = torch.empty(module.prefix.shape).normal_(std=_DEVIATION, generator=generator)
        set_values(module, "prefix", drawn, device=device, own=own)
