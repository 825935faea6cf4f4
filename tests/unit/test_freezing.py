"""freeze_layers: what is frozen stays, and no backward pass goes there."""

from __future__ import annotations

import pytest
import torch

from llama_recipes.adapters.lora import add_lora, initialise_lora
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.errors import ConfigError
from llama_recipes.model.freezing import freeze_lowest
from llama_recipes.training.optimizers import make_optimizer
from llama_recipes.training.step import train_step
from support.documents import loader, random_documents, stored
from support.tiny import tiny_llama

pytestmark = pytest.mark.usefixtures("either_path")


@pytest.fixture
def batches(tmp_path):
    store = stored(tmp_path, random_documents([9, 3, 20]))
    return list(loader(store, strategy="padding", batch_size=3).batches(0))


def frozen_names(model) -> set[str]:
    return {name for name, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_what_is_frozen_stays_and_the_rest_moves(batches, count, tied):
    model = tiny_llama(tie_word_embeddings=tied)
    freeze_lowest(model, count)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_step(model, batches, make_optimizer(model, lr=1e-2, weight_decay=0.0))
    stayed = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    lowest = tuple(f"model.layers.{layer}." for layer in range(count))
    expected = {"model.embed_tokens.weight"} | {n for n in before if n.startswith(lowest)}
    assert stayed == frozen_names(model) == expected


@pytest.mark.parametrize("with_lora", [False, True])
def test_no_backward_pass_goes_below_what_is_trained(batches, with_lora):
    model = tiny_llama(num_hidden_layers=3)
    if with_lora:
        add_lora(model, LoraConfig())
        initialise_lora(model, seed=0, device=torch.device("cpu"))
    freeze_lowest(model, 2)
    wanted = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, args, out: wanted.append(out[0].requires_grad))
    train_step(model, batches, make_optimizer(model, lr=1e-2, weight_decay=0.0))
    assert wanted == [False, False, True]


def test_the_adapter_in_frozen_layers_is_frozen_too():
    model = tiny_llama(num_hidden_layers=3)
    add_lora(model, LoraConfig())
    freeze_lowest(model, 2)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("model.layers.2.self_attn.") for name in trained)


def test_more_layers_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="--num_freeze_layers is 3, but the model has 2"):
        freeze_lowest(tiny_llama(), 3)


def test_nothing_left_to_train_is_refused():
    model = tiny_llama()
    add_lora(model, LoraConfig())
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        freeze_lowest(model, 2)
