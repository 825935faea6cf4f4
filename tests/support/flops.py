"""What a step's batches have to cost, in the closed form of benchmarks/flops.py."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.flops import Flops, Shape, Work, full_flops, lora_flops
from llama_recipes.data.loader import Batch
from llama_recipes.model.llama import Llama


def work(batches: Sequence[Batch]) -> Work:
    """Padding is computed, and counts."""
    spans = [span for batch in batches for span in batch.spans]
    supervised = sum(batch.num_supervised for batch in batches)
    return Work(sum(spans), supervised, sum(span * (span + 1) // 2 for span in spans))


def closed_form(model: Llama, batches: Sequence[Batch], *, rank: int | None) -> Flops:
    """rank: of an adapter on q_proj and v_proj; None: all weights are trained."""
    shape, given = Shape.from_hf(model.config.to_hf()), work(batches)
    return full_flops(shape, given) if rank is None else lora_flops(shape, given, rank=rank)


def computed(model: Llama, batches: Sequence[Batch], *, rank: int | None = None) -> int:
    """The closed form, less what only unsupervised tokens would need of the last layer: it has
    that, and our model leaves it out."""
    shape, given = Shape.from_hf(model.config.to_hf()), work(batches)
    above_attention = shape.layer_weights - shape.qkv_weights
    left_out = (given.tokens - given.supervised) * above_attention
    return closed_form(model, batches, rank=rank).total - (6 if rank is None else 4) * left_out
