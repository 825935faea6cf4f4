"""Invariant 9: exports are the model, for every way to train, after a reload in a fresh process.

`export` compares by itself, and ends with 4 where logits, greedy text, weights, tokenizer or
template differ; tests/unit/test_compare.py shows that planted faults do not pass.
"""

from __future__ import annotations

import json
import re

import pytest

from llama_recipes.cli.main import main
from support.exported import save_base
from support.tiny_folder import jsonl, sums

WAYS = {
    "full": "",
    "lora": "--use_peft --lora_config.target_modules=all-linear",
    "lora, rslora, rank 3": "--use_peft --lora_config.use_rslora --lora_config.r=3",
    "qlora": "--use_peft --quantization=4bit --quantization_config.use_double_quant=True",
    "lora on 8 bits": "--use_peft --quantization=8bit",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return save_base(folder / "model"), jsonl(folder / "train.jsonl", sums(12))


@pytest.fixture(scope="module", params=WAYS)
def way(request):
    return request.param


@pytest.fixture(scope="module")
def result(way, inputs, tmp_path_factory):
    model, data = inputs
    folder = tmp_path_factory.mktemp("trained") / "result"
    flags = [f"--model_name={model}", f"--output_dir={folder}", "--dataset=file_dataset"]
    flags += [f"--train_file={data}", "--context_length=128", "--lr=1e-2", "--num_epochs=2"]
    assert main(["train", *flags, *WAYS[way].split()]) == 0
    return folder


@pytest.mark.parametrize("target", ["model.gguf", "model"])
def test_what_was_trained_is_what_is_exported(way, target, result, tmp_path, capsys):
    exported = tmp_path / target
    assert main(["export", str(result), f"--output={exported}", "--dtype=F32"]) == 0
    said = capsys.readouterr().out
    assert exported.exists()
    deviation = float(re.search(r"apart by (\S+) of their spread", said)[1])
    assert deviation <= 1e-5
    assert "6 of 6 answers are the same text" in said
    assert ("with the values that the adapter was trained on" in said) == ("quant" in WAYS[way])
    assert json.loads((result / "results.json").read_text())["stop_reason"]
