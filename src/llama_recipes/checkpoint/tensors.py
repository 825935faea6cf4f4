"""A model's weights where training left them: those that were trained out of a checkpoint, the
frozen ones out of the base model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llama_recipes.model.weights import HEAD, TensorSource


class TrainedTensors:
    """`base` with what `trained` holds in its place.

    tied: whether the embedding is the head too. frozen: what the other weights were rounded to in
    training; None: they are given as they are stored.
    """

    def __init__(
        self,
        base: TensorSource,
        trained: TensorSource,
        *,
        tied: bool,
        frozen: torch.dtype | None,
    ) -> None:
        self._base, self._trained, self._frozen = base, trained, frozen
        shapes = {**base.shapes, **trained.shapes}
        if tied:  # a copy that some writers store, of the embedding before it was trained
            shapes.pop(HEAD, None)
        self.shapes: Mapping[str, tuple[int, ...]] = shapes

    def dtype(self, key: str) -> torch.dtype:
        if key in self._trained.shapes:
            return self._trained.dtype(key)
        return self._frozen or self._base.dtype(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        if key in self._trained.shapes:
            return self._trained.read(key, start, stop)
        return self._base.read(key, start, stop).to(self.dtype(key))
