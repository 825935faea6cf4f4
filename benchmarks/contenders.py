"""TRL's configurations that are tried: its default, and what may be faster.

The loss is no choice of these: TRL 1.16 always computes it in chunks (`chunked_nll` is another name
for its default), on a processor for all tokens, supervised or not. Nor is torch.compile: every
batch has another shape, and when it was tried no step was made within five minutes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contender:
    """One way to set TRL up.

    grouped: micro-batches of documents of nearly the same length: the very ones that we train on,
        in our order. TRL's own sampler groups no better, but begins with the longest documents,
        which a few steps would be measured on alone. Otherwise TRL draws at random.
    checkpointing: compute activations anew in the backward pass; TRL's default.
    packing: rows of context_length tokens, TRL's `bfd`.
    bf16_weights: the model in bf16 too, not only what is computed.
    """

    name: str
    grouped: bool = False
    checkpointing: bool = True
    packing: bool = False
    bf16_weights: bool = False


DEFAULT = Contender("default")
GROUPED = Contender("grouped by length", grouped=True)
WITHOUT_CHECKPOINTING = Contender("no checkpointing", checkpointing=False)
GROUPED_WITHOUT_CHECKPOINTING = Contender(
    "grouped by length, no checkpointing", grouped=True, checkpointing=False
)
PACKING = Contender("packing", packing=True)
PACKING_WITHOUT_CHECKPOINTING = Contender(
    "packing, no checkpointing", packing=True, checkpointing=False
)
BF16_WEIGHTS = Contender(
    "grouped by length, no checkpointing, bf16 weights",
    grouped=True,
    checkpointing=False,
    bf16_weights=True,
)


def searched(*, adapter: bool, bf16: bool) -> tuple[Contender, ...]:
    """What the fastest is looked for among, the default first.

    Full fine-tuning in bf16 weights is left out: it loses small updates in rounding, which none
    of the others does.
    """
    if not adapter:
        return (DEFAULT, GROUPED, GROUPED_WITHOUT_CHECKPOINTING)
    found = (
        DEFAULT,
        GROUPED_WITHOUT_CHECKPOINTING,
        GROUPED,
        WITHOUT_CHECKPOINTING,
        PACKING,
        PACKING_WITHOUT_CHECKPOINTING,
    )
    return (*found, BF16_WEIGHTS) if bf16 else found
