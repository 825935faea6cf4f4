"""What frozen layers gave for a document, kept for the next epoch.

A document sees no other, so that its output there is the same in every row and every epoch. A step
then costs what its trained layers cost: with half of the layers frozen, a quarter less.

Shapes: N tokens of all documents one after the other, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llama_recipes.data.store import TokenStore
from llama_recipes.model.attention import AttentionFn, DocumentAttention
from llama_recipes.model.llama import Llama

_SHARE = 0.25
"""Of the memory that is left, what outputs may take."""


def frozen_layers(model: Llama) -> int:
    """Lowest decoder layers below which nothing is trained; 0 where the embedding is."""
    bottom = [model.model.embed_tokens, *model.layers]
    trained = [any(p.requires_grad for p in part.parameters()) for part in bottom]
    return max(0, trained.index(True) - 1 if any(trained) else len(model.layers))


def output_bytes(model: Llama, stores: Sequence[TokenStore]) -> int:
    """Of all documents' outputs together."""
    tokens = sum(int(store.lengths.sum()) for store in stores)
    return tokens * model.config.hidden_size * model.dtype.itemsize


def fits(needed: float, available: float | None) -> bool:
    """Whether `needed` is little enough of the memory `available`, where that is known."""
    return available is not None and needed <= _SHARE * available


class FrozenOutputs:
    """The forward pass of a model whose `layers` lowest layers are looked up where they can be."""

    def __init__(self, model: Llama, layers: int) -> None:
        # The highest layer is always computed: it is told which of its rows are wanted.
        self.model, self.layers = model, min(layers, len(model.layers) - 1)
        self._known: dict[bytes, Tensor] = {}

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        attention: AttentionFn,
        rows: Tensor | None = None,
    ) -> Tensor:
        if not isinstance(attention, DocumentAttention):  # an answer, of which nothing is kept
            return Llama.forward(self.model, tokens, positions, attention, rows)
        x = self._lower(tokens, attention.lengths)
        return self.model.upper(x, positions, attention, rows, start=self.layers)

    def _lower(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        documents = torch.split(tokens, list(lengths))
        keys = [document.cpu().numpy().tobytes() for document in documents]
        new = {
            key: document
            for key, document in zip(keys, documents, strict=True)
            if key not in self._known
        }
        if new:
            self._known |= dict(zip(new, self._computed(list(new.values())), strict=True))
        return torch.cat([self._known[key] for key in keys]).to(tokens.device)

    @torch.no_grad()
    def _computed(self, documents: Sequence[Tensor]) -> list[Tensor]:
        lengths = [len(document) for document in documents]
        positions = torch.cat([torch.arange(length) for length in lengths])
        tokens = torch.cat(list(documents))
        stream = self.model.lower(
            tokens, positions.to(tokens.device), DocumentAttention(lengths), self.layers
        )
        # A copy each: parts of one stream would keep all of it.
        return [part.cpu().clone() for part in torch.split(stream, lengths)]


def keep(model: Llama, layers: int) -> None:
    """Rewrite the forward pass of a model that has no adapter."""
    model.forward = FrozenOutputs(model, layers)  # type: ignore[method-assign]
