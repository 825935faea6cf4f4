"""LLaMA-Adapter and prefix tuning. Oracle: peft around transformers, with the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_recipes.adapters.llama_adapter import add_llama_adapter
from llama_recipes.adapters.peft_config import read_adapter_config
from llama_recipes.adapters.peft_format import WEIGHTS_FILE, load_adapter_weights
from llama_recipes.adapters.select import adapt, checkpoint_config, start_adapter
from llama_recipes.configs.peft import AdapterConfig, LlamaAdapterConfig, LoraConfig, PrefixConfig
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.export.hf import save_adapter
from llama_recipes.inference.generate import generate
from llama_recipes.inference.load import load_for_inference
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.llama import Llama
from llama_recipes.model.loss import cross_entropy_sum
from support.tiny import TINY, tiny_llama, transformers_twin
from support.tiny_folder import VOCABULARY, tiny_folder

pytestmark = pytest.mark.usefixtures("either_path")

CPU = torch.device("cpu")
TOKENS = torch.randint(0, TINY.vocab_size, (50,), generator=torch.Generator().manual_seed(7))
KINDS: dict[str, AdapterConfig] = {
    "llama_adapter, all layers": LlamaAdapterConfig(adapter_len=5, adapter_layers=2),
    "llama_adapter, the highest": LlamaAdapterConfig(adapter_len=3, adapter_layers=1),
    "prefix": PrefixConfig(num_virtual_tokens=6),
}
EACH = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
SHAPES = pytest.mark.parametrize("kv_heads", [1, 2, 4])


def adapted(config: AdapterConfig, *, trained: bool = True, **changes) -> Llama:
    model = tiny_llama(**changes)
    names = adapt(model, config)
    start_adapter(model, config, checkpoint="", seed=1, device=CPU)
    if trained:
        torch.manual_seed(3)
        for name in sorted(names):
            torch.nn.init.normal_(model.get_parameter(name), std=0.7)
    return model


def logits_of(model: Llama, lengths: list[int] | None = None) -> Tensor:
    lengths = lengths or [len(TOKENS)]
    positions = torch.cat([torch.arange(length) for length in lengths])
    return model.logits(model(TOKENS[: sum(lengths)], positions, DocumentAttention(lengths)))


def peft_settings(config: AdapterConfig) -> peft.PeftConfig:
    if isinstance(config, PrefixConfig):
        return peft.PrefixTuningConfig(task_type="CAUSAL_LM", **config.model_dump())
    return peft.AdaptionPromptConfig(task_type="CAUSAL_LM", **config.model_dump())


def theirs_logits(theirs: peft.PeftModel) -> Tensor:
    with torch.no_grad():
        return theirs.eval()(TOKENS[None]).logits[0]


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


@EACH
@SHAPES
def test_our_adapter_loads_in_peft_with_equal_logits(tmp_path, config, kv_heads):
    shape = {"num_key_value_heads": kv_heads}
    model = adapted(config, **shape)
    save_adapter(model, tmp_path, config=config, base_model="")
    base = transformers_twin(tiny_llama(**shape))
    assert_close(logits_of(model), theirs_logits(peft.PeftModel.from_pretrained(base, tmp_path)))
    assert (logits_of(model) - logits_of(tiny_llama(**shape))).abs().max() > 0.1


@EACH
@SHAPES
def test_their_adapter_loads_here_with_equal_logits(tmp_path, config, kv_heads):
    shape = {"num_key_value_heads": kv_heads}
    torch.manual_seed(5)
    theirs = peft.get_peft_model(transformers_twin(tiny_llama(**shape)), peft_settings(config))
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.7)
            assert "prompt" in name or "gate" in name
    theirs.save_pretrained(tmp_path)
    read = read_adapter_config(tmp_path)
    assert read == config
    ours = adapted(read, trained=False, **shape)
    load_adapter_weights(ours, read, tmp_path)
    assert_close(logits_of(ours), theirs_logits(theirs))


@EACH
def test_gradients_are_peft_s(tmp_path, config):
    model = adapted(config)
    save_adapter(model, tmp_path, config=config, base_model="")
    theirs = peft.get_peft_model(transformers_twin(tiny_llama()), peft_settings(config))
    peft.set_peft_model_state_dict(theirs, load_file(tmp_path / WEIGHTS_FILE))
    hidden = model(TOKENS, torch.arange(50), DocumentAttention([50]))
    cross_entropy_sum(hidden[:-1], model.head_weight, TOKENS[1:]).backward()
    (49 * theirs(TOKENS[None], labels=TOKENS[None]).loss).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    if isinstance(config, PrefixConfig):
        (expected,) = gradients.values()
        found = torch.stack([layer.self_attn.prefix.grad for layer in model.layers], 1).flatten(1)
        assert_close(found, expected)
        return
    ours = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert len(ours) == len(gradients) == 2 * config.adapter_layers
    for name, gradient in ours.items():
        (key,) = (key for key in gradients if key.endswith(name))
        assert_close(gradient, gradients[key])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_llama_adapter_starts_at_the_base_model_s_output_bit_for_bit(dtype):
    config = KINDS["llama_adapter, all layers"]
    base, model = tiny_llama().to(dtype), adapted(config, trained=False).to(dtype)
    assert torch.equal(logits_of(model), logits_of(base))


@EACH
def test_only_the_adapter_trains(config):
    model = adapted(config)
    logits_of(model).square().mean().backward()
    got = {name for name, p in model.named_parameters() if p.grad is not None}
    assert got == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(name.rpartition(".")[2] in ("adaption_prompt", "adaption_gate", "prefix")
               for name in got)  # fmt: skip


@EACH
def test_every_document_has_it_and_none_sees_another(config):
    """Packed, a document's logits are those that it has alone, up to sums in another order."""
    model = adapted(config)
    together = logits_of(model, [20, 1, 29])
    start = 0
    for length in (20, 1, 29):
        positions = torch.arange(length)
        own = TOKENS[start : start + length]
        alone = model.logits(model(own, positions, DocumentAttention([length])))
        assert_close(together[start : start + length], alone)
        start += length


@EACH
def test_answers_are_those_of_whole_passes(config):
    """Token by token from a cache, for unequal prompts: what the whole text would give."""
    model = adapted(config)
    prompts = [TOKENS[:9].tolist(), TOKENS[9:12].tolist()]
    answers = generate(model, prompts, max_new_tokens=6, stop_ids=[])
    for prompt, answer in zip(prompts, answers, strict=True):
        for length in range(len(prompt), len(prompt) + 6):
            text = torch.tensor([*prompt, *answer][:length])
            hidden = model(text, torch.arange(length), DocumentAttention([length]))
            assert model.logits(hidden)[-1].argmax() == [*prompt, *answer][length]


@EACH
def test_the_same_seed_gives_the_same_start(config):
    one, same = (adapted(config, trained=False) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), same.parameters(), strict=True))
    other = tiny_llama()
    adapt(other, config)
    start_adapter(other, config, checkpoint="", seed=2, device=CPU)
    assert not torch.equal(*(next(p for p in m.parameters() if p.requires_grad)
                             for m in (one, other)))  # fmt: skip


@EACH
def test_it_is_loaded_to_answer(tmp_path, config):
    base = tiny_folder(tmp_path / "base")
    model = adapted(config, vocab_size=VOCABULARY)
    save_adapter(model, tmp_path / "adapter", config=config, base_model=str(base))
    loaded = load_for_inference(str(tmp_path / "adapter"), device=CPU, dtype=torch.float32)
    assert torch.equal(logits_of(loaded.model), logits_of(model))


@EACH
def test_what_is_missing_extra_or_of_another_shape_is_listed(tmp_path, config):
    model = adapted(config)
    save_adapter(model, tmp_path, config=config, base_model="")
    path = tmp_path / WEIGHTS_FILE
    stored = load_file(path)
    key = next(iter(stored))
    for changed, said in (
        ({k: t for k, t in stored.items() if k != key}, f"missing: {key}"),
        (stored | {"another": torch.zeros(1)}, "extra: another"),
        (stored | {key: torch.zeros(3)}, rf"shape of {key}: \(3,\) in the file"),
    ):
        save_file(changed, path)
        with pytest.raises(CheckpointError, match=said):
            load_adapter_weights(model, config, tmp_path)


def test_more_layers_than_the_model_has_are_refused():
    with pytest.raises(ConfigError, match="adapter_layers is 3, but the model has 2"):
        add_llama_adapter(tiny_llama(), LlamaAdapterConfig(adapter_layers=3))


def test_a_model_whose_attention_has_biases_is_refused():
    with pytest.raises(ConfigError, match="attention has biases"):
        add_llama_adapter(tiny_llama(attention_bias=True), LlamaAdapterConfig(adapter_layers=1))


def test_a_prefix_behind_a_projection_is_refused(tmp_path):
    config = KINDS["prefix"]
    save_adapter(adapted(config), tmp_path, config=config, base_model="")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prefix_projection": True}))
    with pytest.raises(CheckpointError, match="uses prefix_projection"):
        read_adapter_config(tmp_path)


BIASES = pytest.mark.parametrize("bias", ["all", "lora_only"])


@BIASES
def test_lora_s_biases_go_to_peft_and_back(tmp_path, bias):
    config = LoraConfig(lora_dropout=0.0, bias=bias)
    model = adapted(config, attention_bias=True, mlp_bias=True)
    biases = {n for n, p in model.named_parameters() if p.requires_grad and n.endswith("bias")}
    assert len(biases) == 2 * (7 if bias == "all" else 2)
    for name in sorted(biases):
        torch.nn.init.normal_(model.get_parameter(name), std=0.7)
    save_adapter(model, tmp_path, config=config, base_model="")
    shape = {"attention_bias": True, "mlp_bias": True}
    base = transformers_twin(tiny_llama(**shape))
    theirs = peft.PeftModel.from_pretrained(base, tmp_path)
    assert_close(logits_of(model), theirs_logits(theirs))
    ours = adapted(config, trained=False, **shape)
    load_adapter_weights(ours, read_adapter_config(tmp_path), tmp_path)
    assert torch.equal(logits_of(ours), logits_of(model))
    theirs.save_pretrained(tmp_path / "theirs")
    from_theirs = adapted(config, trained=False, **shape)
    load_adapter_weights(from_theirs, config, tmp_path / "theirs")
    assert torch.equal(logits_of(from_theirs), logits_of(model))


@BIASES
def test_training_biases_that_are_not_there_is_refused(bias):
    with pytest.raises(ConfigError, match=f"--lora_config.bias is {bias}"):
        adapt(tiny_llama(), LoraConfig(bias=bias))


@pytest.mark.parametrize("kind", ["lora", "llama_adapter", "prefix"])
def test_adapters_of_early_2024_load_as_they_do_in_peft_of_today(kind):
    """The original wrote them with the peft of its time: tests/golden/make_old_adapters.py."""
    folder = Path(__file__).parents[1] / "golden" / "peft_0_10" / kind
    config = checkpoint_config(folder)
    heads = {"num_key_value_heads": 4}
    ours = adapted(config, trained=False, **heads)
    load_adapter_weights(ours, config, folder)
    ours.eval()
    theirs = peft.PeftModel.from_pretrained(transformers_twin(tiny_llama(**heads)), folder)
    assert_close(logits_of(ours), theirs_logits(theirs))
    assert (logits_of(ours) - logits_of(tiny_llama(**heads))).abs().max() > 0.1
