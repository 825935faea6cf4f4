"""Invariant 8: one, two or four processes, however they share the model, make the same run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llama_recipes.finetuning import main
from support.quantised import WIDE
from support.ranks import run_jobs
from support.tiny_folder import jsonl, sums, tiny_folder

MICRO_BATCHES = 4
"""Of a step, over all processes."""

LORA = ("--use_peft", "--lora_config.lora_dropout=0")


@dataclass(frozen=True)
class Job:
    """tolerance: of losses and norms, relative to 1; of weights too."""

    name: str
    flags: tuple[str, ...]
    tolerance: float = 2e-6
    size: int = 2
    sharded: tuple[str, ...] = ()

    def flags_of_size(self, size: int, inputs: Path, output: Path) -> list[str]:
        flags = [
            *(f"--model_name={inputs / 'model'}", "--dataset=file_dataset", "--num_epochs=2"),
            f"--train_file={inputs / 'train.jsonl'}",
            f"--validation_file={inputs / 'validation.jsonl'}",
            *("--context_length=64", "--batch_size_training=1", "--lr=1e-2"),
            *(f"--gradient_accumulation_steps={MICRO_BATCHES // size}", f"--output_dir={output}"),
            *(flag.replace("OUTPUT", str(output)) for flag in self.flags),
        ]
        if size > 1:
            flags += ["--enable_fsdp", f"--dist_checkpoint_root_folder={output}-sharded"]
            flags += self.sharded
        elif "--use_fp16" not in flags and "--pure_bf16" not in flags:
            flags += ["--no_mixed_precision"]
        if size > 1 and "--use_fp16" not in flags and "--pure_bf16" not in flags:
            flags += ["--no_mixed_precision"]
        return flags


STRATEGIES = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD")
ROUNDED = 3e-2
"""Sums of numbers in 16 bits in another order."""

JOBS = (
    *(
        Job(f"{name}, {strategy}", flags, sharded=(f"--sharding_strategy={strategy}",))
        for strategy in STRATEGIES
        for name, flags in (("full", ()), ("lora", LORA))
    ),
    Job("full, padding", ("--batching_strategy=padding",)),
    Job("full, clipped", ("--gradient_clipping", "--gradient_clipping_threshold=0.5")),
    Job("full, whole checkpoints", (), sharded=("--checkpoint_type=FULL_STATE_DICT",)),
    Job("full, frozen layers", ("--freeze_layers", "--num_freeze_layers=1")),
    Job("full, nothing recomputed", (), sharded=("--no_fsdp_activation_checkpointing",)),
    Job("full, read by one", (), sharded=("--low_cpu_fsdp",)),
    Job("full, part of the evaluation", ("--max_eval_step=1",)),
    Job("full, counted", ("--flop_counter", "--flop_counter_start=1")),
    Job("lora, profiled", (*LORA, "--use_profiler", "--profiler_dir=OUTPUT-trace")),
    Job("llama_adapter", ("--use_peft", "--peft_method=llama_adapter", "--adapter_layers=2")),
    Job("prefix", ("--use_peft", "--peft_method=prefix")),
    Job("lora on 8 bits", (*LORA, "--quantization=8bit")),
    Job("lora on 4 bits", (*LORA, "--quantization=4bit")),
    Job("lora on 4 bits twice", (*LORA, "--quantization=4bit", "--use_double_quant")),
    Job(
        "lora on 4 bits, read by one",
        (*LORA, "--quantization=4bit", "--use_double_quant"),
        sharded=("--low_cpu_fsdp",),
    ),
    Job("lora with an embedding", (*LORA, "--modules_to_save=embed_tokens")),
    Job("fp16", ("--use_fp16",), ROUNDED),
    Job("bf16 alone", ("--pure_bf16",), ROUNDED),
    Job("anyprecision", ("--fsdp_config.optimizer=anyprecision",), 2e-3),
    *(
        Job(f"full, 4 processes, {' '.join(flags)}", (), sharded=flags, size=4)
        for flags in (
            ("--sharding_strategy=FULL_SHARD",),
            ("--hsdp", "--sharding_strategy=HYBRID_SHARD", "--sharding_group_size=2"),
            ("--hsdp", "--replica_group_size=4"),
            ("--sharding_strategy=HYBRID_SHARD",),
        )
    ),
    Job("lora on 4 bits, 4 processes", (*LORA, "--quantization=4bit"), size=4),
)
NAMES = [job.name for job in JOBS]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    # Odd numbers of rows: parts of unequal size, and empty ones, on every tensor.
    tiny_folder(folder / "model", **WIDE)
    jsonl(folder / "train.jsonl", sums(37))
    jsonl(folder / "validation.jsonl", sums(47)[37:])
    return folder


@pytest.fixture(scope="module")
def ran(inputs, tmp_path_factory):
    """Where each job's results are: of all processes, by name."""
    folder = tmp_path_factory.mktemp("ranks")
    for size, hosts in ((2, 1), (4, 2)):
        jobs = [job for job in JOBS if job.size == size]
        flags = [job.flags_of_size(size, inputs, folder / job.name) for job in jobs]
        run_jobs(folder / f"logs-{size}", flags, size=size, hosts=hosts, timeout=600)
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


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved(folder: Path) -> dict[str, torch.Tensor]:
    files = folder.glob("*.safetensors")
    return {key: value for path in files for key, value in load_file(path).items()}


@pytest.mark.parametrize("job", JOBS, ids=NAMES)
def test_losses_norms_and_weights_are_those_of_one_process(job, ran, alone):
    found, expected = metrics(ran / job.name), metrics(alone(job))
    assert len(found) == len(expected) > 4
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("loss", "grad_norm", "eval_loss"):
            if name in theirs:
                assert ours[name] == pytest.approx(theirs[name], rel=job.tolerance)
        for name in ("step", "epoch", "lr", "tokens", "supervised_tokens"):
            assert ours.get(name) == theirs.get(name)
    weights, others = saved(ran / job.name), saved(alone(job))
    assert weights.keys() == others.keys() != set()
    for key, value in weights.items():
        assert value.shape == others[key].shape
        # Adam makes a step of full size of a gradient that is rounding alone.
        assert (value.float() - others[key].float()).abs().max() <= max(10 * job.tolerance, 2e-5)


def test_one_process_writes_and_speaks(ran):
    logs = sorted((ran / "logs-2").glob("0-*.log"))
    texts = [log.read_text() for log in logs]
    assert "Training is over" in texts[0]
    assert texts[1] == ""


def test_full_fine_tuning_puts_its_checkpoints_where_the_original_did(ran):
    name = "full, FULL_SHARD"
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
    number = [job.name for job in JOBS if job.size == 2].index("lora, profiled")
    assert "aten::mm" in (ran / "logs-2" / f"{number}-0.log").read_text()


def test_the_bound_is_one(ran):
    """Other rows in the steps give other losses."""
    first, second = metrics(ran / "full, FULL_SHARD"), metrics(ran / "full, padding")
    assert any(
        abs(a["loss"] - b["loss"]) > 1e-3
        for a, b in zip(first, second, strict=False)
        if "loss" in a and "loss" in b
    )
    assert torch.isfinite(torch.tensor([line["loss"] for line in first if "loss" in line])).all()
