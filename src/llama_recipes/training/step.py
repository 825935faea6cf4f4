"""One optimizer step. Everything else about a run happens in the caller.

The loss is the sum over the supervised tokens of the whole global batch, divided once by their
number, in nats per token: however the batch is cut into micro-batches, rows or slices.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llama_recipes.data.loader import BLANK, Batch
from llama_recipes.errors import NonFiniteError
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.llama import Llama
from llama_recipes.model.loss import cross_entropy_sum
from llama_recipes.parallel.shards import whole
from llama_recipes.parallel.world import CPU_ALONE, World
from llama_recipes.training.loss_scale import LossScale


@dataclass(frozen=True)
class StepResult:
    """loss: nats per supervised token; grad_norm: Euclidean, before clipping."""

    loss: float
    grad_norm: float
    tokens: int
    supervised_tokens: int


def batch_loss(model: Llama, batch: Batch) -> Tensor:
    """Summed loss of a batch in nats; the head sees supervised tokens only."""
    attention = DocumentAttention(batch.spans)
    hidden = model(batch.tokens, batch.positions, attention, batch.supervised)
    return cross_entropy_sum(hidden, model.head_weight, batch.targets)


def train_step(
    model: Llama,
    batches: Sequence[Batch],
    optimizer: Optimizer,
    *,
    clip_norm: float | None = None,
    scale: LossScale | None = None,
    check: Callable[[], None] = lambda: None,
    world: World = CPU_ALONE,
) -> StepResult | None:
    """Update the weights from all micro-batches of one step; gradients are zero before and after.

    batches: this process's part of them. check: called before each, and may raise: the weights are
    those of the step before then.

    None where no token is supervised: nothing is changed then. Where gradients leave the range of
    fp16, the step is computed again with half the scale: no document is passed over. Raises
    NonFiniteError, with the weights unchanged, where the loss or a gradient is not finite.
    """
    scale = scale or LossScale()
    trained = [batch for batch in batches if batch.num_supervised]
    supervised_here = sum(batch.num_supervised for batch in trained)
    tokens_here = sum(batch.num_tokens for batch in batches)
    everywhere = world.exchange([supervised_here, tokens_here, len(trained)])
    supervised, tokens = (int(sum(each[i] for each in everywhere)) for i in range(2))
    if not supervised:
        return None
    losses = []
    parts = int(max(each[2] for each in everywhere))
    # All processes gather the weights together, as often: who has fewer parts computes nothing.
    for number, batch in enumerate([*trained, *[BLANK.to(world.device)] * (parts - len(trained))]):
        check()
        world.gather_gradients(model, wanted=number + 1 == parts)
        part = batch_loss(model, batch) / supervised
        scale.scaled(part).backward()  # type: ignore[no-untyped-call]
        losses.append(part.detach())
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    scale.unscale(p.grad for p in parameters)
    norm = nn.utils.clip_grad_norm_(parameters, math.inf if clip_norm is None else clip_norm)
    result = StepResult(
        loss=sum(loss for (loss,) in world.exchange([torch.stack(losses).sum().item()])),
        grad_norm=whole(norm).item(),
        tokens=tokens,
        supervised_tokens=supervised,
    )
    if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
        optimizer.zero_grad()
        if math.isfinite(result.loss) and scale.halve():
            return train_step(
                model,
                batches,
                optimizer,
                clip_norm=clip_norm,
                scale=scale,
                check=check,
                world=world,
            )
        raise NonFiniteError(_explain(result), documents=_documents(batches, world))
    optimizer.step()
    scale.count()
    optimizer.zero_grad()
    return result


def _explain(result: StepResult) -> str:
    return (
        f"The loss is {result.loss} and the gradient's norm {result.grad_norm}: the step was not"
        " made and the weights are those of the step before. Lower --lr, switch on"
        " --gradient_clipping, or look at the documents of this step."
    )


def _documents(batches: Sequence[Batch], world: World) -> list[int]:
    """Those of all processes, by their numbers in the store."""
    here = json.dumps([number for batch in batches for number in batch.documents])
    return sorted(number for each in world.texts(here) for number in json.loads(each))
