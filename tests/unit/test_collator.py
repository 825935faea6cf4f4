"""A user's collator: what it makes of the samples is trained, less its padding, or refused."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from llama_recipes.data import collate
from llama_recipes.errors import DataError
from support.documents import document, loader, stored

collated = partial(collate.collated, vocab_size=96)
DOCUMENTS = [document([5, 6, 7, 8]), document([9, 10], [False, True])]


def padding(samples):
    """As most collators do: rows filled up with 0, and a mask that says where."""
    longest = max(len(sample["input_ids"]) for sample in samples)

    def filled(name, fill):
        return [s[name] + [fill] * (longest - len(s[name])) for s in samples]

    return {
        "input_ids": torch.tensor(filled("input_ids", 0)),
        "labels": torch.tensor(filled("labels", -100)),
        "attention_mask": torch.tensor(filled("attention_mask", 0)),
    }


def pairs(documents):
    return [(d.input_ids.tolist(), d.labels.tolist()) for d in documents]


def test_padding_is_taken_off_again():
    assert pairs(collated(DOCUMENTS, padding)) == pairs(DOCUMENTS)


def test_it_may_change_ids_and_labels():
    def quiet(samples):
        batch = padding(samples)
        batch["input_ids"][0, 1] = 50
        batch["labels"][0, 1] = -100
        return batch

    first, second = pairs(collated(DOCUMENTS, quiet))
    assert first == ([5, 50, 7, 8], [5, -100, 7, 8])
    assert second == pairs(DOCUMENTS)[1]


@pytest.mark.parametrize("kind", [lambda x: x, lambda x: x.numpy(), lambda x: x.tolist()])
def test_tensors_arrays_and_lists_will_do(kind):
    made = collated(DOCUMENTS, lambda samples: {k: kind(v) for k, v in padding(samples).items()})
    assert pairs(made) == pairs(DOCUMENTS)


def test_without_a_mask_nothing_is_padding():
    made = collated(
        DOCUMENTS[:1], lambda s: {"input_ids": [s[0]["input_ids"]], "labels": [s[0]["labels"]]}
    )
    assert pairs(made) == pairs(DOCUMENTS[:1])


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"input_ids": [[1, 2]]}, "lacks labels"),
        ({}, "lacks input_ids, labels"),
        ({"input_ids": [[1, 2]], "labels": [[1]]}, r"the shapes \(1, 2\), \(1, 1\) and \(1, 2\)"),
        ({"input_ids": [[1]], "labels": [[1]]}, "has 1 rows for 2 samples"),
        ({"input_ids": [[1], [96]], "labels": [[1], [1]]}, "holds 96 in input_ids, and .* 95"),
        ({"input_ids": [[1], [2]], "labels": [[1], [-1]]}, "holds -1 in labels"),
        (
            {"input_ids": [[1], [2]], "labels": [[1], [1]], "attention_mask": [[1], [0]]},
            "has a row that is all padding",
        ),
        ({"input_ids": [1, 2], "labels": [1, 2]}, r"all of the shape \[rows, tokens\]"),
    ],
)
def test_what_is_no_batch_is_refused(batch, said):
    with pytest.raises(DataError, match=said):
        collated(DOCUMENTS, lambda _: batch)


@pytest.mark.parametrize("strategy", ["packing", "padding"])
def test_the_loader_hands_it_the_samples_of_each_micro_batch(strategy, tmp_path):
    seen = []

    def collator(samples):
        seen.append([sample["input_ids"] for sample in samples])
        return padding(samples)

    store = stored(tmp_path, DOCUMENTS * 3)
    of = loader(store, collator=collator, strategy=strategy, batch_size=2, context_length=6)
    plain = loader(store, strategy=strategy, batch_size=2, context_length=6)
    for with_it, without in zip(of.batches(0), plain.batches(0), strict=True):
        assert torch.equal(with_it.tokens, without.tokens)
        assert np.array_equal(with_it.targets, without.targets)
    assert sum(map(len, seen)) == len(store)
