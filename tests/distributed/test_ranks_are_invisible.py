"""Invariant 8: two processes make the run of one, whatever is done beside the training.

What is trained, in which precision and how it is shared: test_combinations.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from llama_recipes.finetuning import main
from support.ranks import run_jobs
from support.side_by_side import FP32, check_same, flags_of_size, make_inputs, metrics

LORA = ("--use_peft", "--lora_config.lora_dropout=0")


@dataclass(frozen=True)
class Job:
    """flags: of the run on one process too; sharded: of that on two alone."""

    name: str
    flags: tuple[str, ...]
    sharded: tuple[str, ...] = ()

    def flags_of_size(self, size: int, inputs: Path, output: Path) -> list[str]:
        flags = ["--num_epochs=2", "--no_mixed_precision"]
        flags += [flag.replace("OUTPUT", str(output)) for flag in self.flags]
        return flags_of_size(size, inputs, output, flags, self.sharded)


JOBS = (
    Job("full", ()),
    Job("full, padding", ("--batching_strategy=padding",)),
    Job("full, clipped", ("--gradient_clipping", "--gradient_clipping_threshold=0.5")),
    Job("full, whole checkpoints", (), ("--checkpoint_type=FULL_STATE_DICT",)),
    Job("full, read by one", (), ("--low_cpu_fsdp",)),
    Job("full, part of the evaluation", ("--max_eval_step=1",)),
    Job("full, counted", ("--flop_counter", "--flop_counter_start=1")),
    Job("lora, profiled", (*LORA, "--use_profiler", "--profiler_dir=OUTPUT-trace")),
    Job(
        "lora on 4 bits, read by one",
        (*LORA, "--quantization=4bit", "--use_double_quant"),
        ("--low_cpu_fsdp",),
    ),
)
NAMES = [job.name for job in JOBS]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def ran(inputs, tmp_path_factory):
    """Where each job's results are: of two processes, by name."""
    folder = tmp_path_factory.mktemp("ranks")
    flags = [job.flags_of_size(2, inputs, folder / job.name) for job in JOBS]
    run_jobs(folder / "logs", flags, size=2, timeout=600)
    return folder


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    """Results of one process, each made once."""
    folder = tmp_path_factory.mktemp("alone")
    made: dict[tuple[str, ...], Path] = {}

    def run(job: Job) -> Path:
        if job.flags not in made:
            output = folder / job.name
            assert main(job.flags_of_size(1, inputs, output)) == 0
            made[job.flags] = output
        return made[job.flags]

    return run


@pytest.mark.parametrize("job", JOBS, ids=NAMES)
def test_losses_norms_and_weights_are_those_of_one_process(job, ran, alone):
    check_same(ran / job.name, alone(job), FP32)


def test_one_process_writes_and_speaks(ran):
    logs = sorted((ran / "logs").glob("0-*.log"))
    texts = [log.read_text() for log in logs]
    assert "Training is over" in texts[0]
    assert texts[1] == ""


def test_full_fine_tuning_puts_its_checkpoints_where_the_original_did(ran):
    name = "full"
    steps = sorted(p.name for p in (ran / f"{name}-sharded" / "fine-tuned-model").iterdir())
    assert steps[-1].startswith("step-")
    assert not (ran / name / "checkpoints").exists()
    newest = ran / f"{name}-sharded" / "fine-tuned-model" / steps[-1]
    assert {path.name for path in newest.glob("weights*")} == {
        "weights-00001-of-00002.safetensors",
        "weights-00002-of-00002.safetensors",
    }
    whole = ran / "full, whole checkpoints-sharded" / "fine-tuned-model" / steps[-1]
    assert [path.name for path in whole.glob("weights*")] == ["weights.safetensors"]


def test_what_all_processes_compute_is_counted_together(ran, alone):
    """As one that recomputes nothing and waits for nobody counts it; the rates are per device."""
    job = next(job for job in JOBS if job.name == "full, counted")
    both, one = (
        json.loads((folder / "results.json").read_text()) for folder in (ran / job.name, alone(job))
    )
    counts = [results["flop_counter"] for results in (both, one)]
    assert [count["step"] for count in counts] == [2, 2]
    assert [count["devices"] for count in counts] == [2, 1]
    assert counts[0]["model_tflop"] == counts[1]["model_tflop"] > 0
    assert counts[0]["recomputed_tflop"] > counts[1]["recomputed_tflop"] == 0
    lines = [line for line in metrics(ran / job.name) if "loss" in line]
    before = {line["step"]: line["tokens"] for line in lines}
    timed = [line for line in lines if line["step"] in counts[0]["timed_steps"]]
    tokens = sum(line["tokens"] - before[line["step"] - 1] for line in timed)
    rate = tokens / sum(line["step_seconds"] for line in timed) / 2
    assert counts[0]["tokens_per_second_per_device"] == pytest.approx(rate)
    flops_a_token = counts[0]["model_tflop"] / counts[0]["tokens"]
    assert both["model_tflops"] == pytest.approx(flops_a_token * rate)


def test_every_process_leaves_a_trace_and_one_a_table(ran):
    traces = sorted(path.name.split(".")[0] for path in (ran / "lora, profiled-trace").iterdir())
    assert traces == ["rank0", "rank1"]
    number = NAMES.index("lora, profiled")
    assert "aten::mm" in (ran / "logs" / f"{number}-0.log").read_text()


def test_the_bound_is_one(ran):
    """Other rows in the steps give other losses."""
    first, second = metrics(ran / "full"), metrics(ran / "full, padding")
    assert any(
        abs(a["loss"] - b["loss"]) > 1e-3
        for a, b in zip(first, second, strict=False)
        if "loss" in a and "loss" in b
    )
    assert torch.isfinite(torch.tensor([line["loss"] for line in first if "loss" in line])).all()
