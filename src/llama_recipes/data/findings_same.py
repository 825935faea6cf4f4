"""Findings about what is equal: documents, answers, prompts that hold them, and the two parts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llama_recipes.data.finding import NOTEWORTHY, Finding, Part, of_documents, rows_of
from llama_recipes.data.sameness import Overlap

MANY_COPIES = 0.05
NEARLY_CONSTANT = 0.9
ENOUGH_TO_COMPARE = 10
"""Documents from which it says something that nearly all answers are equal."""
HALF = 0.5
_HOLDS = "prompt_holds_answer"


def about_answers(part: Part) -> Iterator[Finding]:
    """What makes a task too easy to learn anything from; of the training part alone."""
    store, marks, documents = part.store, part.marks, len(part.store)
    copies = part.copies
    if len(copies.copies) >= max(MANY_COPIES * documents, 2):
        yield Finding(
            "many_duplicates", part.name, len(copies.copies), documents,
            "documents are there more than once, token for token.",
            "Take the copies out, unless they are meant to weigh more.",
            rows=rows_of(part, copies.copies), matches=rows_of(part, copies.originals),
        )  # fmt: skip
    asked = part.has_prompt
    _, first, count = np.unique(marks.answer[asked], return_index=True, return_counts=True)
    if asked.sum() >= ENOUGH_TO_COMPARE and count.max() >= NEARLY_CONSTANT * asked.sum():
        usual = first[count.argmax()]
        hit = asked & (marks.answer == marks.answer[asked][usual])
        yield of_documents(
            "constant_answers", part, hit,
            "documents have one and the same answer: the model learns to give it whatever it is"
            " asked.",
            "Check the field of the answers, and that classes are balanced.",
        )  # fmt: skip
    if part.wording is not None:
        long, holds = (
            np.isin(store.rows, np.asarray(rows, np.int64))
            for rows in (part.wording.long_answers, part.wording.faults.get(_HOLDS, ()))
        )
        if holds.sum() >= HALF * long.sum() and long.sum() >= NOTEWORTHY * documents:
            yield Finding(
                _HOLDS, part.name, int(holds.sum()), int(long.sum()),
                "documents with a longer answer have it in their prompt, word for word: copying is"
                f" all there is to learn ({part.wording.said.get(_HOLDS, '')!r}).",
                "Take the answers out of the prompts.", rows=rows_of(part, np.flatnonzero(holds)),
            )  # fmt: skip


def about_leaks(part: Part, overlap: Overlap, training: Part) -> Iterator[Finding]:
    kinds = (
        ("validation_in_training", overlap.same, "are in the training part too, token for token"),
        ("validation_near_training", overlap.alike,
         "are in the training part too, but for case and white space"),
        ("validation_prompts_in_training", overlap.prompt,
         "have a prompt that is trained with another answer"),
    )  # fmt: skip
    for name, hit, what in kinds:
        places = np.flatnonzero(hit)
        yield Finding(
            name, part.name, len(places), len(hit),
            f"validation documents {what}: the evaluation's loss is too good to be true.",
            "Take them out of one of the parts, or validate on other rows (of --dataset"
            " file_dataset: --file_dataset.validation_file).",
            rows=rows_of(part, places), matches=rows_of(training, overlap.match[places]),
        )  # fmt: skip
