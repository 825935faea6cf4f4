"""A run's optimizer steps in order, and the parts in which each is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from llama_recipes.data.batching import Row
from llama_recipes.data.loader import Batch, Loader
from llama_recipes.model.llama import Llama

_SLICE_BYTES = 2048
"""Of a slice, for each number that is kept of a token."""


def slice_tokens(model: Llama) -> int:
    """Tokens that go through the model at a time on a CPU: 512 in fp32.

    Documents are independent, so a micro-batch computed in slices gives the same update. Larger
    slices are a few percent faster, and the memory of their activations grows in proportion. Twice
    as many where activations are computed anew and all weights train: there they are little beside
    the gradients that every slice after the first finds in memory.
    """
    tokens = _SLICE_BYTES // model.dtype.itemsize
    return 2 * tokens if model.recomputes and model.head_weight.requires_grad else tokens


@dataclass(frozen=True)
class Window:
    """The micro-batches of one optimizer step. Epochs count from 0."""

    epoch: int
    batches: list[Batch]
    ends_epoch: bool


def windows(
    loader: Loader, *, epochs: int, accumulation: int, first_epoch: int = 0, first_batch: int = 0
) -> Iterator[Window]:
    """Every `accumulation` micro-batches are a step; an epoch's last one takes what is left.

    It begins with micro-batch `first_batch` of `first_epoch`, counted over all processes.
    """
    for epoch in range(first_epoch, epochs):
        batches = loader.batches(epoch, first_batch if epoch == first_epoch else 0)
        following = list(islice(batches, accumulation))
        while following:
            present, following = following, list(islice(batches, accumulation))
            yield Window(epoch, present, ends_epoch=not following)


def count_steps(loader: Loader, *, epochs: int, accumulation: int, limit: int) -> int:
    """Optimizer steps of a run; `limit` 0 means none."""
    total = sum(math.ceil(len(loader.plan(epoch)) / accumulation) for epoch in range(epochs))
    return min(total, limit or total)


def largest_slice(loader: Loader, model: Llama, device: torch.device) -> int:
    """Tokens of the largest piece that `on_device` yields in the first epoch."""
    lengths = loader.store.lengths

    def tokens(batch: list[Row]) -> int:
        documents = lengths[[number for row in batch for number in row]]
        padded = loader.strategy == "padding"
        return int(documents.max() * len(documents) if padded else documents.sum())

    batch = max(tokens(batch) for batch in loader.plan(0) if batch)
    longest = int(lengths.max())
    return max(longest, min(batch, slice_tokens(model))) if device.type == "cpu" else batch


def on_device(batches: Iterable[Batch], model: Llama, device: torch.device) -> Iterator[Batch]:
    """Batches as `model` computes them: moved to a GPU, or in slices on a CPU."""
    for batch in batches:
        if device.type == "cpu":
            yield from batch.split(slice_tokens(model))
        else:
            yield batch.to(device)
