"""Who may see whom: causal attention inside each document, none between documents.

Shapes: N tokens of all documents one after the other, H heads, K key/value heads, d head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_recipes.kernels import library, varlen
from llama_recipes.kernels.attention import document_attention

Prefix = tuple[Tensor, Tensor]
"""Keys and values [P, K, d] that every document begins with, as if P tokens stood before it."""


class AttentionFn(Protocol):
    """What the model asks for: softmax attention over the tokens that a token may see."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layer: int, prefix: Prefix | None = None
    ) -> Tensor:
        """q [N, H, d], k and v [N, K, d] of decoder layer `layer` → [N, H, d]."""


class DocumentAttention:
    """Causal attention within documents that stand one after the other in the token axis.

    lengths: tokens of each document, in order; they sum to N.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        self._longer: DocumentAttention | None = None
        self.runs = list(_equal_runs(lengths))
        self.starts = torch.tensor(list(accumulate(lengths, initial=0)))
        self.longest = max(lengths, default=0)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layer: int, prefix: Prefix | None = None
    ) -> Tensor:
        if prefix is not None:
            return self._prefixed(q, k, v, layer, prefix)
        if library.serves(q, k, v):
            return document_attention(q, k, v, self.starts)
        if varlen.serves(q):
            # Moved once, for the first layer: the next ones find it there.
            self.starts = self.starts.to(q.device, torch.int32)
            return varlen.document_attention(q, k, v, self.starts, self.longest)
        outputs, start = [], 0
        for count, length in self.runs:
            end = start + count * length
            run = (x[start:end].view(count, length, *x.shape[1:]) for x in (q, k, v))
            outputs.append(causal_attention(*run))
            start = end
        return torch.cat([x.flatten(0, 1) for x in outputs])

    def _prefixed(self, q: Tensor, k: Tensor, v: Tensor, layer: int, prefix: Prefix) -> Tensor:
        """As documents that are longer by the prefix, whose own queries nobody asks for."""
        count = len(prefix[0])

        def behind(start: Tensor, x: Tensor) -> Tensor:
            documents = torch.split(x, self.lengths)
            return torch.cat([part for own in documents for part in (start, own)])

        longer = self._longer or DocumentAttention([count + length for length in self.lengths])
        self._longer = longer  # for the next layers, whose prefixes are as long
        nothing = q.new_zeros(count, *q.shape[1:])
        y = longer(behind(nothing, q), behind(prefix[0], k), behind(prefix[1], v), layer)
        return torch.cat([part[count:] for part in torch.split(y, longer.lengths)])


def _equal_runs(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(count, length) of neighbours of equal length: padded rows then need a single call."""
    for length, run in groupby(lengths):
        yield len(list(run)), length


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, T, H, d], k and v [B, T, K, d] → [B, T, H, d]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    return y.transpose(1, 2)
