"""Invariant 7: resuming changes nothing.

A run is stopped between any two micro-batches, in training or in evaluation, again and again, and
goes on each time in a new start of the program. Oracle: the run that nobody stopped.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama_recipes.finetuning import main
from llama_recipes.training.interruption import Interruption, StopRequested
from support.tiny_folder import jsonl, sums, tiny_folder

TIMES = ("step_seconds", "tokens_per_second", "peak_memory_gib")
WAYS = {
    "lora, dropout": "--use_peft --lora_dropout=0.3 --lora_config.target_modules=all-linear",
    "lora, packed, cosine": "--use_peft --lr_scheduler=cosine --warmup_steps=3"
    " --batching_strategy=packing --context_length=64",
    "full, accumulated": "--gradient_accumulation_steps=3 --weight_decay=0.1",
    "full, frozen": "--freeze_layers --num_freeze_layers=1",
    "full, anyprecision": "--fsdp_config.optimizer=anyprecision --fsdp_config.pure_bf16"
    " --fsdp_config.use_kahan_summation",
    "prefix, fp16": "--use_peft --peft_method=prefix --use_fp16 --gradient_clipping",
    "qlora, more evaluations": "--use_peft --quantization=8bit --init_lora_weights=qera"
    " --eval_every=2 --lora_dropout=0.2",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    rows = sums(26)
    return (
        f"--model_name={tiny_folder(folder / 'model')} --dataset=file_dataset"
        f" --train_file={jsonl(folder / 'train.jsonl', rows[:20])}"
        f" --validation_file={jsonl(folder / 'validation.jsonl', rows[20:])}"
        " --batching_strategy=padding --batch_size_training=3 --context_length=128 --num_epochs=3"
        " --lr=1e-2 --checkpoint_every=2 --keep_checkpoints=3"
    )


def run(inputs: str, way: str, folder: Path, *flags: str) -> int:
    words = [*inputs.split(), *WAYS[way].split(), f"--output_dir={folder}", *flags]
    last = {word.partition("=")[0].removeprefix("--no_").removeprefix("--"): word for word in words}
    return main(list(last.values()))


def stopped_at(monkeypatch, call: int) -> None:
    """The run is asked to stop at the `call`-th place at which it can."""
    left = [call]

    def check(self) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise StopRequested("SIGTERM")

    monkeypatch.setattr(Interruption, "check", check)


def content(folder: Path):
    """Everything that a run leaves, without what a clock says and without its checkpoints."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    weights = {
        str(path.relative_to(folder)): load_file(path)
        for path in sorted(folder.rglob("*.safetensors"))
        if "checkpoints" not in path.parts
    }
    results = json.loads((folder / "results.json").read_text())
    measured = ("avg_epoch_time", "avg_checkpoint_time", "total_time", "memory")
    return metrics, weights, {k: v for k, v in results.items() if k not in measured}


def assert_equal(found, expected) -> None:
    assert found[0] == expected[0]
    assert found[2] == expected[2]
    assert found[1].keys() == expected[1].keys()
    for name, tensors in expected[1].items():
        assert found[1][name].keys() == tensors.keys()
        assert all(torch.equal(found[1][name][key], tensors[key]) for key in tensors), name


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_stopped_again_and_again_ends_as_one_that_is_not(
    way, inputs, tmp_path, monkeypatch
):
    assert run(inputs, way, tmp_path / "whole") == 0
    folder = tmp_path / "stopped"
    codes = []
    for call in (1, 4, 9, 2, 14, 7, 3):
        stopped_at(monkeypatch, call)
        codes.append(run(inputs, way, folder, "--resume=auto"))
        if codes[-1] == 0:
            break
    monkeypatch.undo()
    assert codes.count(75) >= 3
    assert set(codes) <= {0, 75}
    if codes[-1]:
        assert run(inputs, way, folder, "--resume=auto") == 0
    assert_equal(content(folder), content(tmp_path / "whole"))


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """A run that is stopped in evaluations as often as in steps, and is not stopped."""
    folder = tmp_path_factory.mktemp("whole") / "result"
    assert run(inputs, "qlora, more evaluations", folder) == 0
    return content(folder)


@pytest.mark.parametrize("call", range(1, 60, 4))
def test_any_place_is_a_good_one(call, inputs, whole, tmp_path, monkeypatch):
    """Micro-batches of training and of evaluation, one after the other."""
    way = "qlora, more evaluations"
    stopped_at(monkeypatch, call)
    code = run(inputs, way, tmp_path / "stopped")
    monkeypatch.undo()
    if code == 75:
        assert run(inputs, way, tmp_path / "stopped", "--resume=auto") == 0
    assert_equal(content(tmp_path / "stopped"), whole)


def test_more_epochs_go_on_from_the_end(inputs, tmp_path):
    way = "lora, dropout"
    assert run(inputs, way, tmp_path / "whole", "--num_epochs=4") == 0
    assert run(inputs, way, tmp_path / "longer", "--num_epochs=2", "--save_optimizer") == 0
    moments = load_file(tmp_path / "longer" / "optimizer.safetensors")
    assert any(key.endswith("|exp_avg") for key in moments)
    (tmp_path / "longer" / "optimizer.safetensors").unlink()
    assert run(inputs, way, tmp_path / "longer", "--num_epochs=4", "--resume=auto") == 0
    assert_equal(content(tmp_path / "longer"), content(tmp_path / "whole"))


def test_a_run_that_has_ended_has_nothing_left_to_do(inputs, tmp_path):
    way = "lora, dropout"
    assert run(inputs, way, tmp_path / "result") == 0
    before = content(tmp_path / "result")
    assert run(inputs, way, tmp_path / "result", "--resume=auto") == 0
    assert_equal(content(tmp_path / "result"), before)


def test_another_folder_goes_on_from_a_checkpoint_that_is_named(inputs, tmp_path):
    way = "lora, dropout"
    assert run(inputs, way, tmp_path / "whole") == 0
    first = tmp_path / "first"
    assert run(inputs, way, first, "--max_train_step=5") == 0
    step = first / "checkpoints" / "step-00000004"
    assert run(inputs, way, tmp_path / "second", f"--resume={step}") == 0
    found, expected = content(tmp_path / "second"), content(tmp_path / "whole")
    assert found[0] == expected[0]
    for name in "adapter_model.safetensors", "last/adapter_model.safetensors":
        if name in expected[1]:
            assert all(torch.equal(found[1][name][k], v) for k, v in expected[1][name].items())
