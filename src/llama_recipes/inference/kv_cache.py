"""Keys and values of the tokens seen so far, so that every new token costs one step of the model.

Two ways to fill it, both attentions as the model asks for: the prompts at once, as documents that
stand one after the other, then one token a sequence.

Shapes: L decoder layers, B sequences, N tokens, H heads, K key/value heads, C capacity in tokens,
T tokens of the longest sequence so far, d head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_recipes.model.attention import AttentionFn, DocumentAttention, Prefix
from llama_recipes.model.config import LlamaConfig


class KvCache:
    """Room for `capacity` tokens of each of `sequences` sequences, allocated once."""

    def __init__(
        self,
        config: LlamaConfig,
        *,
        sequences: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (
            config.num_hidden_layers,
            sequences,
            config.num_key_value_heads,
            capacity,
            config.head_dim,
        )
        # Zeros, since a masked place still counts times zero, and NaN times zero is NaN.
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = [0] * sequences

    @property
    def device(self) -> torch.device:
        return self._keys.device

    def prefill(self, lengths: Sequence[int]) -> AttentionFn:
        """Attention over the prompts, of `lengths` tokens each, that fills the empty cache."""
        assert not any(self.lengths)
        self.lengths = list(lengths)
        return _Prefill(self, lengths)

    def step(self) -> AttentionFn:
        """Attention of the next token of every sequence, which adds that token to the cache."""
        self.lengths = [length + 1 for length in self.lengths]
        return _Step(self)

    def drop(self, row: int) -> None:
        """Forget a sequence; the last one takes its row."""
        last = len(self.lengths) - 1
        self._keys[:, row] = self._keys[:, last]
        self._values[:, row] = self._values[:, last]
        self.lengths[row] = self.lengths[last]
        del self.lengths[last]

    def store(self, layer: int, rows: Tensor, places: Tensor, k: Tensor, v: Tensor) -> None:
        """Put token n's k and v, both [N, K, d], at place `places[n]` of sequence `rows[n]`."""
        self._keys[layer][rows, :, places] = k
        self._values[layer][rows, :, places] = v

    def seen(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of all sequences, both [B, K, T, d], zero behind a shorter one's end."""
        rows, longest = len(self.lengths), max(self.lengths)
        return self._keys[layer, :rows, :, :longest], self._values[layer, :rows, :, :longest]


class _Prefill:
    def __init__(self, cache: KvCache, lengths: Sequence[int]) -> None:
        self.cache = cache
        self.documents = DocumentAttention(lengths)
        counts = torch.tensor(lengths, device=cache.device)
        self.rows = torch.arange(len(lengths), device=cache.device).repeat_interleave(counts)
        self.places = torch.cat([torch.arange(n, device=cache.device) for n in lengths])

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layer: int, prefix: Prefix | None = None
    ) -> Tensor:
        self.cache.store(layer, self.rows, self.places, k, v)
        return self.documents(q, k, v, layer, prefix)


class _Step:
    def __init__(self, cache: KvCache) -> None:
        self.cache = cache
        lengths = torch.tensor(cache.lengths, device=cache.device)
        self.rows = torch.arange(len(lengths), device=cache.device)
        self.places = lengths - 1
        longest = max(cache.lengths)
        self.mask: Tensor | None = None
        if min(cache.lengths) < longest:
            places = torch.arange(longest, device=cache.device)
            self.mask = (places < lengths[:, None])[:, None, None, :]

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layer: int, prefix: Prefix | None = None
    ) -> Tensor:
        self.cache.store(layer, self.rows, self.places, k, v)
        keys, values = self.cache.seen(layer)
        mask = self.mask
        if prefix is not None:
            keys, values = (
                torch.cat([start.transpose(0, 1).expand(len(own), -1, -1, -1), own], dim=2)
                for start, own in zip(prefix, (keys, values), strict=True)
            )
            mask = None if mask is None else F.pad(mask, (len(prefix[0]), 0), value=True)
        # The heads that share a key head ask as its rows: nothing has to be repeated for them.
        asked = q.reshape(q.shape[0], k.shape[1], -1, q.shape[2])
        y = F.scaled_dot_product_attention(asked, keys, values, attn_mask=mask)
        return y.flatten(1, 2)
