"""Tiny random Llamas, and the same weights inside transformers, the oracle."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.llama import Llama

TINY = LlamaConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=256,
)


def tiny_config(**changes) -> LlamaConfig:
    return replace(TINY, **changes)


def tiny_llama(seed: int = 0, dtype: torch.dtype = torch.float32, **changes) -> Llama:
    """Weights wide enough (deviation 0.2) that every part of the model shows in the logits."""
    torch.manual_seed(seed)
    model = Llama(tiny_config(**changes))
    for name, parameter in model.named_parameters():
        centre = 1.0 if "norm" in name else 0.0
        nn.init.normal_(parameter, mean=centre, std=0.2)
    return model.to(dtype)


def transformers_twin(model: Llama):
    """transformers' LlamaForCausalLM with this model's configuration and weights, in float32."""
    from transformers import AutoConfig, LlamaForCausalLM

    raw = model.config.to_hf()
    twin = LlamaForCausalLM(AutoConfig.for_model(**raw))
    missing, unexpected = twin.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    twin.tie_weights()
    return twin.to(next(model.parameters()).dtype).eval()
