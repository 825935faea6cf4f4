"""Invariant 4: LoRA is LoRA. Oracle: peft around transformers, with the same weights."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import peft
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_recipes.adapters.lora import (
    add_lora,
    fuse_lora,
    initialise_lora,
    lora_layers,
)
from llama_recipes.adapters.peft_format import (
    _MUST_BE_EMPTY,
    _TAKEN,
    load_lora_weights,
    read_lora_config,
)
from llama_recipes.adapters.select import adapter_config
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.training import TrainConfig
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.export.hf import save_adapter
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.llama import Llama
from llama_recipes.model.loss import cross_entropy_sum
from llama_recipes.training.optimizers import make_optimizer
from support.tiny import TINY, tiny_llama, transformers_twin

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


def lora(config: LoraConfig, *, trained: bool = True, **changes) -> Llama:
    """A base model with an adapter, as it starts or, `trained`, with a B that is not zero."""
    model = tiny_llama(**changes)
    add_lora(model, config)
    initialise_lora(model, seed=1, device=CPU)
    if trained:
        torch.manual_seed(2)
        for _, layer in lora_layers(model):
            torch.nn.init.normal_(layer.lora_B.weight, std=0.05)
    return model


def logits_of(model: Llama) -> Tensor:
    hidden = model(TOKENS, torch.arange(len(TOKENS)), DocumentAttention([len(TOKENS)]))
    return model.logits(hidden)


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of the largest logit: sums of float32 in another order."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def saved(model: Llama, folder: Path, config: LoraConfig) -> Path:
    save_adapter(model, folder, config=config, base_model="")
    return folder


def peft_s_own(config: LoraConfig) -> peft.PeftModel:
    """An adapter that peft made around the same base, with random A and B."""
    theirs = peft.get_peft_model(
        transformers_twin(tiny_llama()),
        peft.LoraConfig(**config.model_dump(), init_lora_weights=False),
    )
    return theirs.eval()


# What it computes


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_the_output_is_the_base_model_s_bit_for_bit(config, dtype):
    base, model = tiny_llama().to(dtype), lora(config, trained=False).to(dtype)
    assert torch.equal(logits_of(model), logits_of(base))


@EACH
def test_fused_is_unfused(config):
    model = lora(config)
    expected = logits_of(model)
    fuse_lora(model)
    assert not list(lora_layers(model))
    assert dict(model.state_dict()).keys() == dict(tiny_llama().state_dict()).keys()
    assert_close(logits_of(model), expected)
    assert (expected - logits_of(tiny_llama())).abs().max() > 0.1


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
    ours = lora(read_lora_config(tmp_path))
    load_lora_weights(ours, tmp_path)
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


# What is refused


def broken(folder: Path, **changes: object) -> str:
    """What is said about an adapter whose adapter_config.json holds these `changes`."""
    config = SETTINGS["defaults"]
    path = saved(lora(config), folder, config) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError) as caught:
        read_lora_config(folder)
    return str(caught.value)


def test_missing_extra_and_misshapen_tensors_are_one_error(tmp_path):
    config = SETTINGS["defaults"]
    path = saved(lora(config), tmp_path, config) / "adapter_model.safetensors"
    tensors = load_file(path)
    keys = sorted(tensors)
    tensors["base_model.model.lm_head.lora_A.weight"] = tensors.pop(keys[0])
    tensors[keys[1]] = torch.zeros(5, 5)
    save_file(tensors, path)
    model = lora(config)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_lora_weights(model, tmp_path)
    said = str(caught.value)
    assert f"missing: {keys[0]}" in said
    assert "extra: base_model.model.lm_head.lora_A.weight" in said
    assert f"shape of {keys[1]}: (5, 5) in the file" in said
    assert "Give the base model that the adapter was made for." in said
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_adapter_of_another_model_lists_twenty_and_counts_the_rest(tmp_path):
    config = SETTINGS["all-linear"]
    saved(lora(config, num_hidden_layers=4), tmp_path, config)
    with pytest.raises(CheckpointError, match="… and 8 more"):
        load_lora_weights(lora(config), tmp_path)


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        ("rank_pattern", {"q_proj": 4}),
        ("alpha_pattern", {"q_proj": 4}),
        ("use_dora", True),
        ("modules_to_save", ["lm_head"]),
        ("layers_to_transform", [0]),
        ("layer_replication", [[0, 2]]),
        ("trainable_token_indices", [3]),
        ("target_parameters", ["mlp.experts"]),
        ("lora_bias", True),
        ("bias", "lora_only"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "loftq"),
    ],
)
def test_what_peft_can_and_this_cannot_is_refused(feature, value, tmp_path):
    said = broken(tmp_path, **{feature: value})
    assert f"uses {feature}" in said
    assert "Merge it with peft first." in said


def test_every_setting_of_peft_is_read_refused_or_harmless():
    """A new one in a later peft fails here, so that somebody looks at what it does."""
    harmless = {
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type"),
        *("peft_version", "revision", "runtime_config"),
        # of another layer type, of training only, or part of a feature that is refused
        *("fan_in_fan_out", "megatron_config", "megatron_core", "ensure_weight_tying"),
        *("eva_config", "velora_config", "qalora_group_size"),
        *("init_lora_weights", "corda_config", "loftq_config", "lora_ga_config"),
    }
    theirs = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert theirs - {*_TAKEN, *_MUST_BE_EMPTY} == harmless


def test_other_kinds_of_adapters_and_wrong_values_are_named(tmp_path):
    assert "of the kind 'PREFIX_TUNING'" in broken(tmp_path, peft_type="PREFIX_TUNING")
    assert "r is 'eight'" in broken(tmp_path, r="eight")
    assert "task_type is 'SEQ_CLS'" in broken(tmp_path, task_type="SEQ_CLS")


def test_what_a_file_leaves_out_has_peft_s_default(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "target_modules": null}')
    default = peft.LoraConfig()
    read = read_lora_config(tmp_path)
    assert (read.r, read.lora_alpha) == (default.r, default.lora_alpha)
    assert read.lora_dropout == default.lora_dropout
    assert read.target_modules == ["q_proj", "v_proj"]


def test_a_folder_without_an_adapter_a_damaged_file_and_a_pickle(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no adapter_config\.json"):
        read_lora_config(tmp_path)
    config = SETTINGS["defaults"]
    path = saved(lora(config), tmp_path, config) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_lora_weights(lora(config), tmp_path)
    path.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="are pickles and are not read"):
        load_lora_weights(lora(config), tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_lora_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        read_lora_config(tmp_path)


def test_a_target_that_a_llama_does_not_have_is_named():
    with pytest.raises(ConfigError, match=r"names c_attn, proj, which .* Choose from q_proj"):
        add_lora(tiny_llama(), LoraConfig(target_modules=["q_proj", "c_attn", "proj"]))


def test_a_target_may_be_one_layer_alone():
    """So peft writes down what all-linear stood for."""
    model = tiny_llama()
    add_lora(model, LoraConfig(target_modules=["model.layers.1.mlp.up_proj", "self_attn.k_proj"]))
    assert [name for name, _ in lora_layers(model)] == [
        "model.layers.0.self_attn.k_proj",
        "model.layers.1.self_attn.k_proj",
        "model.layers.1.mlp.up_proj",
    ]


# What goes on


def test_an_adapter_goes_on_with_its_own_settings(tmp_path):
    theirs = LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["o_proj"])
    saved(lora(theirs), tmp_path, theirs)
    config = RunConfig(
        train_config=TrainConfig(use_peft=True, from_peft_checkpoint=str(tmp_path)),
        lora_config=LoraConfig(r=64),
    )
    assert adapter_config(config) == theirs
    assert adapter_config(RunConfig(train_config=TrainConfig(use_peft=True))) == LoraConfig()
    assert adapter_config(RunConfig()) is None
