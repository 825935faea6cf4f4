"""The user's own way from samples to a batch, held to what a batch must be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama_recipes.data.example import Collator
from llama_recipes.data.tokenize import IGNORE, Document
from llama_recipes.errors import DataError


def collated(
    documents: Sequence[Document], collator: Collator, *, vocab_size: int
) -> list[Document]:
    """A row for each document, as `collator` makes it, less its padding.

    Raises DataError where the batch is not what training needs.
    """
    samples = [
        {
            "input_ids": document.input_ids.tolist(),
            "labels": document.labels.tolist(),
            "attention_mask": [1] * len(document.input_ids),
        }
        for document in documents
    ]
    batch = collator(samples)
    missing = {"input_ids", "labels"} - set(batch)
    if missing:
        raise _wrong(f"lacks {', '.join(sorted(missing))}")
    ids, labels = (np.asarray(batch[key], dtype=np.int64) for key in ("input_ids", "labels"))
    mask = np.asarray(batch.get("attention_mask", np.ones_like(ids)), dtype=bool)
    if not ids.shape == labels.shape == mask.shape or ids.ndim != 2:
        shapes = f"{ids.shape}, {labels.shape} and {mask.shape}"
        raise _wrong(f"has the shapes {shapes} (input_ids, labels, attention_mask)")
    if len(ids) != len(documents):
        raise _wrong(f"has {len(ids)} rows for {len(documents)} samples")
    if not mask.any(axis=1).all():
        raise _wrong("has a row that is all padding")
    for name, values in ("input_ids", ids[mask]), ("labels", labels[mask & (labels != IGNORE)]):
        strange = values[(values < 0) | (values >= vocab_size)]
        if len(strange):
            raise _wrong(
                f"holds {strange[0]} in {name}, and the model's ids end at {vocab_size - 1}"
            )
    rows = zip(ids.astype(np.int32), labels.astype(np.int32), mask, strict=True)
    return [Document(row[seen], label[seen]) for row, label, seen in rows]


def _wrong(what: str) -> DataError:
    return DataError(
        f"The batch that get_data_collator's function made {what}. Return input_ids, labels and"
        " attention_mask, all of the shape [rows, tokens], a row for each sample."
    )
