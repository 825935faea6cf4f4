"""The start of LoRA that makes up for quantisation is the best there is, and changes no base."""

from __future__ import annotations

import copy

import pytest
import torch

from llama_recipes.adapters.lora import LoraLinear, lora_layers
from llama_recipes.adapters.qera import (
    best_update,
    hold_start,
    start_from_residual,
)
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.llama import Llama
from support.in_memory import InMemory
from support.quantised import WIDE, encoded_layers, quantised
from support.tiny import tiny_llama

LENGTHS = (50, 1, 93, 12, 200)
DOCUMENTS = [
    torch.randint(96, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    for length in LENGTHS
]
ALL = LoraConfig(r=16, target_modules="all-linear", lora_dropout=0.5)


def started(kind: str = "nf4", lora: LoraConfig = ALL, seed: int = 0) -> Llama:
    model = quantised(kind, lora)
    hold_start(model)
    start_from_residual(model, InMemory(tiny_llama(**WIDE)), DOCUMENTS, seed=seed)
    return model


@torch.no_grad()
def hidden(model: Llama, documents: list[list[int]]) -> torch.Tensor:
    model = copy.deepcopy(model).eval()
    lengths = [len(document) for document in documents]
    positions = torch.cat([torch.arange(length) for length in lengths])
    tokens = torch.cat([torch.tensor(document) for document in documents])
    return model(tokens, positions, DocumentAttention(lengths))


def distance(model: Llama, documents: list[list[int]]) -> float:
    """Of its hidden states from those of the model that was quantised."""
    return (hidden(model, documents) - hidden(tiny_llama(**WIDE), documents)).norm().item()


def inputs(rows: int, width: int) -> torch.Tensor:
    """Of very unequal size in different directions, as a Llama's are."""
    random = torch.Generator().manual_seed(rows)
    mixed = torch.randn(width, width, generator=random) * torch.logspace(1, -2, width)[:, None]
    return torch.randn(rows, width, generator=random) @ mixed


@pytest.mark.parametrize(("outputs", "width", "rank"), [(24, 40, 4), (40, 24, 8), (16, 16, 1)])
def test_no_update_of_this_rank_is_nearer_over_the_inputs(outputs, width, rank):
    """Against the closed form in float64: the singular values that are left over."""
    x = inputs(500, width)
    lost = torch.randn(outputs, width, generator=torch.Generator().manual_seed(7))
    b, a = best_update(lost, x.T @ x / len(x), rank, seed=0)
    assert b.shape == (outputs, rank)
    assert a.shape == (rank, width)
    assert torch.allclose(a.norm(dim=1), b.norm(dim=0), rtol=1e-4)
    exact, change = x.double(), (lost - b @ a).double()
    left_over = torch.linalg.svdvals(exact @ lost.double().T)[rank:].norm()
    assert left_over <= (exact @ change.T).norm() <= 1.01 * left_over
    # It is the inputs that decide: without them the best update is another, and worse over them.
    u, s, v = torch.linalg.svd(lost.double())
    blind = lost.double() - u[:, :rank] * s[:rank] @ v[:rank]
    assert (exact @ blind.T).norm() > 1.05 * left_over


def test_an_update_of_full_rank_takes_all_of_the_loss_away():
    lost = torch.randn(8, 16, generator=torch.Generator().manual_seed(7))
    b, a = best_update(lost, torch.eye(16), 12, seed=0)
    assert a.shape == (8, 16)  # a matrix of 8 rows has no more
    assert torch.allclose(b @ a, lost, atol=1e-5)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "nf4, double", "8bit"])
def test_the_model_comes_nearer_to_the_one_that_was_quantised(kind):
    unseen = [DOCUMENTS[0][::-1], DOCUMENTS[2][::-1]]
    before, after = quantised(kind, ALL), started(kind)
    assert distance(after, DOCUMENTS) < 0.75 * distance(before, DOCUMENTS)
    assert distance(after, unseen) < 0.9 * distance(before, unseen)


def test_the_quantised_weights_stay_as_they_are():
    before, after = dict(encoded_layers(quantised("nf4", ALL))), dict(encoded_layers(started()))
    assert before.keys() == after.keys() != set()
    for name, layer in before.items():
        for part in layer.parts:
            assert torch.equal(getattr(layer, part), getattr(after[name], part))


def test_layers_that_are_not_quantised_or_not_wrapped_start_as_ever():
    """Without 4 bits there is nothing to make up for; B is zero then."""
    few = LoraConfig(r=4, target_modules=["q_proj"])
    model = started("nf4", few)
    assert [name.rpartition(".")[2] for name, _ in lora_layers(model)] == ["q_proj", "q_proj"]
    assert all(layer.lora_B.weight.abs().max() > 0 for _, layer in lora_layers(model))
    plain = copy.deepcopy(quantised("nf4", few))
    for layer in (layer for _, layer in lora_layers(plain)):
        layer.base = layer.base.dequantized()
    start_from_residual(plain, InMemory(tiny_llama(**WIDE)), DOCUMENTS, seed=0)
    assert all(layer.lora_B.weight.abs().max() == 0 for _, layer in lora_layers(plain))


def test_the_start_is_the_same_every_time_and_draws_nothing():
    state = torch.get_rng_state()
    first, second = started(seed=3), started(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.training
    for (_, one), (_, other) in zip(lora_layers(first), lora_layers(second), strict=True):
        assert torch.equal(one.lora_A.weight, other.lora_A.weight)
        assert torch.equal(one.lora_B.weight, other.lora_B.weight)


@pytest.mark.usefixtures("either_path")
def test_half_of_the_rank_is_held_and_the_other_half_starts_as_ever():
    model, fresh = started(), dict(lora_layers(quantised("nf4", ALL)))
    loss = model(torch.tensor(DOCUMENTS[0]), torch.arange(50), DocumentAttention([50])).square()
    loss.mean().backward()
    for name, layer in lora_layers(model):
        a, b, held = layer.lora_A.weight, layer.lora_B.weight, layer.held
        assert held == 8
        assert torch.equal(a[held:], fresh[name].lora_A.weight[held:])
        assert b[:, held:].abs().max() == 0 < b[:, :held].abs().max()
        assert a.grad[:held].abs().max() == b.grad[:, :held].abs().max() == 0
        assert b.grad[:, held:].abs().max() > 0


@pytest.mark.usefixtures("either_path")
def test_what_is_held_is_no_part_of_dropout_and_else_an_update_like_any_other():
    (_, layer), *_ = lora_layers(started())
    x = inputs(20, layer.base.in_features)
    plain = layer.eval()(x)
    layer.held = 0
    assert torch.allclose(layer(x), plain, rtol=1e-4, atol=1e-4)
    layer.held = 8
    assert torch.equal(layer.train()(x), plain)  # the other half adds nothing yet
    layer.held = 0
    assert not torch.allclose(layer(x), plain, rtol=1e-2, atol=1e-2)


def test_a_rank_beyond_a_layer_s_size_keeps_the_rest_of_its_fresh_start():
    wide = LoraConfig(r=160, target_modules=["v_proj"])
    fresh = dict(lora_layers(quantised("nf4", wide)))
    for name, layer in lora_layers(started("nf4", wide)):
        assert isinstance(layer, LoraLinear)
        size = min(layer.base.in_features, layer.base.out_features)
        assert size < layer.held
        assert torch.equal(layer.lora_A.weight[size:], fresh[name].lora_A.weight[size:])
        assert layer.lora_B.weight[:, size:].abs().max() == 0
        assert layer.lora_A.weight.isfinite().all()
