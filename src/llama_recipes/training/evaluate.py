"""Loss over a whole data set: a mean over tokens, not over batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from llama_recipes.data.loader import Batch
from llama_recipes.errors import DataError
from llama_recipes.model.llama import Llama
from llama_recipes.training.step import batch_loss


@dataclass(frozen=True)
class Evaluation:
    """loss: nats per supervised token."""

    loss: float
    supervised_tokens: int


@torch.no_grad()
def evaluate(model: Llama, batches: Iterable[Batch]) -> Evaluation:
    """Evaluate without dropout; the model's training mode is as before afterwards.

    Raises DataError where no token is supervised.
    """
    was_training = model.training
    model.eval()
    total, supervised = 0.0, 0
    for batch in batches:
        if batch.num_supervised:
            total += batch_loss(model, batch).item()
            supervised += batch.num_supervised
    model.train(was_training)
    if not supervised:
        raise DataError(
            "No token of the documents to evaluate is supervised, so they have no loss. Let the"
            " collator leave labels, or in a run leave the evaluation out with --no_run_validation."
        )
    return Evaluation(loss=total / supervised, supervised_tokens=supervised)
