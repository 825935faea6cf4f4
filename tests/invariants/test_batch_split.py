"""Invariant 1: one update does not depend on how the batch is cut.

Oracle: each document of the step on its own, its loss from the full logits; all summed, and divided
once by the number of supervised tokens. In float64, within 1e-10 relative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD, Optimizer

from llama_recipes.data.loader import Batch
from llama_recipes.data.store import TokenStore
from llama_recipes.data.tokenize import IGNORE
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.llama import Llama
from llama_recipes.training.step import StepResult, batch_loss, train_step
from llama_recipes.training.windows import windows
from support.documents import loader, random_documents, stored, untrained
from support.kernels import enable
from support.tiny import tiny_llama, transformers_twin

LENGTHS = [9, 3, 20, 2, 14, 5, 31, 8]
CUTS = [(8, 1), (4, 2), (2, 4), (1, 8)]
Update = tuple[float, dict[str, Tensor]]
"""Loss, and the gradient of every weight."""
Step = Callable[[Llama, Sequence[Batch], Optimizer], StepResult | None]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    return stored(tmp_path_factory.mktemp("store"), random_documents(LENGTHS))


def oracle(store: TokenStore, numbers: Sequence[int]) -> Update:
    """One step over these documents, one after the other."""
    model = tiny_llama(dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    supervised = 0
    for number in numbers:
        ids, labels = (
            torch.from_numpy(part.astype("int64"))
            for part in (store.document(number).input_ids, store.document(number).labels)
        )
        hidden = model(ids, torch.arange(len(ids)), DocumentAttention([len(ids)]))
        total += F.cross_entropy(
            model.logits(hidden[:-1]), labels[1:], ignore_index=IGNORE, reduction="sum"
        )
        supervised += int((labels[1:] != IGNORE).sum())
    (total / supervised).backward()
    return (total / supervised).item(), {k: p.grad for k, p in model.named_parameters()}


def update(batches: Sequence[Batch], step: Step, dtype: torch.dtype) -> Update:
    """One real step: with SGD and a rate of 1 the change is the gradient."""
    model = tiny_llama(dtype=dtype)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    result = step(model, batches, SGD(model.parameters(), lr=1.0))
    assert result is not None
    return result.loss, {k: before[k] - p.detach() for k, p in model.named_parameters()}


def distance(
    ours: tuple[float, dict[str, Tensor]], exact: tuple[float, dict[str, Tensor]]
) -> float:
    """Largest relative error of the loss and of any weight's gradient."""
    errors = [abs(ours[0] - exact[0]) / exact[0]]
    for key, gradient in exact[1].items():
        error = (ours[1][key] - gradient).abs().max() / gradient.abs().max()
        errors.append(error.item())
    return max(errors)


def largest_distance(
    store: TokenStore,
    *,
    accumulation: int,
    slices: int | None,
    step: Step = train_step,
    dtype: torch.dtype = torch.float64,
    **settings,
) -> float:
    """Of all steps of one epoch, each against the oracle for the documents it holds."""
    found, seen = [], []
    for window in windows(loader(store, **settings), epochs=1, accumulation=accumulation):
        numbers = [number for batch in window.batches for number in batch.documents]
        seen += numbers
        parts = window.batches
        if slices is not None:
            parts = [part for batch in parts for part in batch.split(slices)]
        found.append(distance(update(parts, step, dtype), oracle(store, numbers)))
    assert sorted(seen) == list(range(len(store)))
    return max(found)


@pytest.mark.parametrize("strategy", ["packing", "padding"])
@pytest.mark.parametrize(("batch_size", "accumulation"), CUTS)
def test_micro_batches_rows_and_packing_make_no_difference(
    store, strategy, batch_size, accumulation
):
    error = largest_distance(
        store, strategy=strategy, batch_size=batch_size, accumulation=accumulation, slices=None
    )
    assert error <= 1e-10


@pytest.mark.parametrize("strategy", ["packing", "padding"])
@pytest.mark.parametrize("slices", [1, 20, 40, 64, 10_000])
def test_slices_of_a_micro_batch_make_no_difference(store, strategy, slices):
    error = largest_distance(store, strategy=strategy, batch_size=8, accumulation=1, slices=slices)
    assert error <= 1e-10


@pytest.mark.parametrize(("strategy", "accumulation"), [("packing", 2), ("padding", 3)])
def test_the_short_last_window_is_divided_by_its_own_tokens(store, strategy, accumulation):
    plan = loader(store, strategy=strategy, batch_size=1).plan(0)
    assert len(plan) % accumulation
    error = largest_distance(
        store, strategy=strategy, batch_size=1, accumulation=accumulation, slices=None
    )
    assert error <= 1e-10


@pytest.mark.parametrize("slices", [None, 16])
def test_a_micro_batch_without_any_label_counts_for_nothing(tmp_path, slices):
    documents = [*random_documents(LENGTHS[:3]), untrained(11), untrained(4)]
    with_it = stored(tmp_path, documents)
    settings = {"strategy": "padding", "batch_size": 1}
    batches = list(loader(with_it, **settings).batches(0))
    assert [batch.num_supervised for batch in batches].count(0) == 2
    error = largest_distance(with_it, accumulation=5, slices=slices, **settings)
    assert error <= 1e-10


def test_a_step_without_any_label_changes_nothing(tmp_path):
    model = tiny_llama()
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    batches = list(loader(stored(tmp_path, [untrained(5)])).batches(0))
    assert train_step(model, batches, SGD(model.parameters(), lr=1.0, weight_decay=0.5)) is None
    assert all(torch.equal(before[key], p) for key, p in model.named_parameters())


def test_the_oracle_is_transformers(store):
    """In float32, where transformers computes its norms whatever the model's dtype is."""
    numbers = range(len(store))
    loss, gradients = oracle(store, numbers)
    twin = transformers_twin(tiny_llama())
    total, supervised = torch.zeros(()), 0
    for number in numbers:
        document = store.document(number)
        labels = torch.from_numpy(document.labels.astype("int64"))[None]
        ids = torch.from_numpy(document.input_ids.astype("int64"))[None]
        total = total + twin(ids, labels=labels).loss * document.supervised
        supervised += document.supervised
    (total / supervised).backward()
    assert abs((total / supervised).item() - loss) / loss <= 1e-5
    for key, parameter in twin.named_parameters():
        error = (parameter.grad - gradients[key]).abs().max() / gradients[key].abs().max()
        assert error <= 1e-5, (key, error.item())


@pytest.mark.parametrize("strategy", ["packing", "padding"])
@pytest.mark.parametrize("slices", [None, 20])
@pytest.mark.parametrize(("batch_size", "accumulation"), CUTS)
def test_the_kernels_make_the_same_update(store, strategy, batch_size, accumulation, slices):
    """They compute in float32: its rounding, of weights of which the update is subtracted too."""
    enable()
    error = largest_distance(
        store,
        strategy=strategy,
        batch_size=batch_size,
        accumulation=accumulation,
        slices=slices,
        dtype=torch.float32,
    )
    assert error <= 2e-5


def mean_of_micro_batch_means(
    model: Llama, batches: Sequence[Batch], optimizer: Optimizer
) -> StepResult:
    """The planted mistake: each micro-batch weighs the same, whatever it holds."""
    losses = [batch_loss(model, batch) / batch.num_supervised for batch in batches]
    loss = torch.stack(losses).mean()
    loss.backward()
    optimizer.step()
    return StepResult(loss.item(), 0.0, 0, 0)


@pytest.mark.parametrize(("batch_size", "accumulation"), CUTS[1:])
def test_a_mean_of_means_is_caught(store, batch_size, accumulation):
    error = largest_distance(
        store,
        strategy="padding",
        batch_size=batch_size,
        accumulation=accumulation,
        slices=None,
        step=mean_of_micro_batch_means,
    )
    assert error > 1e-2
