"""How the documents fill rows, micro-batches and optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from llama_recipes.data.loader import Loader
from llama_recipes.data.spread import Spread, spread
from llama_recipes.data.store import TokenStore


@dataclass(frozen=True)
class Filling:
    """One epoch of a loader, all processes together.

    slots: tokens that its rows have room for: context_length a row where documents are packed, the
    longest document's length where they are padded. padding: slots that are computed and hold no
    token; packed rows have none, as what is left of a row is not computed.
    steps: each takes `micro_batches_of_a_step`, those of all processes, the last one what is left.
    tokens_of_steps, supervised_of_steps: spreads over the steps. idle_steps: those without a
    trained token.
    """

    rows: int
    micro_batches: int
    micro_batches_of_a_step: int
    tokens: int
    slots: int
    padding: int
    steps: int
    tokens_of_steps: Spread
    supervised_of_steps: Spread
    idle_steps: int

    @property
    def efficiency(self) -> float:
        """Share of the slots that hold a token."""
        return self.tokens / self.slots


def fill(loader: Loader, trained: TokenStore, *, micro_batches_of_a_step: int) -> Filling:
    """The first epoch. trained: the documents as the loader's batches hold them."""
    plan = loader.plan(0)
    order = np.fromiter(chain.from_iterable(chain.from_iterable(plan)), np.int64)
    rows_of_batches = np.array([len(batch) for batch in plan])
    sizes = np.array([sum(map(len, batch)) for batch in plan])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    lengths = trained.lengths[order]
    tokens = np.add.reduceat(lengths, starts)
    supervised = np.add.reduceat(trained.supervised[order], starts)
    padding = 0
    slots = int(rows_of_batches.sum()) * loader.context_length
    if loader.strategy == "padding":
        slots = int((np.maximum.reduceat(lengths, starts) * sizes).sum())
        padding = slots - int(tokens.sum())
    of_steps = _together(tokens, micro_batches_of_a_step)
    supervised_of_steps = _together(supervised, micro_batches_of_a_step)
    return Filling(
        rows=int(rows_of_batches.sum()),
        micro_batches=len(plan),
        micro_batches_of_a_step=micro_batches_of_a_step,
        tokens=int(tokens.sum()),
        slots=slots,
        padding=padding,
        steps=len(of_steps),
        tokens_of_steps=spread(of_steps),
        supervised_of_steps=spread(supervised_of_steps),
        idle_steps=int((supervised_of_steps == 0).sum()),
    )


def _together(values: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Sums over `size` neighbours, the last over those that are left."""
    return np.add.reduceat(values, np.arange(0, len(values), size))
