"""Loss over a whole data set: a mean over tokens, not over batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from llama_recipes.data.loader import BLANK, Batch
from llama_recipes.errors import DataError
from llama_recipes.model.llama import Llama
from llama_recipes.parallel.world import CPU_ALONE, World
from llama_recipes.training.step import batch_loss


@dataclass(frozen=True)
class Evaluation:
    """loss: nats per supervised token."""

    loss: float
    supervised_tokens: int


@torch.no_grad()
def evaluate(
    model: Llama,
    batches: Iterable[Batch],
    *,
    check: Callable[[], None] = lambda: None,
    world: World = CPU_ALONE,
) -> Evaluation:
    """Evaluate without dropout; the model's training mode is as before afterwards.

    batches: this process's part of them. check: called before each, and may raise.
    Raises DataError where no token is supervised.
    """
    was_training = model.training
    model.eval()
    total, supervised = 0.0, 0
    try:
        for batch in in_step((batch for batch in batches if batch.num_supervised), world):
            check()
            total += batch_loss(model, batch).item()
            supervised += batch.num_supervised
    finally:  # who stops in the middle saves the model as it was
        world.rest(model)
        model.train(was_training)
    everywhere = world.exchange([total, supervised])
    total = sum(each[0] for each in everywhere)
    supervised = int(sum(each[1] for each in everywhere))
    if not supervised:
        raise DataError(
            "No token of the documents to evaluate is supervised, so they have no loss. Let the"
            " collator leave labels, or in a run leave the evaluation out with --no_run_validation."
        )
    return Evaluation(loss=total / supervised, supervised_tokens=supervised)


def in_step(batches: Iterator[Batch], world: World) -> Iterator[Batch]:
    """This process's batches, and blank ones as long as another process has more."""
    while True:
        batch = next(batches, None)
        if not any(more for (more,) in world.exchange([batch is not None])):
            return
        yield batch or BLANK.to(world.device)
