"""Adapters from files: what is taken from them, what is refused, and how they go on."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import peft
import pytest
import torch
from peft.utils import load_peft_weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llama_recipes.adapters.lora import add_lora, lora_layers
from llama_recipes.adapters.peft_config import _MUST_BE_EMPTY, _START, read_adapter_config
from llama_recipes.adapters.peft_format import load_adapter_weights, read_header
from llama_recipes.adapters.select import adapter_config
from llama_recipes.configs.peft import LoraConfig
from llama_recipes.configs.run import RunConfig
from llama_recipes.configs.training import TrainConfig
from llama_recipes.errors import CheckpointError, ConfigError
from llama_recipes.export.hf import save_adapter
from llama_recipes.quantization.kept import Kept
from support.adapted import lora, saved
from support.quantised import KINDS
from support.tiny import tiny_llama

DEFAULTS = LoraConfig()
ALL_LINEAR = LoraConfig(target_modules="all-linear")


def broken(folder: Path, **changes: object) -> str:
    """What is said about an adapter whose adapter_config.json holds these `changes`."""
    config = DEFAULTS
    path = saved(lora(config), folder, config) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError) as caught:
        read_adapter_config(folder)
    return str(caught.value)


def test_missing_extra_and_misshapen_tensors_are_one_error(tmp_path):
    config = DEFAULTS
    path = saved(lora(config), tmp_path, config) / "adapter_model.safetensors"
    tensors = load_file(path)
    keys = sorted(tensors)
    tensors["base_model.model.lm_head.lora_A.weight"] = tensors.pop(keys[0])
    tensors[keys[1]] = torch.zeros(5, 5)
    save_file(tensors, path)
    model = lora(config)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_adapter_weights(model, config, tmp_path)
    said = str(caught.value)
    assert f"missing: {keys[0]}" in said
    assert "extra: base_model.model.lm_head.lora_A.weight" in said
    assert f"shape of {keys[1]}: (5, 5) in the file" in said
    assert "Give the base model that the adapter was made for." in said
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_adapter_of_another_model_lists_twenty_and_counts_the_rest(tmp_path):
    config = ALL_LINEAR
    saved(lora(config, num_hidden_layers=4), tmp_path, config)
    with pytest.raises(CheckpointError, match="… and 8 more"):
        load_adapter_weights(lora(config), config, tmp_path)


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        ("rank_pattern", {"q_proj": 4}),
        ("alpha_pattern", {"q_proj": 4}),
        ("use_dora", True),
        ("modules_to_save", ["score"]),
        ("layers_to_transform", [0]),
        ("layer_replication", [[0, 2]]),
        ("trainable_token_indices", [3]),
        ("target_parameters", ["mlp.experts"]),
        ("lora_bias", True),
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
    read = LoraConfig.model_fields.keys() - {_START}
    assert theirs - {*read, *_MUST_BE_EMPTY} == harmless


def test_other_kinds_of_adapters_and_wrong_values_are_named(tmp_path):
    assert "of the kind 'IA3'" in broken(tmp_path, peft_type="IA3")
    assert "r is 'eight'" in broken(tmp_path, r="eight")
    assert "task_type is 'SEQ_CLS'" in broken(tmp_path, task_type="SEQ_CLS")


def test_what_a_file_leaves_out_has_peft_s_default(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "target_modules": null}')
    default = peft.LoraConfig()
    read = read_adapter_config(tmp_path)
    assert (read.r, read.lora_alpha) == (default.r, default.lora_alpha)
    assert read.lora_dropout == default.lora_dropout
    assert read.target_modules == ["q_proj", "v_proj"]


def test_a_folder_without_an_adapter_a_damaged_file_and_a_pickle(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no adapter_config\.json"):
        read_adapter_config(tmp_path)
    config = DEFAULTS
    path = saved(lora(config), tmp_path, config) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_adapter_weights(lora(config), config, tmp_path)
    path.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="are pickles and are not read"):
        load_adapter_weights(lora(config), config, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_adapter_config(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        read_adapter_config(tmp_path)


def test_a_target_that_a_llama_does_not_have_is_named():
    with pytest.raises(ConfigError, match=r"^--lora_config.target_modules names c_attn, q_pro, .*"):
        add_lora(tiny_llama(), LoraConfig(target_modules=["q_proj", "c_attn", "q_pro"]))
    with pytest.raises(ConfigError, match=r"have\. Did you mean q_proj\? Choose from q_proj, "):
        add_lora(tiny_llama(), LoraConfig(target_modules=["qproj"]))
    with pytest.raises(ConfigError, match=r"^--lora_config.modules_to_save names .* mean lm_head"):
        add_lora(tiny_llama(), LoraConfig(modules_to_save=["lm_heads"]))


def test_a_target_in_an_adapter_s_own_file_is_no_matter_of_flags(tmp_path):
    saved(lora(DEFAULTS), tmp_path, DEFAULTS)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ["c_attn"]}))
    with pytest.raises(CheckpointError, match="has updates for c_attn; those of q_proj, ") as error:
        read_adapter_config(tmp_path)
    assert "--" not in str(error.value)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_how_the_base_was_kept_stands_in_the_file(kind, tmp_path):
    kept = Kept(KINDS[kind] if kind else None)
    save_adapter(lora(DEFAULTS), tmp_path, config=DEFAULTS, base_model="", kept=kept)
    assert read_header(tmp_path).kept == kept
    saved(lora(DEFAULTS), tmp_path, DEFAULTS)
    assert read_header(tmp_path).kept is None


@pytest.mark.parametrize("text", ["[]", "{", '{"bits": 3, "quant_type": "nf4"}'])
def test_a_record_that_nobody_knows_is_refused(text, tmp_path):
    saved(lora(DEFAULTS), tmp_path, DEFAULTS)
    path = tmp_path / "adapter_model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt", "base_quantization": text})
    with pytest.raises(CheckpointError, match="no quantisation that is known here"):
        read_header(tmp_path)


def test_a_target_may_be_one_layer_alone():
    """So peft writes down what all-linear stood for."""
    model = tiny_llama()
    add_lora(model, LoraConfig(target_modules=["model.layers.1.mlp.up_proj", "self_attn.k_proj"]))
    assert [name for name, _ in lora_layers(model)] == [
        "model.layers.0.self_attn.k_proj",
        "model.layers.1.self_attn.k_proj",
        "model.layers.1.mlp.up_proj",
    ]


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


def test_one_adapter_is_one_file(tmp_path):
    """Byte for byte, the metadata's order included; what peft reads of it is unchanged."""
    model = lora(DEFAULTS)
    contents = set()
    for number in range(8):
        folder = tmp_path / f"{number}"
        save_adapter(
            model,
            folder,
            config=DEFAULTS,
            base_model="",
            base_fingerprint="0123abcd",
            kept=Kept(KINDS["fp4, double"]),
        )
        contents.add((folder / "adapter_model.safetensors").read_bytes())
    assert len(contents) == 1
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "base_fingerprint": "0123abcd",
            "base_quantization": '{"bits": 4, "quant_type": "fp4", "use_double_quant": true}',
        }
    assert read_header(folder).base == "0123abcd"
    assert load_peft_weights(str(folder)).keys() == read_header(folder).shapes.keys()
    load_adapter_weights(lora(DEFAULTS, trained=False), DEFAULTS, folder)
