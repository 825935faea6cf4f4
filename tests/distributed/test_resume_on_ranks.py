"""Invariant 7 on several processes: bit for bit on as many, within rounding on more or fewer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama_recipes.finetuning import main
from support.ranks import run_jobs
from support.tiny_folder import jsonl, sums, tiny_folder

TIMES = ("step_seconds", "tokens_per_second", "peak_memory_gib")
DROPOUT = ("--use_peft", "--lora_config.lora_dropout=0.3")
KINDS = {
    "lora with dropout": DROPOUT,
    "full": (),
    "full, whole checkpoints": ("--checkpoint_type=FULL_STATE_DICT",),
    "full, anyprecision": ("--fsdp_config.optimizer=anyprecision",),
    "lora, NO_SHARD": (*DROPOUT, "--sharding_strategy=NO_SHARD"),
}
STOPPED = {"micro_batch": 3}
"""In this micro-batch of a rank, the first of two of its second step."""

_TWO_EVALUATED = ("--batching_strategy=padding", "--max_train_step=6")
IN_AN_EVALUATION = {
    "full, in an evaluation": _TWO_EVALUATED,
    "full, SHARD_GRAD_OP, in an evaluation": (*_TWO_EVALUATED, "--sharding_strategy=SHARD_GRAD_OP"),
}
EVALUATING = {"evaluated": 3}
"""In this batch that a rank evaluates, the first of two of the second evaluation: the next one is
where the signal is heeded, with gathered weights."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    tiny_folder(folder / "model")
    jsonl(folder / "train.jsonl", sums(37))
    jsonl(folder / "validation.jsonl", sums(41)[37:])
    return folder


def flags_for(inputs: Path, output: Path, *extra: str, size: int) -> list[str]:
    flags = [
        *(f"--model_name={inputs / 'model'}", "--dataset=file_dataset", "--num_epochs=2"),
        f"--train_file={inputs / 'train.jsonl'}",
        f"--validation_file={inputs / 'validation.jsonl'}",
        *("--context_length=64", "--batch_size_training=1", "--lr=1e-2", "--no_mixed_precision"),
        *(f"--gradient_accumulation_steps={4 // size}", f"--output_dir={output}", "--eval_every=2"),
        *extra,
    ]
    sharded = f"--dist_checkpoint_root_folder={output}-sharded"
    return [*flags, "--enable_fsdp", sharded] if size > 1 else flags


@pytest.fixture(scope="module")
def two(inputs, tmp_path_factory):
    """Every kind on two ranks: uninterrupted, and stopped by a signal to the second and resumed."""
    folder = tmp_path_factory.mktemp("two")
    jobs: list[list[str] | dict] = []
    for name, extra in (KINDS | IN_AN_EVALUATION).items():
        jobs.append(flags_for(inputs, folder / name, *extra, size=2))
        stopped = flags_for(inputs, folder / f"{name}, stopped", *extra, "--resume=auto", size=2)
        place = EVALUATING if name in IN_AN_EVALUATION else STOPPED
        signalled = {"rank": 1, "name": "SIGTERM", **place}
        jobs += [{"flags": stopped, "code": 75, "signal": signalled}, stopped]
    run_jobs(folder / "logs", jobs, size=2)
    return folder


def content(folder: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    files = folder.glob("*.safetensors")
    return metrics, {key: value for path in files for key, value in load_file(path).items()}


@pytest.mark.parametrize("kind", [*KINDS, *IN_AN_EVALUATION])
def test_as_many_processes_go_on_bit_for_bit(kind, two):
    metrics, weights = content(two / kind)
    again, resumed = content(two / f"{kind}, stopped")
    assert again == metrics
    assert resumed.keys() == weights.keys() != set()
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


def test_a_signal_to_one_process_stops_all_and_one_says_so(two):
    texts = [(two / "logs" / f"1-{rank}.log").read_text() for rank in range(2)]
    assert sum("Stopped by SIGTERM after step 1, which is saved in" in text for text in texts) == 1
    assert "Going on after step 1, from" in (two / "logs" / "2-0.log").read_text()


@pytest.mark.faults
def test_two_hosts_of_two_go_on_bit_for_bit(inputs, tmp_path):
    extra = ("--sharding_strategy=HYBRID_SHARD",)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    signalled = {"rank": 3, "name": "SIGTERM", "micro_batch": 2}
    flags = flags_for(inputs, stopped, *extra, "--resume=auto", size=4)
    jobs = [
        flags_for(inputs, whole, *extra, size=4),
        {"flags": flags, "code": 75, "signal": signalled},
        flags,
    ]
    run_jobs(tmp_path / "logs", jobs, size=4, hosts=2, timeout=600)
    (metrics, weights), (again, resumed) = content(whole), content(stopped)
    assert again == metrics
    assert resumed.keys() == weights.keys() != set()
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


def checkpoint_of(inputs: Path, folder: Path, size: int, *extra: str) -> Path:
    """Of a run on `size` processes that ends after two of its steps."""
    flags = flags_for(inputs, folder / "first", *extra, "--max_train_step=2", size=size)
    if size == 1:
        assert main(flags) == 0
        return folder / "first" / "checkpoints" / "step-00000002"
    run_jobs(folder / "logs-first", [flags], size=size)
    root = folder / "first-sharded" / "fine-tuned-model"
    return (root if root.is_dir() else folder / "first" / "checkpoints") / "step-00000002"


FOUR = [pytest.param(*sizes, marks=pytest.mark.faults) for sizes in ((2, 4), (4, 1))]
"""Four processes take a minute to start on two cores: with the long proofs."""


@pytest.mark.parametrize(("saved_by", "read_by"), [(1, 2), (2, 1), *FOUR])
def test_a_checkpoint_moves_between_numbers_of_processes(saved_by, read_by, inputs, tmp_path):
    checkpoint = checkpoint_of(inputs, tmp_path, saved_by)
    assert len(list(checkpoint.glob("weights*"))) == saved_by
    expected = tmp_path / "expected"
    assert main(flags_for(inputs, expected, f"--resume={checkpoint}", size=1)) == 0
    if read_by == 1:
        found = expected
        whole = tmp_path / "uninterrupted"
        assert main(flags_for(inputs, whole, size=1)) == 0
        expected = whole
    else:
        found = tmp_path / "moved"
        flags = flags_for(inputs, found, f"--resume={checkpoint}", size=read_by)
        run_jobs(tmp_path / "logs-moved", [flags], size=read_by)
    (metrics, weights), (others, theirs) = content(found), content(expected)
    losses, wanted = (
        {line["step"]: line["loss"] for line in lines if "loss" in line and line["step"] > 2}
        for lines in (metrics, others)
    )
    assert losses.keys() == wanted.keys() != set()
    assert all(losses[step] == pytest.approx(wanted[step], rel=5e-6) for step in losses)
    assert weights.keys() == theirs.keys() != set()
    assert all((weights[key] - theirs[key]).abs().max() < 5e-5 for key in weights)


def test_another_batch_is_drift_however_it_is_shared(inputs, tmp_path, capsys):
    checkpoint = checkpoint_of(inputs, tmp_path, 2)
    flags = flags_for(inputs, tmp_path / "other", f"--resume={checkpoint}", size=1)
    flags.remove("--gradient_accumulation_steps=4")
    assert main([*flags, "--gradient_accumulation_steps=2"]) == 2
    assert "--gradient_accumulation_steps × processes is 2, and was 4 in" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
