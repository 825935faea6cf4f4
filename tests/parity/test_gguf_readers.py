"""What is written as GGUF, read by others: llama.cpp, and transformers where that is missing."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from llama_recipes.inference.load import load_for_inference
from llama_recipes.model.attention import DocumentAttention
from llama_recipes.model.config import RopeConfig
from support.exported import save_base, save_trained_adapter, written
from support.llama_cpp import answered, needs_llama_cpp
from support.real import MODEL, needs_model

CPU = torch.device("cpu")
TOKENS = 12
TEXTS = ["Hello world, it's 1999.", "def f(x):\n    return x**2", "naïve café  ½ 你好", "a"]
SHAPES = {
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True},
    "linear rope": {"rope": RopeConfig(scaling={"rope_type": "linear", "factor": 2.0})},
    "llama-3 rope of other parameters": {
        "rope": RopeConfig(
            theta=5e5,
            scaling={
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 2.0,
                "high_freq_factor": 8.0,
                "original_max_position_embeddings": 16,
            },
        )
    },
    "llama-3 rope": {
        "rope": RopeConfig(
            theta=5e5,
            scaling={
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        )
    },
}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return save_trained_adapter(folder / "adapter", save_base(folder / "base"))


@torch.no_grad()
def logits_of(model, ids):
    ids = torch.tensor(ids)
    return model.logits(model(ids, torch.arange(len(ids)), DocumentAttention([len(ids)])))


def check(path, name, texts, *, tokens=TOKENS, room=0.0):
    """llama.cpp gives the ids that the model called `name` has here, and likeliest answers.

    room: how far below the likeliest, in deviations of the logits, a token may be: llama.cpp rounds
    activations as well where weights are not float32.
    """
    loaded = load_for_inference(str(name), device=CPU, dtype=torch.float32)
    prompts = loaded.tokenizer.encode_batch(texts)
    theirs = answered(path, texts, tokens=tokens)
    assert [each["prompt"] for each in theirs["answers"]] == prompts
    for prompt, each in zip(prompts, theirs["answers"], strict=True):
        answer = each["answer"]
        logits = logits_of(loaded.model, prompt + answer)[len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(answer)[:, None]).squeeze(1)
        assert ((logits.amax(1) - chosen) / logits.std(1)).max() <= room
    return theirs


@needs_llama_cpp
@pytest.mark.parametrize("encoding", ["F32", "F16", "BF16", "Q8_0"])
def test_llama_cpp_reads_a_merged_adapter(adapter, encoding, tmp_path):
    path = written(adapter, tmp_path / "model.gguf", encoding)
    # Against the file itself where it is rounded: which answers that changes is not the point.
    is_exact = encoding == "F32"
    theirs = check(path, adapter if is_exact else path, TEXTS, room=0.0 if is_exact else 0.05)
    assert (theirs["bos"], theirs["eos"]) == (0, 1)
    loaded = load_for_inference(str(adapter), device=CPU, dtype=torch.float32)
    assert theirs["template"] == loaded.tokenizer.chat_template


@needs_llama_cpp
@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_reads_models_of_every_shape(shape, tmp_path):
    base = save_base(tmp_path / "base", **SHAPES[shape])
    check(written(base, tmp_path / "model.gguf"), base, TEXTS)


@needs_llama_cpp
@needs_model
@pytest.mark.real_model
def test_llama_cpp_reads_the_real_model(tmp_path):
    path = written(MODEL, tmp_path / "model.gguf", "F16")
    check(path, path, ["The capital of France is", "In 1999, ½ of 12 + 30 ="], tokens=6, room=0.05)


@pytest.mark.parametrize("encoding", ["F32", "F16", "BF16", "Q8_0"])
def test_transformers_reads_a_merged_adapter(adapter, encoding, tmp_path):
    """An oracle for shapes, names and the order of rows that needs nothing installed."""
    path = written(adapter, tmp_path / "model.gguf", encoding)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32
    )
    ids = list(range(3, 90))
    expected = logits_of(load_for_inference(str(path), device=CPU, dtype=torch.float32).model, ids)
    found = theirs(torch.tensor([ids])).logits[0]
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
