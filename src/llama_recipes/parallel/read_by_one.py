"""A checkpoint that one process reads for all, where the file system is slow."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from llama_recipes.model.weights import TensorSource


class ReadByOne:
    """`tensors`, whose contents rank 0 reads and sends. Every process asks for the same rows."""

    def __init__(self, tensors: TensorSource, rank: int) -> None:
        self._tensors, self._rank = tensors, rank
        self.shapes: Mapping[str, tuple[int, ...]] = tensors.shapes

    def dtype(self, key: str) -> torch.dtype:
        return self._tensors.dtype(key)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Tensor:
        rows, *inner = self.shapes[key]
        length = (rows if stop is None else min(stop, rows)) - start
        sent = torch.empty(length, *inner, dtype=self.dtype(key))
        if self._rank == 0:
            sent.copy_(self._tensors.read(key, start, stop))
        dist.broadcast(sent.view(torch.uint8), src=0)
        return sent
