"""Invariant 2: no document sees another, and padding is seen by none; packed and padded alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from llama_recipes.data.loader import Batch, make_batch
from llama_recipes.data.tokenize import Document
from llama_recipes.model.attention import AttentionFn, DocumentAttention
from llama_recipes.model.llama import Llama
from llama_recipes.model.loss import cross_entropy_sum
from support.documents import PAD, document, random_documents
from support.tiny import TINY, tiny_llama

pytestmark = pytest.mark.usefixtures("either_path")

LENGTHS = [7, 1, 12, 12, 1, 1, 5]
"""One-token documents among others; neighbours of equal length, which attention takes together."""

DOCUMENTS = random_documents(LENGTHS)
PADDED = pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
Attention = Callable[[Sequence[int]], AttentionFn]


def laid_out(documents: Sequence[Document], *, padded: bool, pad_id: int = PAD) -> Batch:
    return make_batch(documents, numbers=range(len(documents)), pad_id=pad_id, padded=padded)


def everything_sees_everything_before(spans: Sequence[int]) -> AttentionFn:
    """The planted mistake: all documents of a batch attended to as one."""
    return DocumentAttention([sum(spans)])


def hidden_of(model: Llama, batch: Batch, attention: Attention) -> Tensor:
    return model(batch.tokens, batch.positions, attention(batch.spans))


def parts(values: Tensor, batch: Batch) -> list[Tensor]:
    """What belongs to each document, its padding left out."""
    rows = values.split(batch.spans)
    return [row[:length] for row, length in zip(rows, batch.lengths, strict=True)]


def changed(documents: Sequence[Document], index: int) -> list[Document]:
    """The same documents with every id of one of them another."""
    other = (documents[index].input_ids + 17) % (TINY.vocab_size - 1) + 1
    return [*documents[:index], document(other.tolist()), *documents[index + 1 :]]


def outputs_reached(index: int, *, padded: bool, attention: Attention) -> set[int]:
    """The documents whose outputs are not bit-equal once document `index` is another."""
    model = tiny_llama()
    before, after = (
        parts(hidden_of(model, batch, attention), batch)
        for batch in (
            laid_out(DOCUMENTS, padded=padded),
            laid_out(changed(DOCUMENTS, index), padded=padded),
        )
    )
    pairs = zip(before, after, strict=True)
    return {number for number, (a, b) in enumerate(pairs) if not torch.equal(a, b)}


def gradients_reached(index: int, *, padded: bool, attention: Attention) -> set[int]:
    """The documents whose input embeddings get a gradient from the loss of document `index`."""
    model = tiny_llama()
    embedded: list[Tensor] = []
    model.model.embed_tokens.register_forward_hook(lambda _, __, output: embedded.append(output))
    batch = laid_out(DOCUMENTS, padded=padded)
    hidden = parts(hidden_of(model, batch, attention), batch)[index]
    targets = torch.from_numpy(DOCUMENTS[index].input_ids).long()
    loss = cross_entropy_sum(hidden, model.head_weight, targets)
    (gradient,) = torch.autograd.grad(loss, embedded)
    return {n for n, part in enumerate(parts(gradient, batch)) if part.count_nonzero()}


@PADDED
@pytest.mark.parametrize("index", range(len(LENGTHS)))
def test_a_changed_document_changes_its_own_outputs_only(index, padded):
    assert outputs_reached(index, padded=padded, attention=DocumentAttention) == {index}


@PADDED
@pytest.mark.parametrize("index", range(len(LENGTHS)))
def test_a_loss_reaches_its_own_document_only(index, padded):
    assert gradients_reached(index, padded=padded, attention=DocumentAttention) == {index}


@PADDED
def test_attention_over_all_documents_is_caught(padded):
    leak = everything_sees_everything_before
    last = len(LENGTHS) - 1
    assert outputs_reached(0, padded=padded, attention=leak) == set(range(len(LENGTHS)))
    assert gradients_reached(last, padded=padded, attention=leak) == set(range(len(LENGTHS)))


@PADDED
def test_a_document_among_others_is_the_document_alone(padded):
    """Only rounding may differ from a batch of one."""
    model = tiny_llama()
    batch = laid_out(DOCUMENTS, padded=padded)
    together = parts(hidden_of(model, batch, DocumentAttention), batch)
    for part, alone in zip(together, DOCUMENTS, strict=True):
        single = laid_out([alone], padded=padded)
        torch.testing.assert_close(
            part, hidden_of(model, single, DocumentAttention), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("slices", [1, 12, 25, 1000])
@PADDED
def test_slices_hold_whole_documents(padded, slices):
    batch = laid_out(DOCUMENTS, padded=padded)
    cut = list(batch.split(slices))
    assert [n for part in cut for n in part.documents] == list(batch.documents)
    assert all(sum(p.spans) <= slices or len(p.spans) == 1 for p in cut)
    for name in ("tokens", "positions", "targets"):
        whole = torch.cat([getattr(part, name) for part in cut])
        assert torch.equal(whole, getattr(batch, name))


def test_padding_has_no_influence():
    model = tiny_llama()
    embedding = model.model.embed_tokens.weight
    results = []
    for pad_id in (0, 50):
        batch = laid_out(DOCUMENTS, padded=True, pad_id=pad_id)
        assert (batch.tokens == pad_id).sum() >= sum(batch.spans) - batch.num_tokens > 0
        hidden = hidden_of(model, batch, DocumentAttention)
        loss = cross_entropy_sum(hidden[batch.supervised], model.head_weight, batch.targets)
        (gradient,) = torch.autograd.grad(loss, embedding)
        results.append((torch.cat(parts(hidden, batch)), loss, gradient))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_padding_is_never_a_target_and_never_counted():
    batch = laid_out(DOCUMENTS, padded=True)
    packed = laid_out(DOCUMENTS, padded=False)
    assert batch.num_tokens == packed.num_tokens == sum(LENGTHS)
    assert torch.equal(batch.targets, packed.targets)
    assert batch.num_supervised == sum(document.supervised for document in DOCUMENTS)


@PADDED
def test_positions_restart_at_every_document(padded):
    """Only their differences turn queries and keys, but far from 0 these are less exact."""
    batch = laid_out(DOCUMENTS, padded=padded)
    assert batch.positions.tolist() == [at for span in batch.spans for at in range(span)]


def test_the_last_token_of_a_document_predicts_nothing():
    """Its target would be the first token of the next one."""
    for padded in (False, True):
        batch = laid_out([document([5, 6, 7]), document([8]), document([9, 10])], padded=padded)
        assert batch.targets.tolist() == [6, 7, 10]
