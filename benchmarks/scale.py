"""How much is measured: the sizes of the real run, and of the trial that shows that it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Counts of documents, optimizer steps or rounds; lengths in tokens.

    rounds: times that every contender is measured, in turns.
    warmup, steps: optimizer steps of a run that are left out, and those after them that count.
    documents: what micro-batches are drawn from: enough that neighbours in length fit each other.
    micro_batch, accumulation: documents in a micro-batch, micro-batches in an optimizer step.
    longest_text: characters of question and answer above which a row is left out; 0: none is.
    taught, judged: documents that are trained on, and evaluated on, to compare what was learnt.
    contexts: row lengths that are compared; every step has `step_tokens` of them.
    sizes: data sets, in documents, whose training is compared.
    prepared: data sets, in documents, whose preparation is compared.
    searched: at most that many of TRL's configurations.
    memory_contexts: row lengths whose peak memory is compared; a step has one row.
    """

    rounds: int = 5
    warmup: int = 1
    steps: int = 2
    documents: int = 2_000
    micro_batch: int = 4
    accumulation: int = 2
    longest_text: int = 0
    taught: int = 160
    judged: int = 64
    contexts: tuple[int, ...] = (512, 1_024, 2_048, 4_096)
    step_tokens: int = 4_096
    sizes: tuple[int, ...] = (1_000, 3_000, 10_000)
    prepared: tuple[int, ...] = (250_000, 500_000, 1_000_000)
    searched: int = 100
    memory_contexts: tuple[int, ...] = (1_024, 4_096)


FULL = Scale()
QUICK = Scale(
    rounds=1,
    steps=1,
    documents=64,
    micro_batch=1,
    longest_text=250,
    taught=4,
    judged=4,
    contexts=(512, 1_024),
    step_tokens=1_024,
    sizes=(100, 300),
    prepared=(5_000, 10_000),
    searched=2,
    memory_contexts=(256,),
)
"""A few minutes; its figures mean nothing."""
