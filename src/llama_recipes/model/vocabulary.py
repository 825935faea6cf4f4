"""A checkpoint seen with rows for more tokens than it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from llama_recipes.model.source import ModelSource
from llama_recipes.model.weights import EMBEDDING, HEAD, TensorSource, row_ranges


class GrownVocabulary:
    """`tensors` with `vocab_size` rows in embedding and head; every new one is the mean of the old.

    Rows far from all others would take probability from every token that is known already
    (Hewitt 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html).
    """

    def __init__(self, tensors: TensorSource, vocab_size: int) -> None:
        self._tensors = tensors
        self._means: dict[str, Tensor] = {}
        self.shapes: Mapping[str, tuple[int, ...]] = {
            key: (max(vocab_size, shape[0]), *shape[1:]) if key in (EMBEDDING, HEAD) else shape
            for key, shape in tensors.shapes.items()
        }

    def dtype(self, key: str) -> torch.dtype:
        return self._tensors.dtype(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        known, rows = self._tensors.shapes[key][0], self.shapes[key][0]
        stop = rows if stop is None else min(stop, rows)
        if stop <= known:
            return self._tensors.read(key, start, stop)
        new = self._mean(key).expand(stop - max(start, known), -1)
        if start >= known:
            return new
        return torch.cat([self._tensors.read(key, start, known), new])

    def _mean(self, key: str) -> Tensor:
        """[1, D], in the type that the rows are stored in."""
        if key not in self._means:
            shape = self._tensors.shapes[key]
            total = torch.zeros(1, shape[1], dtype=torch.float64)
            for rows in row_ranges(shape):
                stored = self._tensors.read(key, *rows)
                total += stored.double().sum(0)
            self._means[key] = (total / shape[0]).to(stored.dtype)
        return self._means[key]


def with_vocabulary(source: ModelSource, vocab_size: int) -> ModelSource:
    """The model with at least `vocab_size` tokens."""
    if vocab_size <= source.config.vocab_size:
        return source
    return replace(
        source,
        config=replace(source.config, vocab_size=vocab_size),
        tensors=GrownVocabulary(source.tensors, vocab_size),
    )
