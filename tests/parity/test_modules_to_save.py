"""An embedding and a head that are trained whole beside LoRA. Oracle: peft around transformers."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from llama_recipes.adapters.peft_format import load_adapter_weights
from llama_recipes.adapters.select import adapt, checkpoint_config, start_adapter
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.export.hf import save_adapter
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.llama import Llama
from llama_recipes.model.loss import cross_entropy_sum
from support.in_memory import merged
from support.tiny import TINY, tiny_llama, transformers_twin

CPU = torch.device("cpu")
TOKENS = torch.randint(0, TINY.vocab_size, (60,), generator=torch.Generator().manual_seed(7))
BOTH = ["embed_tokens", "lm_head"]
EACH = pytest.mark.parametrize(
    ("tied", "names"),
    [(False, BOTH), (False, ["embed_tokens"]), (False, ["lm_head"]), (True, BOTH)],
    ids=["both", "embedding", "head", "tied"],
)


def adapted(tied: bool, names: list[str], *, trained: bool = True) -> tuple[Llama, LoraConfig]:
    config = LoraConfig(r=4, lora_dropout=0.0, modules_to_save=names)
    model = tiny_llama(tie_word_embeddings=tied)
    adapt(model, config)
    start_adapter(model, config, checkpoint="", seed=1, device=CPU)
    if trained:
        torch.manual_seed(2)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn(parameter.shape)
    return model, config


def logits_of(model: Llama) -> Tensor:
    hidden = model(TOKENS, torch.arange(len(TOKENS)), DocumentAttention([len(TOKENS)]))
    return model.logits(hidden)


def in_peft(folder, tied: bool, **settings) -> peft.PeftModel:
    base = transformers_twin(tiny_llama(tie_word_embeddings=tied))
    with warnings.catch_warnings():  # of tied weights that are saved apart, as they have to be
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(base, folder, **settings)


def close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@EACH
def test_ours_in_peft(tied, names, tmp_path):
    model, config = adapted(tied, names)
    save_adapter(model, tmp_path, config=config, base_model="")
    close(in_peft(tmp_path, tied)(TOKENS[None]).logits[0], logits_of(model))
    assert (logits_of(model) - logits_of(tiny_llama(tie_word_embeddings=tied))).abs().max() > 0.1


@EACH
def test_gradients_equal_peft_s(tied, names, tmp_path):
    model, config = adapted(tied, names)
    save_adapter(model, tmp_path, config=config, base_model="")
    theirs = in_peft(tmp_path, tied, is_trainable=True)
    F.cross_entropy(theirs(TOKENS[None]).logits[0][:-1], TOKENS[1:], reduction="sum").backward()
    hidden = model(TOKENS, torch.arange(len(TOKENS)), DocumentAttention([len(TOKENS)]))
    cross_entropy_sum(hidden[:-1], model.head_weight, TOKENS[1:]).backward()
    expected = {
        name.removeprefix("base_model.model.")
        .replace(".modules_to_save.default", "")
        .replace(".default.", "."): parameter.grad
        for name, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    found = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    if tied:  # peft's two copies of one weight
        expected["model.embed_tokens.weight"] += expected.pop("lm_head.weight")
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        error = (gradient - expected[key]).abs().max() / expected[key].abs().max()
        assert error <= 1e-5, (key, error.item())


@pytest.mark.parametrize("names", [BOTH, ["embed_tokens"], ["lm_head"]])
def test_peft_s_in_ours_merged_or_not(names, tmp_path):
    """Of a model that ties the two, peft makes two: that is refused below."""
    settings = {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": False}
    theirs = peft.get_peft_model(
        transformers_twin(tiny_llama()), peft.LoraConfig(**settings, modules_to_save=names)
    )
    for name, parameter in theirs.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    theirs.save_pretrained(tmp_path)
    expected = theirs.eval()(TOKENS[None]).logits[0]
    model, config = tiny_llama(), checkpoint_config(tmp_path)
    assert config.modules_to_save == sorted(names)
    adapt(model, config)
    start_adapter(model, config, checkpoint=str(tmp_path), seed=1, device=CPU)
    close(logits_of(model), expected)
    close(logits_of(merged(tiny_llama(), tmp_path)), expected)


def test_an_embedding_that_peft_saved_without_a_word_about_it(tmp_path):
    """As it does for one that was made larger."""
    theirs = peft.get_peft_model(
        transformers_twin(tiny_llama()), peft.LoraConfig(target_modules=["q_proj"])
    )
    theirs.save_pretrained(tmp_path, save_embedding_layers=True)
    config = checkpoint_config(tmp_path)
    assert config.modules_to_save == BOTH
    model = tiny_llama(seed=3)
    adapt(model, config)
    start_adapter(model, config, checkpoint=str(tmp_path), seed=1, device=CPU)
    assert torch.equal(model.model.embed_tokens.weight, tiny_llama().model.embed_tokens.weight)


def test_two_weights_for_one_are_refused(tmp_path):
    model, config = adapted(True, BOTH)
    save_adapter(model, tmp_path, config=config, base_model="")
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.lm_head.weight"] += 1
    from safetensors.torch import save_file

    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="an embedding and a head that differ"):
        load_adapter_weights(model, config, tmp_path)


def test_other_modules_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="names norm, which cannot be trained whole"):
        adapted(False, ["norm"])
    model, config = adapted(False, BOTH)
    save_adapter(model, tmp_path, config=config, base_model="")
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text().replace('"lm_head"', '"score"'))
    with pytest.raises(CheckpointError, match="uses modules_to_save=score"):
        checkpoint_config(tmp_path)
