"""Invariant 4: LoRA is LoRA. Oracle: peft around transformers, with the same weights."""

from __future__ import annotations

import peft
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from llama_recipes.adapters.lora import initialise_lora, lora_layers
from llama_recipes.adapters.peft_config import read_adapter_config
from llama_recipes.adapters.peft_format import load_adapter_weights
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.llama import Llama
from llama_recipes.model.loss import cross_entropy_sum
from llama_recipes.training.optimizers import make_optimizer
from support.adapted import lora, saved
from support.in_memory import merged
from support.tiny import TINY, tiny_llama, transformers_twin

pytestmark = pytest.mark.usefixtures("either_path")

CPU = torch.device("cpu")
TOKENS = torch.randint(0, TINY.vocab_size, (60,), generator=torch.Generator().manual_seed(7))
SETTINGS = {
    "defaults": LoraConfig(lora_dropout=0.0),
    "rslora": LoraConfig(r=4, lora_alpha=7, lora_dropout=0.0, use_rslora=True),
    "all-linear": LoraConfig(r=3, lora_dropout=0.0, target_modules="all-linear"),
    "all-linear, rslora": LoraConfig(
        lora_dropout=0.0, target_modules="all-linear", use_rslora=True
    ),
    "one rank, one module": LoraConfig(r=1, lora_dropout=0.0, target_modules=["down_proj"]),
}
EACH = pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)


def logits_of(model: Llama) -> Tensor:
    hidden = model(TOKENS, torch.arange(len(TOKENS)), DocumentAttention([len(TOKENS)]))
    return model.logits(hidden)


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of the largest logit: sums of float32 in another order."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def peft_s_own(config: LoraConfig) -> peft.PeftModel:
    """An adapter that peft made around the same base, with random A and B."""
    theirs = peft.get_peft_model(
        transformers_twin(tiny_llama()),
        peft.LoraConfig(
            **config.model_dump(exclude={"init_lora_weights"}), init_lora_weights=False
        ),
    )
    return theirs.eval()


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_the_output_is_the_base_model_s_bit_for_bit(config, dtype):
    base, model = tiny_llama().to(dtype), lora(config, trained=False).to(dtype)
    assert torch.equal(logits_of(model), logits_of(base))


@EACH
def test_merged_is_unmerged(config, tmp_path):
    model = lora(config)
    expected = logits_of(model)
    plain = merged(tiny_llama(), saved(model, tmp_path, config))
    assert_close(logits_of(plain), expected)
    assert (expected - logits_of(tiny_llama())).abs().max() > 0.1


@EACH
def test_merged_weights_are_peft_s(config, tmp_path):
    folder = saved(lora(config), tmp_path, config)
    theirs = peft.PeftModel.from_pretrained(transformers_twin(tiny_llama()), folder)
    expected = theirs.merge_and_unload().state_dict()
    for key, weight in merged(tiny_llama(), folder).state_dict().items():
        assert (weight - expected[key]).abs().max() <= 1e-6 * expected[key].abs().max(), key


@EACH
def test_our_adapter_in_peft(config, tmp_path):
    model = lora(config)
    folder = saved(model, tmp_path, config)
    theirs = peft.PeftModel.from_pretrained(transformers_twin(tiny_llama()), folder)
    assert_close(theirs(TOKENS[None]).logits[0], logits_of(model))
    reread = load_file(folder / "adapter_model.safetensors")
    theirs.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert reread.keys() == again.keys()
    assert all(torch.equal(reread[key], again[key]) for key in again)


@EACH
def test_peft_s_adapter_in_ours(config, tmp_path):
    theirs = peft_s_own(config)
    theirs.save_pretrained(tmp_path)
    ours = lora(read_adapter_config(tmp_path))
    load_adapter_weights(ours, config, tmp_path)
    assert_close(logits_of(ours), theirs(TOKENS[None]).logits[0])


@EACH
def test_gradients_of_a_and_b_equal_peft_s(config, tmp_path):
    model = lora(config)
    theirs = peft.PeftModel.from_pretrained(
        transformers_twin(tiny_llama()), saved(model, tmp_path, config), is_trainable=True
    )
    F.cross_entropy(theirs(TOKENS[None]).logits[0][:-1], TOKENS[1:], reduction="sum").backward()
    hidden = model(TOKENS, torch.arange(len(TOKENS)), DocumentAttention([len(TOKENS)]))
    cross_entropy_sum(hidden[:-1], model.head_weight, TOKENS[1:]).backward()
    expected = {
        name.replace(".default.", "."): parameter.grad
        for name, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    found = {
        f"base_model.model.{name}": parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        error = (gradient - expected[key]).abs().max() / expected[key].abs().max()
        assert error <= 1e-5, (key, error.item())


def test_dropout_is_there_in_training_and_only_there():
    config = LoraConfig(lora_dropout=0.5)
    model = lora(config)
    exact = logits_of(lora(config.model_copy(update={"lora_dropout": 0.0})))
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(logits_of(model), exact)
    assert not torch.equal(logits_of(model), logits_of(model))
    model.eval()
    assert torch.equal(logits_of(model), exact)


def test_the_frozen_base_gets_neither_gradient_nor_optimizer_state():
    model = lora(SETTINGS["defaults"], trained=False)
    adapters = {name for name, _ in model.named_parameters() if "lora_" in name}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, lr=0.1, weight_decay=0.1)
    hidden = model(TOKENS, torch.arange(len(TOKENS)), DocumentAttention([len(TOKENS)]))
    cross_entropy_sum(hidden[:-1], model.head_weight, TOKENS[1:]).backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == adapters
    optimizer.step()
    assert len(optimizer.state) == len(adapters)
    same = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    assert same.isdisjoint({name for name in adapters if "lora_B" in name})
    assert same >= before.keys() - adapters


def test_the_start_is_decided_by_the_seed_alone():
    first, again, other = (lora(LoraConfig(), trained=False) for _ in range(3))
    torch.manual_seed(99)
    initialise_lora(again, seed=1, device=CPU)
    initialise_lora(other, seed=2, device=CPU)
    pairs = zip(lora_layers(first), lora_layers(again), lora_layers(other), strict=True)
    for (_, a), (_, b), (_, c) in pairs:
        assert torch.equal(a.lora_A.weight, b.lora_A.weight)
        assert not torch.equal(a.lora_A.weight, c.lora_A.weight)
