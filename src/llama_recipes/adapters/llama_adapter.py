"""LLaMA-Adapter (Zhang et al. 2023, https://arxiv.org/abs/2303.16199).

In the highest layers every query also attends to a few trained prompt vectors, in a softmax of
their own, and what it finds there is added times a trained gate that starts at zero:
y = softmax(q Kᵀ) V + gate · softmax(q Pₖᵀ) Pᵥ, with Pₖ and Pᵥ the layer's own keys and values of
the prompt. Prompts have no position, so that their keys are not rotated.

Shapes: N tokens, P prompt vectors, D hidden size, H heads, K key/value heads, d head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llama_recipes.adapters.modules import modules_of
from llama_recipes.configs.peft import LlamaAdapterConfig
from llama_recipes.errors import ConfigError
from llama_recipes.model.attention import AttentionFn, Prefix
from llama_recipes.model.llama import Attention, Llama
from llama_recipes.model.weights import OwnRows, all_rows, set_values


class AdaptedAttention(nn.Module):
    """Wraps a layer's attention, which stays as `base`."""

    def __init__(self, base: Attention, *, length: int) -> None:
        super().__init__()
        self.base = base
        self.adaption_prompt = nn.Parameter(torch.empty(1, length, base.q_proj.in_features))
        self.adaption_gate = nn.Parameter(torch.empty(1))

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        attention: AttentionFn,
        layer: int,
        rows: Tensor | None = None,
    ) -> Tensor:
        prompt, gate = self.adaption_prompt[0].to(x.dtype), self.adaption_gate.to(x.dtype)
        keys, values = (
            projection(prompt).unflatten(-1, (-1, self.base.head_dim))
            for projection in (self.base.k_proj, self.base.v_proj)
        )

        def adapted(
            q: Tensor, k: Tensor, v: Tensor, layer: int, prefix: Prefix | None = None
        ) -> Tensor:
            return attention(q, k, v, layer, prefix) + gate * _prompted(q, keys, values)

        return self.base(x, rotation, adapted, layer, rows)  # type: ignore[no-any-return]


def _prompted(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """q [N, H, d] attends to all of keys and values [P, K, d] → [N, H, d]."""
    grouped = q.reshape(len(q), keys.shape[1], -1, q.shape[-1])
    scores = torch.einsum("nkgd,pkd->nkgp", grouped, keys) / q.shape[-1] ** 0.5
    weights = scores.float().softmax(-1).to(q.dtype) if q.itemsize < 4 else scores.softmax(-1)
    return torch.einsum("nkgp,pkd->nkgd", weights, values).flatten(1, 2)


def add_llama_adapter(model: Llama, config: LlamaAdapterConfig) -> None:
    """Freeze `model` and wrap the highest layers' attention; `start_llama_adapter` fills it.

    Raises ConfigError for more layers than there are, and for a model whose attention has biases:
    adding what the prompts give behind them would move the model before anything is learnt.
    """
    if config.adapter_layers > len(model.layers):
        raise ConfigError(
            f"--llama_adapter_config.adapter_layers is {config.adapter_layers}, but the model has"
            f" {len(model.layers)} decoder layers. Give at most {len(model.layers)}."
        )
    if model.config.attention_bias:
        raise ConfigError(
            "--peft_method llama_adapter does not fit a model whose attention has biases."
            " Use --peft_method lora."
        )
    model.requires_grad_(False)
    for layer in model.layers[-config.adapter_layers :]:
        wrapped = AdaptedAttention(layer.self_attn, length=config.adapter_len)
        layer.self_attn = wrapped  # type: ignore[assignment]


def start_llama_adapter(
    model: Llama, *, seed: int, device: torch.device, own: OwnRows = all_rows
) -> None:
    """Prompts from a standard normal distribution, gates zero: the first output is the base's own.

    Drawn on the CPU from `seed`, so that the start is the same on every device. own: what this
    process keeps of a parameter.
    """
    generator = torch.Generator().manual_seed(seed)
    for _, module in modules_of(model, AdaptedAttention):
        drawn = torch.empty(module.adaption_prompt.shape).normal_(generator=generator)
        set_values(module, "adaption_prompt", drawn, device=device, own=own)
        set_values(module, "adaption_gate", torch.zeros(1), device=device, own=own)
