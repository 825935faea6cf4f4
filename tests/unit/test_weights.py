"""Weights arrive whole, in the precision asked for, within little more memory than they need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llama_recipes.errors import CheckpointError
from llama_recipes.model.llama import Llama
from llama_recipes.model.safetensors_folder import INDEX, SafetensorsFolder
from llama_recipes.model.source import open_model
from llama_recipes.model.weights import load_weights
from support.tiny import tiny_config, tiny_llama, transformers_twin
from support.tiny_gguf import write_gguf

CPU = torch.device("cpu")


def on_meta(dtype: torch.dtype = torch.float32, **changes) -> Llama:
    with torch.device("meta"):
        return Llama(tiny_config(**changes)).to(dtype)


def save(model: Llama, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_hf()))
    weights = dict(model.state_dict()) if weights is None else weights
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("shard_size", ["1GB", "10KB"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}],
    ids=["plain", "tied", "biases"],
)
def test_folders_that_transformers_saved(changes, shard_size, tmp_path):
    model = tiny_llama(**changes)
    transformers_twin(model).save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / INDEX).exists() == (shard_size == "10KB")
    source = open_model(str(tmp_path))
    assert source.config == model.config
    again = on_meta(**changes)
    load_weights(again, source.tensors, device=CPU)
    for (name, ours), theirs in zip(again.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_each_parameter_keeps_its_own_precision_and_whether_it_is_trained(tmp_path):
    stored = tiny_llama(dtype=torch.bfloat16)
    model = on_meta(torch.bfloat16)
    model.requires_grad_(False)
    trained = model.model.layers[1].self_attn.v_proj
    trained.weight = nn.Parameter(trained.weight.float(), requires_grad=True)
    load_weights(model, SafetensorsFolder(save(stored, tmp_path)), device=CPU)
    for (name, ours), theirs in zip(model.named_parameters(), stored.parameters(), strict=True):
        is_trained = name == "model.layers.1.self_attn.v_proj.weight"
        assert ours.requires_grad == is_trained
        assert ours.dtype == (torch.float32 if is_trained else torch.bfloat16)
        assert torch.equal(ours.float(), theirs.float())


class Wrapped(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.lora_A = nn.Linear(3, 3, device="meta")


def test_a_wrapper_is_transparent_and_its_own_parameters_are_left_alone(tmp_path):
    stored = tiny_llama()
    model = on_meta()
    attention = model.model.layers[0].self_attn
    attention.q_proj = Wrapped(attention.q_proj)
    own = {name for name, _ in model.named_parameters() if "lora_A" in name}
    load_weights(model, SafetensorsFolder(save(stored, tmp_path)), device=CPU, skip=own)
    assert torch.equal(attention.q_proj.base.weight, stored.model.layers[0].self_attn.q_proj.weight)
    assert {name for name, p in model.named_parameters() if p.is_meta} == own


def test_a_tensor_larger_than_a_chunk_arrives_whole(tmp_path):
    wide = {"vocab_size": 40_001, "hidden_size": 128, "num_hidden_layers": 1}
    stored = tiny_llama(**wide)
    model = on_meta(**wide)
    load_weights(model, SafetensorsFolder(save(stored, tmp_path)), device=CPU)
    assert torch.equal(model.lm_head.weight, stored.lm_head.weight)


def test_missing_extra_and_misshapen_come_in_one_error_before_anything_is_read(tmp_path):
    stored = tiny_llama()
    weights = dict(stored.state_dict())
    del weights["model.norm.weight"]
    weights["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
    weights["lm_head.weight"] = torch.ones(95, 32)
    model = on_meta()
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, SafetensorsFolder(save(stored, tmp_path, weights)), device=CPU)
    missing, extra, wrong = caught.value.problems
    assert "lacks model.norm.weight." in missing
    assert "no place for: model.layers.0.self_attn.q_norm.weight." in extra
    assert "lm_head.weight is 95×32 and should be 96×32" in wrong
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_long_list_is_cut_and_counted(tmp_path):
    stored = tiny_llama()
    folder = save(stored, tmp_path)
    with pytest.raises(CheckpointError, match="and 16 more"):
        load_weights(on_meta(num_hidden_layers=6), SafetensorsFolder(folder), device=CPU)


def test_stored_rotation_frequencies_are_no_weights(tmp_path):
    stored = tiny_llama()
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    folder = save(stored, tmp_path, {**stored.state_dict(), **extra})
    load_weights(on_meta(), SafetensorsFolder(folder), device=CPU)


def test_a_tied_head_may_be_stored_twice_but_not_differ(tmp_path):
    stored = tiny_llama(tie_word_embeddings=True)
    head = stored.model.embed_tokens.weight.detach().clone()
    folder = save(stored, tmp_path, {**stored.state_dict(), "lm_head.weight": head})
    load_weights(on_meta(tie_word_embeddings=True), SafetensorsFolder(folder), device=CPU)
    head[-1, -1] += 1
    save(stored, tmp_path, {**stored.state_dict(), "lm_head.weight": head})
    with pytest.raises(CheckpointError, match=r"no place for: lm_head\.weight"):
        load_weights(on_meta(tie_word_embeddings=True), SafetensorsFolder(folder), device=CPU)


def test_what_was_read_is_not_a_way_into_the_file(tmp_path):
    stored = tiny_llama()
    folder = save(stored, tmp_path)
    with torch.no_grad():
        SafetensorsFolder(folder).read("model.norm.weight").zero_()
    again = load_file(folder / "model.safetensors")
    assert torch.equal(again["model.norm.weight"], stored.model.norm.weight)


MEASURE = """
import sys, torch
from llama_recipes.model.llama import Llama
from llama_recipes.model.source import open_model
from llama_recipes.model.weights import load_weights

def kib(field):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])

source = open_model(sys.argv[1])
with torch.device("meta"):
    model = Llama(source.config).to(getattr(torch, sys.argv[2]))
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is that of the imports
before = kib("VmRSS")
load_weights(model, source.tensors, device=torch.device("cpu"))
weights = sum(parameter.nbytes for parameter in model.parameters())
print((kib("VmHWM") - before) * 1024 / weights)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [("bfloat16", "single"), ("float32", "sharded"), ("bfloat16", "gguf")],
)
def test_peak_memory_of_loading_is_within_a_fifth_of_the_weights(dtype, layout, tmp_path):
    sizes = {"hidden_size": 1024, "intermediate_size": 3072, "vocab_size": 16_384}
    with torch.device("meta"):
        model = Llama(tiny_config(**sizes, num_hidden_layers=4)).to(torch.bfloat16)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    path = tmp_path
    if layout == "single":
        save(model, tmp_path)
    elif layout == "sharded":
        transformers_twin(model).save_pretrained(tmp_path, max_shard_size="40MB")
    else:
        path = tmp_path / "model.gguf"
        write_gguf(path, model, kind="Q8_0")
    command = [sys.executable, "-c", MEASURE, str(path), dtype]
    ratio = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"peak memory of loading, {layout} to {dtype}: {ratio:.3f} times the weights")
    assert 0.9 < ratio <= 1.2
