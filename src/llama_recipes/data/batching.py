"""Which documents stand in which micro-batch: a pure function of lengths, seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from llama_recipes.data.packing import pack

Strategy = Literal["packing", "padding"]
Item = TypeVar("Item")
Row = list[int]
"""The numbers of the documents of one row."""

_WINDOW = 4096
"""Documents looked at together: enough for near-full rows, few enough to mix the data set."""


def plan_epoch(
    lengths: NDArray[np.int64],
    *,
    strategy: Strategy,
    batch_size: int,
    context_length: int,
    seed: int,
    epoch: int,
) -> list[list[Row]]:
    """Micro-batches of at most `batch_size` rows; each document is in exactly one.

    Another epoch is another order and other company. Whatever the strategy, the first few batches
    are a fair sample of the documents.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    windows = [order[start : start + _WINDOW] for start in range(0, len(order), _WINDOW)]

    if strategy == "packing":
        rows = [
            row
            for window in windows
            for row in pack(window.tolist(), lengths[window].tolist(), context_length)
        ]
        return list(_cut(_shuffled(rows, random), batch_size))

    batches: list[list[Row]] = []
    for window in windows:
        # Neighbours in length share a batch: padding is what the longest row costs the others.
        by_length = window[np.argsort(lengths[window], kind="stable")]
        batches += _cut([[document] for document in by_length.tolist()], batch_size)
    return _shuffled(batches, random)


def share_of_rank(batches: Sequence[list[Row]], rank: int, world_size: int) -> list[list[Row]]:
    """Every `world_size`-th micro-batch. Ranks that would get one less get an empty one.

    So all ranks make the same number of steps, and no document is trained twice to fill up.
    """
    rounds = -(-len(batches) // world_size)
    return [
        batches[i] if i < len(batches) else [] for i in range(rank, rounds * world_size, world_size)
    ]


def _shuffled(items: list[Item], random: np.random.Generator) -> list[Item]:
    return [items[i] for i in random.permutation(len(items))]


def _cut(rows: list[Row], size: int) -> Iterator[list[Row]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
