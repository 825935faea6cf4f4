"""Results as transformers and peft load them, whole at every moment of being written over."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llama_recipes.adapters.lora import add_lora, initialise_lora, lora_layers
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.data.tokenizer import load_tokenizer
from llama_recipes.errors import CheckpointError
from llama_recipes.export.hf import save_model, save_tokenizer
from llama_recipes.export.result import ResultWriter, step_of
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.config import RopeConfig
from llama_recipes.model.llama import Llama
from llama_recipes.model.safetensors_folder import INDEX, SafetensorsFolder
from llama_recipes.model.source import open_model
from llama_recipes.model.weights import load_weights
from support.chat_tokenizers import tokenizer
from support.tiny import TINY, tiny_llama, transformers_twin

CPU = torch.device("cpu")
TOKENS = torch.randint(0, TINY.vocab_size, (40,), generator=torch.Generator().manual_seed(7))
SHARD_BYTES = 16_000
"""Makes several shards of the tiny model."""
SHAPES = {
    "untied": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "llama-3 rope": {
        "rope": RopeConfig(
            theta=5e5,
            scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        )
    },
}


def logits_of(model: Llama) -> Tensor:
    hidden = model(TOKENS, torch.arange(len(TOKENS)), DocumentAttention([len(TOKENS)]))
    return model.logits(hidden)


def reloaded(folder: Path) -> Llama:
    source = open_model(str(folder))
    with torch.device("meta"):
        model = Llama(source.config)
    load_weights(model, source.tensors, device=CPU)
    return model


def close(found: Tensor, expected: Tensor) -> None:
    """Within 1e-5 of the largest logit."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


# A full model


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shard_bytes", [10**9, SHARD_BYTES], ids=["single", "sharded"])
def test_transformers_loads_it_with_equal_logits(shape, shard_bytes, tmp_path):
    model = tiny_llama(**SHAPES[shape])
    save_model(model, tmp_path, generation_config={"eos_token_id": 3}, shard_bytes=shard_bytes)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == torch.float32
    close(theirs(TOKENS[None]).logits[0], logits_of(model))
    assert torch.equal(logits_of(reloaded(tmp_path)), logits_of(model))
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == 3
    assert (tmp_path / INDEX).exists() == (shard_bytes == SHARD_BYTES)
    names = [path.name for path in tmp_path.glob("*.safetensors")]
    assert len(names) > 2 if shard_bytes == SHARD_BYTES else names == ["model.safetensors"]


def test_weights_keep_the_precision_they_were_trained_in(tmp_path):
    model = tiny_llama(dtype=torch.bfloat16)
    save_model(model, tmp_path, generation_config={})
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == torch.bfloat16
    expected = dict(model.state_dict())
    assert all(torch.equal(value, expected[key]) for key, value in theirs.state_dict().items())


def test_others_may_read_every_file(tmp_path):
    save_model(tiny_llama(), tmp_path, generation_config={}, shard_bytes=SHARD_BYTES)
    save_tokenizer(tokenizer("chatml"), tmp_path)
    (tmp_path / "touched").touch()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {modes["touched"]}


def in_use(folder: Path) -> set[str]:
    """The files that the index names, or the single one."""
    index = folder / INDEX
    if not index.exists():
        return {"model.safetensors"}
    return set(json.loads(index.read_text())["weight_map"].values())


@pytest.fixture
def watched(monkeypatch):
    """Calls a check after every rename and every removal of a file."""
    checks = []
    for name in ("replace", "unlink"):
        real = getattr(Path, name)

        def and_check(self, *args, real=real, **settings):
            result = real(self, *args, **settings)
            for check in checks:
                check()
            return result

        monkeypatch.setattr(Path, name, and_check)
    return checks


@pytest.mark.parametrize("shard_bytes", [10**9, SHARD_BYTES], ids=["single", "sharded"])
def test_written_over_it_is_the_old_or_the_new_model_at_every_moment(
    shard_bytes, tmp_path, watched
):
    models = [tiny_llama(seed=seed) for seed in range(4)]
    save_model(models[0], tmp_path, generation_config={}, shard_bytes=shard_bytes)
    seen: list[int] = []

    def check() -> None:
        found = logits_of(reloaded(tmp_path))
        seen.append(next(n for n, m in enumerate(models) if torch.equal(found, logits_of(m))))

    watched.append(check)
    for model in models[1:]:
        save_model(model, tmp_path, generation_config={}, shard_bytes=shard_bytes)
    assert seen == sorted(seen)
    assert set(seen) == {0, 1, 2, 3}
    assert {path.name for path in tmp_path.glob("*.safetensors")} == in_use(tmp_path)


def test_a_run_killed_between_index_and_removal_does_not_cost_the_present_shards(tmp_path, watched):
    """What it left lies beside the shards in use, which must not be taken for the old ones."""
    models = [tiny_llama(seed=seed) for seed in range(3)]
    save_model(models[0], tmp_path, generation_config={}, shard_bytes=SHARD_BYTES)
    left = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    save_model(models[1], tmp_path, generation_config={}, shard_bytes=SHARD_BYTES)
    for path, content in left.items():
        path.write_bytes(content)
    good = [logits_of(model) for model in models[1:]]

    def check() -> None:
        found = logits_of(reloaded(tmp_path))
        assert any(torch.equal(found, logits) for logits in good)

    watched.append(check)
    save_model(models[2], tmp_path, generation_config={}, shard_bytes=SHARD_BYTES)
    assert torch.equal(logits_of(reloaded(tmp_path)), good[1])
    assert {path.name for path in tmp_path.glob("*.safetensors")} == in_use(tmp_path)


# The result of a run


def writer(folder: Path, model: Llama, **changes) -> ResultWriter:
    settings = {
        **{"adapter": None, "base_model": "", "base_fingerprint": ""},
        "generation_config": None,
    }
    return ResultWriter(folder, model, tokenizer("chatml"), **(settings | changes))


def test_the_best_stands_in_the_folder_and_the_last_beside_it(tmp_path):
    model = tiny_llama()
    write = writer(tmp_path, model)
    write(step=1, best=True)
    best = logits_of(model)
    with torch.no_grad():
        model.model.norm.weight.mul_(2.0)
    write(step=2, best=False)
    assert torch.equal(logits_of(reloaded(tmp_path)), best)
    assert torch.equal(logits_of(reloaded(tmp_path / "last")), logits_of(model))
    assert (tmp_path / "last" / "tokenizer.json").exists()
    assert (step_of(tmp_path), step_of(tmp_path / "last")) == (1, 2)


@pytest.mark.parametrize("adapter", [None, LoraConfig()], ids=["all weights", "adapter"])
def test_once_the_last_are_the_best_there_is_no_older_last(adapter, tmp_path):
    model = tiny_llama()
    if adapter is not None:
        add_lora(model, adapter)
        initialise_lora(model, seed=0, device=CPU)
    write = writer(tmp_path, model, adapter=adapter)
    assert step_of(tmp_path) is None
    write(step=2, best=True)
    write(step=3, best=False)
    write(step=4, best=True)
    assert step_of(tmp_path) == 4
    assert not (tmp_path / "last").exists()


def test_the_tokenizer_beside_it_is_the_one_that_was_trained_with(tmp_path):
    writer(tmp_path, tiny_llama())(step=1, best=True)
    used = tokenizer("chatml")
    assert load_tokenizer(tmp_path).fingerprint == used.fingerprint
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>user\nHello<|im_end|>"
    assert theirs(text, add_special_tokens=False).input_ids == used.encode_batch([text])[0]
    assert theirs.chat_template == used.chat_template


def test_generation_goes_on_as_the_base_model_s_and_stops_where_the_tokenizer_says(tmp_path):
    writer(tmp_path / "own", tiny_llama())(step=1, best=True)
    used = tokenizer("chatml")
    config = GenerationConfig.from_pretrained(tmp_path / "own")
    assert config.eos_token_id == list(used.stop_ids)
    assert (config.bos_token_id, config.pad_token_id) == (used.bos_id, used.pad_id)
    base = {"eos_token_id": 5, "temperature": 0.6, "do_sample": True}
    writer(tmp_path / "base", tiny_llama(), generation_config=base)(step=1, best=True)
    saved = json.loads((tmp_path / "base" / "generation_config.json").read_text())
    ends = {"bos_token_id": used.bos_id, "eos_token_id": list(used.stop_ids)}
    assert saved == base | ends | {"pad_token_id": used.pad_id}
    assert json.loads((tmp_path / "base" / "config.json").read_text()).items() >= ends.items()


def test_an_adapter_is_all_that_is_written_of_an_adapted_model(tmp_path):
    config = LoraConfig(r=4, lora_dropout=0.0)
    model = tiny_llama()
    add_lora(model, config)
    initialise_lora(model, seed=0, device=CPU)
    for _, layer in lora_layers(model):
        torch.nn.init.normal_(layer.lora_B.weight, std=0.05)
    writer(tmp_path, model, adapter=config, base_model="a/base")(step=1, best=True)
    assert json.loads((tmp_path / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == ("a/base")
    assert {"config.json", "model.safetensors"}.isdisjoint(p.name for p in tmp_path.iterdir())
    theirs = peft.PeftModel.from_pretrained(transformers_twin(tiny_llama()), tmp_path)
    close(theirs(TOKENS[None]).logits[0], logits_of(model))


def test_a_folder_that_cannot_be_written_to_is_the_user_s_to_mend(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"could not be written to .* Make room"):
        writer(tmp_path / "file" / "result", tiny_llama())(step=1, best=True)


def test_every_tensor_is_in_the_file_under_its_hugging_face_key(tmp_path):
    model = tiny_llama()
    save_model(model, tmp_path, generation_config={}, shard_bytes=SHARD_BYTES)
    theirs = transformers_twin(model).state_dict()
    assert SafetensorsFolder(tmp_path).shapes == {k: tuple(v.shape) for k, v in theirs.items()}
