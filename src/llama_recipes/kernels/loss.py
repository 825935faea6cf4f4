"""Cross-entropy and its derivative in the memory of the logits, by native/loss.cpp."""

from __future__ import annotations

import torch
from torch import Tensor

from llama_recipes.kernels.library import call


def cross_entropy_(logits: Tensor, targets: Tensor, *, differentiate: bool) -> Tensor:
    """Losses in nats [S] of logits [S, V] and target ids [S], float32.

    The logits become softmax − one-hot with `differentiate`; else they stay as they are.
    """
    losses = torch.empty(len(logits))
    tensors = logits, targets.contiguous(), losses
    threads = torch.get_num_threads()
    call("cross_entropy", logits.dtype, *tensors, int(differentiate), *logits.shape, threads)
    return losses
