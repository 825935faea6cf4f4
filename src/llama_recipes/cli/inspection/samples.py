"""Documents as they stand in the batches of the training, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llama_recipes.data.loader import Batch, Loader
from llama_recipes.data.tokenize import IGNORE
from llama_recipes.data.tokenizer import Tokenizer

_INCOMPLETE = "\ufffd"
_LONGEST_CHARACTER = 4
"""Bytes in UTF-8."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A document of a batch of the first epoch. All numbers count from 1 but `document`, the number
    in the store.

    place: in its row, of `documents_of_row`. ids: [T]; labels: [T], the id that is learnt at that
    token's place from those before it, IGNORE for none. padding: tokens behind it.
    data_row: of the data set's part; 0: unknown.
    """

    step: int
    process: int
    micro_batch: int
    row: int
    place: int
    documents_of_row: int
    document: int
    data_row: int
    ids: list[int]
    labels: list[int]
    padding: int


@dataclass(frozen=True, slots=True)
class Piece:
    """One token, or those few that are one character together, all trained or all masked."""

    text: str
    ids: tuple[int, ...]
    is_trained: bool
    is_control: bool
    learns: tuple[int, ...]


def read_samples(loader: Loader, count: int, *, accumulation: int, processes: int) -> list[Sample]:
    """The first `count` documents of the first epoch, from the loader's own batches."""
    samples: list[Sample] = []
    plan = loader.plan(0) if count else []
    needed = documents = 0
    while documents < count and needed < len(plan):
        documents += sum(map(len, plan[needed]))
        needed += 1
    for number, batch in enumerate(loader.batches(0, 0, needed) if needed else ()):
        places = [
            (row, place, len(numbers))
            for row, numbers in enumerate(plan[number], start=1)
            for place in range(1, len(numbers) + 1)
        ]
        for (row, place, of), (document, ids, labels, padding) in zip(
            places, _documents(batch), strict=True
        ):
            samples.append(
                Sample(
                    step=number // (accumulation * processes) + 1,
                    process=number % processes + 1,
                    micro_batch=number + 1,
                    row=row,
                    place=place,
                    documents_of_row=of,
                    document=document,
                    data_row=int(loader.store.rows[document]),
                    ids=ids,
                    labels=labels,
                    padding=padding,
                )
            )
    return samples[:count]


def _documents(batch: Batch) -> Iterator[tuple[int, list[int], list[int], int]]:
    """Number, ids, labels and padding. A label stands in a batch where it is predicted: one place
    before its token."""
    labels = np.full(len(batch.tokens) + 1, IGNORE)
    labels[batch.supervised.numpy() + 1] = batch.targets.numpy()
    start = 0
    for number, span, length in zip(batch.documents, batch.spans, batch.lengths, strict=True):
        own = slice(start, start + length)
        start += span
        yield number, batch.tokens[own].tolist(), [IGNORE, *labels[own][1:].tolist()], span - length


def pieces(sample: Sample, tokenizer: Tokenizer) -> Iterator[Piece]:
    """The text of a sample as its tokens write it."""
    ids, start, before = sample.ids, 0, list[int]()
    is_trained = [label != IGNORE for label in sample.labels]
    for end in range(1, len(ids) + 1):
        # Decoded behind the token before it: some tokenizers drop a space from a text's beginning.
        known = len(tokenizer.decode(before)) if before else 0
        text = tokenizer.decode([*before, *ids[start:end]])[known:]
        unfinished = text.endswith(_INCOMPLETE) and end - start < _LONGEST_CHARACTER
        if unfinished and end < len(ids) and is_trained[end] == is_trained[start]:
            continue
        own = slice(start, end)
        labels = sample.labels[own]
        yield Piece(
            text=text,
            ids=tuple(ids[own]),
            is_trained=is_trained[start],
            is_control=any(id_ in tokenizer.special_ids for id_ in ids[own]),
            learns=tuple(
                label
                for label, id_ in zip(labels, ids[own], strict=True)
                if label not in (IGNORE, id_)
            ),
        )
        before, start = ids[own], end
