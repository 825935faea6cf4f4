"""What the first step will need beside the loaded weights, measured on a small piece of it."""

from __future__ import annotations

import torch
from torch import Tensor

from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.llama import Llama
from llama_recipes.model.loss import CHUNK_LOGITS

_ADAM_BYTES = 12
"""Of a trained weight beyond itself: its gradient and two moments in float32."""

_LOGITS_BYTES = 8
"""Of a logit in float32, and of what PyTorch makes beside it for the softmax."""

_PROBE_TOKENS = (32, 64)

_TRANSIENT = 1.7
"""Peak over saved: gradients and temporaries of the backward pass, and what the allocator keeps.
With it the estimate is 1.07 to 1.25 of the peak that was measured on the 135M model with PyTorch's
own operations: LoRA with slices of 1,024 and 4,096 tokens, full fine-tuning with 4,096."""


def step_bytes(model: Llama, tokens: int) -> int:
    """Memory in bytes that a step takes whose largest slice has `tokens` tokens.

    Runs the model on a few tokens and counts what it saves for the backward pass: the part that
    grows with the tokens is scaled up. The state of the random generators is left as it was.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = sum(p.numel() for p in trained) * _ADAM_BYTES
    few, more = (_saved_bytes(model, count) for count in _PROBE_TOKENS)
    per_token = (more - few) / (_PROBE_TOKENS[1] - _PROBE_TOKENS[0])
    fixed = few - per_token * _PROBE_TOKENS[0]
    logits = _LOGITS_BYTES * min(CHUNK_LOGITS, tokens * model.config.vocab_size)
    return round(optimizer + fixed + _TRANSIENT * per_token * tokens + logits)


def _saved_bytes(model: Llama, tokens: int) -> int:
    """Bytes of all tensors that a forward pass over `tokens` tokens keeps, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Held on to, so that no address is used twice while the count lasts.
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    device = model.head_weight.device
    ids = torch.zeros(tokens, dtype=torch.int64, device=device)
    positions = torch.arange(tokens, device=device)
    cuda = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=cuda),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        model(ids, positions, DocumentAttention([tokens]))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
