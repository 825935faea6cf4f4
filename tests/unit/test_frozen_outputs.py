"""Outputs of frozen layers, kept for the next epoch: the same losses and weights, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch

from llama_recipes.model.freezing import freeze_lowest
from llama_recipes.training import frozen_outputs
from llama_recipes.training.frozen_outputs import FrozenOutputs, fits, frozen_layers, output_bytes
from llama_recipes.training.optimizers import make_optimizer
from llama_recipes.training.step import train_step
from support.documents import loader, random_documents, stored
from support.quantised import WIDE
from support.tiny import tiny_llama

pytestmark = pytest.mark.usefixtures("either_path")

LENGTHS = [90, 33, 120, 25, 64, 51, 131, 48, 77, 112]


def trained(store, model, epochs: int) -> list[float]:
    """The loss of every step."""
    optimizer = make_optimizer(model, lr=1e-3, weight_decay=0.0)
    rows = loader(store, strategy="packing", batch_size=2, context_length=160)
    losses = []
    for epoch in range(epochs):
        for batch in rows.batches(epoch):
            result = train_step(model, [batch], optimizer)
            losses.append(result.loss)
    return losses


@pytest.mark.parametrize("frozen", [0, 2, 4], ids=["embedding alone", "half", "all"])
def test_losses_and_weights_are_the_same_bit_for_bit(tmp_path, frozen):
    store = stored(tmp_path, random_documents(LENGTHS))
    plain = tiny_llama(num_hidden_layers=4, **WIDE)
    freeze_lowest(plain, frozen)
    kept = copy.deepcopy(plain)
    frozen_outputs.keep(kept, frozen_layers(kept))
    assert trained(store, kept, 3) == trained(store, plain, 3)
    for one, other in zip(kept.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_each_document_goes_through_the_frozen_layers_once(tmp_path, monkeypatch):
    store = stored(tmp_path, random_documents(LENGTHS))
    model = tiny_llama(num_hidden_layers=4)
    freeze_lowest(model, 2)
    seen: list[int] = []
    lower = type(model).lower

    def counted(self, tokens, *arguments):
        seen.append(len(tokens))
        return lower(self, tokens, *arguments)

    monkeypatch.setattr(type(model), "lower", counted)
    frozen_outputs.keep(model, 2)
    trained(store, model, 3)
    assert sum(seen) == sum(LENGTHS)


def test_what_is_frozen_is_found():
    model = tiny_llama(num_hidden_layers=3)
    assert frozen_layers(model) == 0
    freeze_lowest(model, 0)
    assert frozen_layers(model) == 0
    freeze_lowest(model, 2)
    assert frozen_layers(model) == 2
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    assert frozen_layers(model) == 0
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    assert frozen_layers(model) == 3
    assert FrozenOutputs(model, 3).layers == 2


def test_they_are_kept_where_there_is_room(tmp_path):
    store = stored(tmp_path, random_documents(LENGTHS))
    assert output_bytes(tiny_llama(), [store, store]) == 2 * sum(LENGTHS) * 32 * 4
    assert fits(1, 4)
    assert not fits(1, 3.9)
    assert not fits(1, None)
