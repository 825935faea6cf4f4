"""Invariant 6: nothing is lost or repeated.

Over an epoch each document is trained exactly once, whatever the lengths, batch size, number of
ranks and workers; epochs differ in order; evaluation covers everything.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_recipes.data.loader import Batch, Loader
from llama_recipes.data.prepare import split_off
from llama_recipes.errors import DataError
from llama_recipes.training.evaluate import evaluate
from llama_recipes.training.windows import count_steps, windows
from support.documents import loader, random_documents, store_of_lengths, stored
from support.tiny import tiny_llama

CONTEXT = 32
STRATEGIES = ("packing", "padding")


def lengths_of(number: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(2, CONTEXT, number, endpoint=True).tolist()


# Drawn by number and seed: lists that are drawn one by one are nearly all short.
ANY = {
    "lengths": st.builds(lengths_of, st.integers(1, 80), st.integers(0, 10**6)),
    "strategy": st.sampled_from(STRATEGIES),
    "batch_size": st.sampled_from([1, 1, 2, 3, 4, 9]),
}
EXAMPLES = settings(max_examples=100, deadline=None)
BOTH = pytest.mark.parametrize("strategy", STRATEGIES)


def ranks(world_size: int, lengths: list[int], **changes) -> list[Loader]:
    store = store_of_lengths(lengths)
    return [loader(store, rank=r, world_size=world_size, **changes) for r in range(world_size)]


def documents(plan: list[list[list[int]]]) -> list[int]:
    return [number for batch in plan for row in batch for number in row]


def order(loader: Loader, epoch: int = 0) -> list[int]:
    return documents(loader.plan(epoch))


def equal(a: Batch, b: Batch) -> bool:
    tensors = ("tokens", "positions", "supervised", "targets")
    return (a.spans, a.lengths, a.documents) == (b.spans, b.lengths, b.documents) and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in tensors
    )


# One epoch


@EXAMPLES
@given(**ANY, world_size=st.integers(1, 5), epoch=st.integers(0, 3))
def test_every_document_is_in_one_row_of_one_rank(lengths, strategy, batch_size, world_size, epoch):
    everybody = ranks(world_size, lengths, strategy=strategy, batch_size=batch_size)
    plans = [rank.plan(epoch) for rank in everybody]
    together = [number for plan in plans for number in documents(plan)]
    assert sorted(together) == list(range(len(lengths)))
    assert len({len(plan) for plan in plans}) == 1
    for batch in (batch for plan in plans for batch in plan):
        assert len(batch) <= batch_size
        for row in batch:
            assert row
            assert sum(lengths[number] for number in row) <= CONTEXT
            assert strategy == "packing" or len(row) == 1


@EXAMPLES
@given(**ANY, workers=st.integers(0, 3), world_size=st.integers(1, 3))
def test_the_batches_hold_what_was_planned_whoever_prepares_them(
    lengths, strategy, batch_size, workers, world_size
):
    for rank in ranks(
        world_size, lengths, strategy=strategy, batch_size=batch_size, workers=workers
    ):
        plan = rank.plan(1)
        for batch, planned in zip(rank.batches(1), plan, strict=True):
            numbers = documents([planned])
            assert list(batch.documents) == numbers
            assert list(batch.lengths) == [lengths[number] for number in numbers]
            assert batch.num_supervised == sum(lengths[n] - 1 for n in numbers)


@EXAMPLES
@given(**ANY, workers=st.integers(0, 2), start=st.integers(0, 70), epoch=st.integers(0, 2))
def test_starting_later_is_the_rest_of_the_same_epoch(
    lengths, strategy, batch_size, workers, start, epoch
):
    of = loader(
        store_of_lengths(lengths), strategy=strategy, batch_size=batch_size, workers=workers
    )
    rest, whole = list(of.batches(epoch, start=start)), list(of.batches(epoch))
    assert len(rest) == max(0, len(whole) - start)
    assert all(equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


@EXAMPLES
@given(
    **ANY, accumulation=st.integers(1, 5), epochs=st.integers(1, 3), world_size=st.integers(1, 3)
)
def test_the_steps_of_a_run_hold_every_micro_batch_in_order(
    lengths, strategy, batch_size, accumulation, epochs, world_size
):
    for rank in ranks(world_size, lengths, strategy=strategy, batch_size=batch_size):
        steps = list(windows(rank, epochs=epochs, accumulation=accumulation))
        taken = [(step.epoch, batch.documents) for step in steps for batch in step.batches]
        planned = [
            (epoch, tuple(documents([batch])))
            for epoch in range(epochs)
            for batch in rank.plan(epoch)
        ]
        assert taken == planned
        assert len(steps) == count_steps(rank, epochs=epochs, accumulation=accumulation, limit=0)
        assert [step.epoch for step in steps if step.ends_epoch] == list(range(epochs))
        assert all(
            len(step.batches) == accumulation or (step.ends_epoch and step.batches)
            for step in steps
        )


def test_the_tokens_of_an_epoch_are_the_tokens_of_the_data_set(tmp_path):
    """Read back from the batches and not from the plan."""
    made = random_documents([5, 9, 32, 2, 17, 17, 3])
    store = stored(tmp_path, made)
    for strategy in STRATEGIES:
        seen = {}
        for batch in loader(store, strategy=strategy).batches(0):
            rows = batch.tokens.split(batch.spans)
            for number, row, length in zip(batch.documents, rows, batch.lengths, strict=True):
                seen[number] = row[:length].tolist()
        assert seen == {i: document.input_ids.tolist() for i, document in enumerate(made)}


# From epoch to epoch

FIFTY = np.random.default_rng(0).integers(2, CONTEXT, 50).tolist()


@BOTH
def test_the_seed_and_the_epoch_decide_the_order_and_nothing_else_does(strategy):
    def of(seed: int = 42, workers: int = 0) -> Loader:
        return loader(store_of_lengths(FIFTY), strategy=strategy, seed=seed, workers=workers)

    orders = [tuple(order(of(), epoch)) for epoch in range(4)]
    assert len(set(orders)) == 4
    assert order(of(workers=3), 2) == list(orders[2])
    torch.manual_seed(7)
    np.random.seed(7)
    assert order(of(), 2) == list(orders[2])
    assert order(of(seed=43)) != list(orders[0])


def test_documents_keep_other_company_in_every_epoch():
    store = store_of_lengths(FIFTY)
    rows = [
        {frozenset(row) for batch in loader(store).plan(epoch) for row in batch}
        for epoch in range(2)
    ]
    assert len(rows[0] & rows[1]) < len(rows[0]) / 2


@BOTH
def test_long_documents_do_not_all_come_first_or_last(strategy):
    """Batches are sorted by length within, the order of the batches is not."""
    lengths = np.random.default_rng(0).integers(2, CONTEXT, 2000)
    plan = loader(store_of_lengths(lengths.tolist()), strategy=strategy, batch_size=4).plan(0)
    means = [lengths[documents([batch])].mean() for batch in plan]
    half = len(means) // 2
    assert abs(np.mean(means[:half]) - np.mean(means[half:])) < 2


# Evaluation


@BOTH
def test_the_first_batches_are_a_fair_sample_for_an_evaluation_that_stops_early(strategy):
    """max_eval_step looks at the first batches only: they must not be the longest or shortest."""
    lengths = np.random.default_rng(1).integers(2, CONTEXT, 2000)
    plan = loader(store_of_lengths(lengths.tolist()), strategy=strategy, batch_size=4).plan(0)
    first = lengths[documents(plan[: len(plan) // 10])]
    assert abs(first.mean() - lengths.mean()) < 2


@BOTH
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_evaluation_covers_all_and_is_a_mean_over_tokens(strategy, batch_size, tmp_path):
    store = stored(tmp_path, random_documents([5, 9, 32, 2, 17, 17, 3]))
    model = tiny_llama(dtype=torch.float64)
    exact = [
        evaluate(model, loader(store.subset(np.array([i]))).batches(0)) for i in range(len(store))
    ]
    of = loader(store, strategy=strategy, batch_size=batch_size)
    result = evaluate(model.train(), of.batches(0))
    assert model.training
    assert result.supervised_tokens == store.supervised.sum()
    total = sum(one.loss * one.supervised_tokens for one in exact)
    assert result.loss == pytest.approx(total / result.supervised_tokens, rel=1e-10)


@EXAMPLES
@given(number=st.integers(2, 200), fraction=st.floats(1e-6, 0.999), seed=st.integers(0, 9))
def test_a_share_held_out_takes_documents_from_training_and_leaves_some(number, fraction, seed):
    store = store_of_lengths([*range(2, number + 2)])
    train, validation = split_off(store, fraction, seed=seed)
    assert sorted([*train.lengths, *validation.lengths]) == store.lengths.tolist()
    assert min(len(train), len(validation)) >= 1
    assert abs(len(validation) - fraction * number) <= 1
    _, again = split_off(store, fraction, seed=seed)
    assert again.lengths.tolist() == validation.lengths.tolist()


def test_a_single_document_cannot_be_shared_out():
    with pytest.raises(DataError, match="a single document"):
        split_off(store_of_lengths([5]), 0.5, seed=0)


# Packing


@pytest.mark.parametrize("context", [512, 2048, 4096])
def test_rows_are_at_least_95_percent_full(context):
    """Lengths as instruction data has them: most around 200 tokens, a few of thousands."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(5.3, 0.9, 5000), 8, context).astype(int)
    plan = loader(store_of_lengths(lengths.tolist()), context_length=context).plan(0)
    rows = sum(len(batch) for batch in plan)
    assert lengths.sum() / (rows * context) >= 0.95
