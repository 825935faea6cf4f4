"""The floating-point operations of one call: matrix products, and attention by what it has to do.

A product of [N, in] and [in, out] is 2·N·in·out. Attention counts for each query the keys that it
may see: T(T+1)/2 pairs of a document of T tokens, however many a kernel looks at; two products
forward, and backward one for the weights' gradient and one each for those of queries, keys and
values that are asked for. That a kernel computes scores again in its backward pass counts nothing.
So PyTorch's operations and our kernels give the same count, that of `benchmarks/flops.py`.

Norms, rotation, softmax, activations, dropout and the optimizer have no products and count nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

Arguments = Mapping[str, Any]
"""Those of a call, by the names that its schema gives them."""


def flops_of(operation: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Of one call of an operation of PyTorch's."""
    schema = operation._schema
    count = _COUNTS.get(schema.name)
    if count is None:
        return 0
    names = [argument.name for argument in schema.arguments]
    return count(dict(zip(names, args, strict=False)) | dict(kwargs))


def flops_of_kernel(name: str, arguments: Sequence[Any]) -> int:
    """Of one call of a kernel of ours, see `llama_recipes.kernels.library.call`."""
    if not name.startswith("attention_"):
        return 0
    starts, _, heads, _, head_dim, *_ = arguments
    product = 2 * int(heads * head_dim) * _pairs(starts)
    return product * (2 if name == "attention_forward" else _gradients())


def _product(left: Tensor, right: Tensor) -> int:
    """[…, N, in] times […, in, out]."""
    return 2 * left.numel() * right.shape[-1]


def _sdpa(arguments: Arguments) -> int:
    return 2 * _sdpa_product(arguments)


def _sdpa_backward(arguments: Arguments) -> int:
    return _gradients() * _sdpa_product(arguments)


def _sdpa_product(arguments: Arguments) -> int:
    """query [B, H, T, d], key [B, K, S, d]."""
    (batch, heads, queries, head_dim), keys = arguments["query"].shape, arguments["key"].shape[2]
    causal = arguments.get("is_causal", False) and queries == keys
    pairs = queries * (queries + 1) // 2 if causal else queries * keys
    return 2 * int(batch * heads * head_dim * pairs)


def _varlen(arguments: Arguments) -> int:
    return 2 * _varlen_product(arguments)


def _varlen_backward(arguments: Arguments) -> int:
    return _gradients() * _varlen_product(arguments)


def _varlen_product(arguments: Arguments) -> int:
    """query [N, H, d]; the model has no other attention of unequal lengths than a causal one."""
    _, heads, head_dim = arguments["query"].shape
    return 2 * int(heads * head_dim) * _pairs(arguments["cu_seq_q"])


def _pairs(starts: Tensor) -> int:
    """starts [documents + 1]: the first token of each document, and the end of the last."""
    lengths = starts.long().diff()
    return int((lengths * (lengths + 1) // 2).sum())


def _gradients() -> int:
    """Products of an attention's backward pass, the one that runs now.

    Whether queries, keys and values ask for a gradient is in the graph: whoever does has a next
    node there. With LoRA the keys of the first layer do not.
    """
    node = torch._C._current_autograd_node()
    q, k, v = (following is not None for following, _ in node.next_functions[:3])
    return (q or k) + q + k + v


_SDPA_KINDS = (
    *("flash_attention_for_cpu", "flash_attention"),
    *("efficient_attention", "cudnn_attention"),
)

_COUNTS: dict[str, Callable[[Arguments], int]] = {
    "aten::mm": lambda a: _product(a["self"], a["mat2"]),
    "aten::bmm": lambda a: _product(a["self"], a["mat2"]),
    "aten::addmm": lambda a: _product(a["mat1"], a["mat2"]),
    "aten::addmm_": lambda a: _product(a["mat1"], a["mat2"]),
    "aten::baddbmm": lambda a: _product(a["batch1"], a["batch2"]),
    **{f"aten::_scaled_dot_product_{kind}": _sdpa for kind in _SDPA_KINDS},
    **{f"aten::_scaled_dot_product_{kind}_backward": _sdpa_backward for kind in _SDPA_KINDS},
    "torch_attn::_varlen_attn": _varlen,
    "torch_attn::_varlen_attn_backward": _varlen_backward,
}
"""By the name of an operation, whichever of its overloads is called."""
