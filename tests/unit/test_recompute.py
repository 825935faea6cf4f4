"""Recomputed activations: the same gradients, with less kept."""

from __future__ import annotations

import pytest
import torch

from llama_recipes.adapters.lora import add_lora, initialise_lora
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.parallel.recompute import recompute_layers
from llama_recipes.training.memory import _saved_bytes
from llama_recipes.training.step import batch_loss
from support.documents import loader, random_documents, stored
from support.tiny import tiny_llama

pytestmark = pytest.mark.usefixtures("either_path")


def model_of(kind: str):
    model = tiny_llama(num_hidden_layers=4)
    if kind == "lora":
        add_lora(model, LoraConfig(lora_dropout=0.5, target_modules="all-linear"))
        initialise_lora(model, seed=0, device=torch.device("cpu"))
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_gradients_are_the_same_bit_for_bit_with_dropout(tmp_path, kind):
    store = stored(tmp_path, random_documents([9, 3, 20]))
    (batch,) = loader(store, strategy="padding", batch_size=3).batches(0)
    kept, recomputed = model_of(kind), model_of(kind)
    recompute_layers(recomputed)
    losses = []
    for model in (kept, recomputed):
        torch.manual_seed(3)
        loss = batch_loss(model, batch)
        loss.backward()
        losses.append(loss)
    assert torch.equal(*losses)
    gradients = [
        {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        for model in (kept, recomputed)
    ]
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert any(gradient.any() for gradient in gradients[0].values())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_of_all_layers_but_the_last_little_is_kept(kind):
    kept, recomputed = model_of(kind), model_of(kind)
    recompute_layers(recomputed)
    assert _saved_bytes(recomputed, 64) < 0.5 * _saved_bytes(kept, 64)
    assert [hasattr(layer.forward, "func") for layer in recomputed.layers] == [True] * 3 + [False]
