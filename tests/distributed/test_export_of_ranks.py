"""What a sharded run leaves becomes a model: the very one that the run writes where it may."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_recipes.cli.main import main
from llama_recipes.inference.load import find
from support.ranks import run_jobs
from support.tiny_folder import jsonl, sums, tiny_folder

ROOT = "fine-tuned-model"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same run twice on two processes: without --output_dir, and with it; a LoRA as well."""
    folder = tmp_path_factory.mktemp("runs")
    model, rows = tiny_folder(folder / "model"), jsonl(folder / "train.jsonl", sums(9))
    usual = [
        *("--enable_fsdp", f"--model_name={model}", "--dataset=file_dataset"),
        *(f"--train_file={rows}", "--no_run_validation", "--context_length=64", "--lr=1e-2"),
        *("--batch_size_training=1", "--max_train_step=2", "--checkpoint_every=1"),
        "--no_mixed_precision",
    ]
    jobs = [
        [*usual, f"--dist_checkpoint_root_folder={folder / 'alone'}"],
        [
            *usual,
            *(f"--dist_checkpoint_root_folder={folder / 'beside'}", f"--output_dir={folder}/out"),
        ],
        [*usual, "--use_peft", f"--output_dir={folder / 'adapter'}"],
    ]
    run_jobs(folder / "logs", jobs, size=2)
    return folder


def test_transformers_computes_what_was_trained(made, capsys):
    root = made / "alone" / ROOT
    parts = sorted(path.name for path in (root / "step-00000002").glob("weights*"))
    assert parts == [f"weights-0000{rank}-of-00002.safetensors" for rank in (1, 2)]
    assert main(["export", str(root), "--output", str(made / "exported")]) == 0
    said = capsys.readouterr().out
    assert "Taking step-00000002, the newest checkpoint" in said
    assert "weights    21 tensors" in said
    exported, trained = (
        AutoModelForCausalLM.from_pretrained(made / name) for name in ("exported", "out")
    )
    ids = torch.arange(40)[None]
    assert torch.equal(exported(ids).logits, trained(ids).logits)
    base = AutoModelForCausalLM.from_pretrained(made / "model")
    assert not torch.allclose(base(ids).logits, trained(ids).logits, atol=1e-2)
    assert AutoTokenizer.from_pretrained(made / "exported").chat_template
    for name in "config.json", "generation_config.json":
        one, other = (
            json.loads((made / place / name).read_text()) for place in ("exported", "out")
        )
        assert one == other


def test_an_adapter_s_parts(made):
    found = find(str(made / "adapter" / "checkpoints"))
    assert len(list(found.adapter.path.glob("weights-*"))) == 2
    assert main(["merge", found.name, "--output_dir", str(made / "merged"), "--no_compare"]) == 0
    flags = ["--output_dir", str(made / "expected"), "--no_compare"]
    assert main(["merge", str(made / "adapter"), *flags]) == 0
    one, other = (
        AutoModelForCausalLM.from_pretrained(made / name).state_dict()
        for name in ("merged", "expected")
    )
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_a_run_without_output_dir_says_where_its_weights_are_and_what_makes_a_model(made):
    said = (made / "logs" / "0-0.log").read_text()
    root = made / "alone" / ROOT
    assert f"--output_dir is not given: the weights are in checkpoints in {root}" in said
    (line,) = [line for line in said.splitlines() if "To make a model of them: " in line]
    assert line.startswith(f"The weights are in {root / 'step-00000002'}.")
    words = line.rpartition(": ")[2].split()
    assert words[:2] == ["llama-recipes", "export"]
    assert "To make a model" not in (made / "logs" / "1-0.log").read_text()
    assert "To make a model" not in (made / "logs" / "0-1.log").read_text()


def test_that_command_makes_it(made, tmp_path, monkeypatch):
    said = (made / "logs" / "0-0.log").read_text()
    words = said.partition("To make a model of them: llama-recipes ")[2].splitlines()[0].split()
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--no_compare"]) == 0
    assert (tmp_path / "my-model" / "model.safetensors").is_file()
