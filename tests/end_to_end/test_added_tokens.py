"""A tokenizer with tokens that the model does not know: rows are added, trained and saved."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_recipes.cli.main import main
from support.tiny_folder import VOCABULARY, byte_tokenizer, jsonl, tiny_folder

TOOL = "<|tool|>"
NEW = VOCABULARY
"""The id of that token."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The model's own and two tokens more, one of which the data has."""
    folder = tmp_path_factory.mktemp("tokenizer")
    larger = byte_tokenizer()
    larger.add_tokens([TOOL, "<|unused|>"], special_tokens=True)
    larger.save_pretrained(folder)
    return folder


@pytest.fixture
def train(model, tokenizer, tmp_path, capsys):
    rows = [{"prompt": f"{i} times two", "completion": f"{TOOL}{2 * i}"} for i in range(8)]
    data = jsonl(tmp_path / "train.jsonl", rows)

    def train(*flags: str, code: int = 0, to: str = "result") -> str:
        usual = (
            *(f"--model_name={model}", f"--output_dir={tmp_path / to}", "--lr=1e-2"),
            *("--dataset=file_dataset", f"--train_file={data}", "--context_length=64"),
            *("--num_epochs=1", "--no_mixed_precision", f"--tokenizer_name={tokenizer}"),
        )
        last = {flag.partition("=")[0]: flag for flag in (*usual, *flags)}
        assert main(["train", *(flag for flag in last.values() if not flag.endswith("="))]) == code
        output = capsys.readouterr()
        return output.err if code else output.out

    return train


def embedding(folder) -> torch.Tensor:
    return load_file(folder / "model.safetensors")["model.embed_tokens.weight"]


def test_trained_whole(train, model, tmp_path):
    out = train()
    assert f"The vocabulary grows from {VOCABULARY} to {VOCABULARY + 2} tokens" in out
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "result")
    assert theirs.get_input_embeddings().weight.shape[0] == theirs.config.vocab_size == NEW + 2
    assert AutoTokenizer.from_pretrained(tmp_path / "result").convert_tokens_to_ids(TOOL) == NEW
    start = embedding(model).double().mean(0).float()
    new, unused = embedding(tmp_path / "result")[-2:]
    assert not torch.allclose(new, start, atol=1e-3)
    assert torch.equal(unused, start), "a token that no document has gets no gradient"


def test_an_adapter_that_goes_on_answers_and_is_merged(train, model, tmp_path, capsys):
    out = train("--use_peft", "--lora_dropout=0")
    assert "The embedding and the head are trained whole beside the adapter" in out
    result = tmp_path / "result"
    config = json.loads((result / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["embed_tokens", "lm_head"]
    first = load_file(result / "adapter_model.safetensors")
    key = "base_model.model.model.embed_tokens.weight"
    assert first[key].shape[0] == NEW + 2

    # Its own tokenizer is found with it.
    out = train("--use_peft", f"--from_peft_checkpoint={result}", "--tokenizer_name=", to="further")
    again = load_file(tmp_path / "further" / "adapter_model.safetensors")
    assert again.keys() == first.keys()
    assert not torch.equal(again[key][NEW], first[key][NEW])

    assert main(["chat", str(result), "--prompt", "3 times two", "--max_new_tokens", "3"]) == 0
    merged = tmp_path / "merged"
    assert main(["merge", str(result), "--output_dir", str(merged)]) == 0
    assert "6 of 6 answers" in capsys.readouterr().out
    assert torch.equal(embedding(merged), first[key])
    assert AutoModelForCausalLM.from_pretrained(merged).config.vocab_size == NEW + 2


def test_on_a_quantised_base(train, tmp_path):
    train("--use_peft", "--quantization=8bit")
    tensors = load_file(tmp_path / "result" / "adapter_model.safetensors")
    assert tensors["base_model.model.lm_head.weight"].shape[0] == NEW + 2


def test_a_user_who_says_what_is_trained_is_heard(train, tmp_path):
    out = train("--use_peft", "--lora_config.modules_to_save=lm_head")
    assert "trained whole beside" not in out
    tensors = load_file(tmp_path / "result" / "adapter_model.safetensors")
    assert "base_model.model.lm_head.weight" in tensors
    assert "base_model.model.model.embed_tokens.weight" not in tensors


def test_new_rows_that_nothing_would_save_are_refused(train, tmp_path):
    err = train("--use_peft", "--lora_config.modules_to_save=[]", code=2)
    assert "--lora_config.modules_to_save has no place for them" in err
    train("--use_peft", "--tokenizer_name=", to="first")
    first = tmp_path / "first"
    err = train("--use_peft", f"--from_peft_checkpoint={first}", code=2)
    assert f"{first} has no place for them: they would be lost with the run" in err


@pytest.mark.parametrize("method", ["llama_adapter", "prefix"])
def test_adapters_without_a_place_for_it(train, method, tmp_path):
    err = train("--use_peft", f"--peft_method={method}", code=2)
    assert "has tokens that the model does not know" in err
    assert f"--peft_method {method} cannot train them" in err
    assert not (tmp_path / "result").exists()


def test_frozen_rows_are_named(train):
    out = train("--freeze_layers", "--num_freeze_layers=1")
    assert "--freeze_layers freezes the embedding: its new rows stay as they start." in out


def test_an_adapter_and_a_tokenizer_that_do_not_go_together(train, tmp_path):
    train("--use_peft")
    larger = byte_tokenizer()
    larger.add_tokens([f"<|{n}|>" for n in range(5)], special_tokens=True)
    larger.save_pretrained(tmp_path / "larger")
    err = train(
        *("--use_peft", f"--from_peft_checkpoint={tmp_path / 'result'}"),
        f"--tokenizer_name={tmp_path / 'larger'}",
        code=4,
        to="further",
    )
    assert f"has rows for {NEW + 2} tokens, and the tokenizer has {NEW + 5}" in err


def test_an_adapter_goes_on_with_its_own_base_only(train, tmp_path):
    train("--use_peft")
    other = tiny_folder(tmp_path / "other", seed=5)
    err = train(
        *("--use_peft", f"--from_peft_checkpoint={tmp_path / 'result'}", f"--model_name={other}"),
        code=4,
        to="further",
    )
    assert f"was trained on other weights than those of {other}" in err
