"""Activations that are computed again in the backward pass instead of being kept.

Chen et al. 2016, https://arxiv.org/abs/1604.06174, a decoder layer at a time. The last layer keeps
its activations: its backward pass comes first, right after its forward pass, so that forgetting
them would cost a computation and save nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from llama_recipes.model.llama import Llama


def recompute_layers(model: Llama) -> None:
    """Rewrite all decoder layers but the last; what dropout drops is the same both times."""
    for layer in model.layers[:-1]:
        layer.forward = partial(_recomputed, layer.forward)  # type: ignore[method-assign]
    model.recomputes = True


def _recomputed(forward: Any, *arguments: Any) -> Any:
    return checkpoint(forward, *arguments, use_reentrant=False)
