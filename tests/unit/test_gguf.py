"""GGUF files: what they hold arrives as a Hugging Face checkpoint would."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from llama_recipes.errors import CheckpointError
from llama_recipes.gguf_metadata import read_gguf_header
from llama_recipes.model.config import RopeConfig
from llama_recipes.model.gguf_file import TENSOR_TYPES
from llama_recipes.model.llama import Llama
from llama_recipes.model.source import SMOLLM2, open_model
from llama_recipes.model.weights import load_weights
from support.tiny import tiny_llama
from support.tiny_gguf import write_gguf

SIZES = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 1}


def loaded(path: Path) -> Llama:
    source = open_model(str(path))
    with torch.device("meta"):
        model = Llama(source.config)
    load_weights(model, source.tensors, device=torch.device("cpu"))
    return model


@pytest.mark.parametrize("kind", TENSOR_TYPES)
def test_every_type_arrives_in_hugging_faces_order(kind, tmp_path):
    path = tmp_path / "model.gguf"
    written = write_gguf(path, tiny_llama(**SIZES), kind=kind)
    tensors = open_model(str(path)).tensors
    assert dict(tensors.shapes) == {key: values.shape for key, values in written.items()}
    for key, values in written.items():
        assert np.array_equal(tensors.read(key).numpy(), values), key


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 16, "num_key_value_heads": 1},
        {"rope": RopeConfig(theta=500_000.0), "rms_norm_eps": 1e-5},
        {"rope": RopeConfig(scaling={"rope_type": "linear", "factor": 4.0})},
    ],
    ids=str,
)
def test_config_and_weights_survive_the_way_through_gguf(changes, tmp_path):
    model = tiny_llama(**changes)
    scaling = model.config.rope.scaling
    metadata = {}
    if scaling:
        metadata = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    write_gguf(tmp_path / "model.gguf", model, metadata=metadata)
    again = loaded(tmp_path / "model.gguf")
    assert again.config == model.config
    for (name, ours), theirs in zip(again.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("key", ["model.layers.0.self_attn.q_proj.weight", "model.norm.weight"])
def test_rows_are_those_of_the_whole_tensor(key, tmp_path):
    write_gguf(tmp_path / "model.gguf", tiny_llama(**SIZES), kind="Q8_0")
    tensors = open_model(str(tmp_path / "model.gguf")).tensors
    whole = tensors.read(key)
    for start, stop in [(0, 1), (3, 70), (63, 65), (130, 256), (250, 1000)]:
        assert torch.equal(tensors.read(key, start, stop), whole[start:stop])


def llama3_factors(theta: float, head_dim: int, factor: float, original: int) -> np.ndarray:
    """As llama.cpp's converter writes them."""
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < original / 4:
            factors.append(1.0)
        elif wavelength > original:
            factors.append(factor)
        else:
            smooth = (original / wavelength - 1) / 3
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def test_llama3_scaling_is_recovered_from_its_factors(tmp_path):
    model = tiny_llama(head_dim=64, rope=RopeConfig(theta=500_000.0))
    factors = llama3_factors(500_000.0, 64, factor=32.0, original=8192)
    write_gguf(tmp_path / "model.gguf", model, tensors={"rope_freqs.weight": factors})
    assert loaded(tmp_path / "model.gguf").config.rope.scaling == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_other_rope_factors_are_refused(tmp_path):
    model = tiny_llama(head_dim=64, rope=RopeConfig(theta=500_000.0))
    factors = llama3_factors(500_000.0, 64, factor=32.0, original=4096)
    write_gguf(tmp_path / "model.gguf", model, tensors={"rope_freqs.weight": factors})
    with pytest.raises(CheckpointError, match="not those of Llama 3's scaling"):
        open_model(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.block_count": None}, "no positive number for llama.block_count"),
        ({"llama.expert_count": 8}, "llama.expert_count = 8 is not supported"),
        ({"llama.rope.scaling.type": "yarn"}, "rope scaling 'yarn' is not supported"),
        ({"llama.rope.dimension_count": 4}, "only heads that rotate whole"),
        ({"split.count": 3}, "one of 3 parts"),
    ],
)
def test_what_is_not_a_plain_llama_is_refused(metadata, message, tmp_path):
    write_gguf(tmp_path / "model.gguf", tiny_llama(), metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        open_model(str(tmp_path / "model.gguf"))


def test_all_problems_come_at_once(tmp_path):
    metadata = {"llama.block_count": None, "llama.expert_count": 8, "split.count": 2}
    write_gguf(tmp_path / "model.gguf", tiny_llama(**SIZES), kind="Q5_0", metadata=metadata)
    with pytest.raises(CheckpointError) as caught:
        open_model(str(tmp_path / "model.gguf"))
    assert len(caught.value.problems) == 4
    assert f"type Q5_0; known types: {', '.join(TENSOR_TYPES)}" in str(caught.value)


def test_another_architecture_is_refused_by_name(tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, tiny_llama())
    path.write_bytes(path.read_bytes().replace(b"llama", b"mamba", 1))
    with pytest.raises(CheckpointError, match="'mamba'; those known in GGUF files are: llama"):
        open_model(str(path))


def test_a_damaged_file_is_named_and_never_hangs(tmp_path):
    path = tmp_path / "model.gguf"
    metadata = {"tokenizer.ggml.tokens": ["a", "b", "c"], "tokenizer.ggml.scores": [0.0, 1.0]}
    write_gguf(path, tiny_llama(num_hidden_layers=1), metadata=metadata)
    content = path.read_bytes()
    header = content.index(b"blk.0.mlp") if b"blk.0.mlp" in content else 2000
    for length in [0, 3, *range(4, header, 37), len(content) // 2, len(content) - 64]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"model\.gguf is not a readable GGUF file"):
            open_model(str(path))


def test_flipped_bytes_give_a_model_or_an_error_of_ours(tmp_path):
    path = tmp_path / "model.gguf"
    metadata = {"tokenizer.ggml.tokens": ["a", "b", "c"], "tokenizer.ggml.scores": [0.0, 1.0]}
    write_gguf(path, tiny_llama(num_hidden_layers=1), metadata=metadata)
    content = path.read_bytes()
    for position in range(0, 2000, 5):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            open_model(str(path))
        except CheckpointError as error:
            assert all(str(path) in problem for problem in error.problems)


def real_model() -> Path:
    try:
        return open_model(SMOLLM2).path
    except CheckpointError as error:
        pytest.skip(str(error))


@pytest.mark.real_model
def test_metadata_is_what_the_library_reads():
    path = real_model()
    reader = GGUFReader(path)
    header = read_gguf_header(path)
    assert header.metadata == {name: field.contents() for name, field in reader.fields.items()}
    assert len(header.tensors) == len(reader.tensors)


@pytest.mark.real_model
def test_the_real_model_is_what_transformers_reads():
    from transformers import AutoModelForCausalLM

    path = real_model()
    ours = loaded(path)
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, expected.pop(name)), name
    assert not expected
    config = ours.config
    for name in ("vocab_size", "num_key_value_heads", "head_dim", "max_position_embeddings"):
        assert getattr(config, name) == getattr(theirs.config, name)
    assert config.rope.theta == theirs.config.rope_parameters["rope_theta"]
