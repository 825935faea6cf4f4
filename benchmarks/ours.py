"""One measured run of ours, as a user starts it: the command, and what it wrote."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.inventory import SEED
from benchmarks.run import Run

LORA_RANK = 8
LORA_ALPHA = 32
LORA_DROPOUT = 0.05
LORA_TARGETS = ("q_proj", "v_proj")


@dataclass(frozen=True)
class Job:
    """rows, accumulation: rows of a micro-batch, micro-batches of an optimizer step.

    checkpointing: compute activations anew in the backward pass.
    quantization, init_lora_weights: what the flags of those names get; empty: they are not given.
    """

    file: Path
    adapter: bool
    steps: int
    rows: int
    accumulation: int = 1
    context: int = 1024
    strategy: str = "padding"
    lr: float = 1e-4
    save: bool = False
    checkpointing: bool = False
    quantization: str = ""
    init_lora_weights: str = ""
    rank: int = LORA_RANK
    target_modules: tuple[str, ...] = LORA_TARGETS


def command(job: Job, *, model: str, folder: Path) -> list[str]:
    """The command line of `job`, with results in `folder`."""
    flags = {
        "model_name": model,
        "dataset": "file_dataset",
        "train_file": job.file,
        "batching_strategy": job.strategy,
        "context_length": job.context,
        "batch_size_training": job.rows,
        "gradient_accumulation_steps": job.accumulation,
        "num_epochs": 1,
        "max_train_step": job.steps,
        "lr": job.lr,
        "lr_scheduler": "constant",
        # As transformers' Trainer does, unasked.
        "gradient_clipping": True,
        "gradient_clipping_threshold": 1.0,
        "run_validation": False,
        "save_model": job.save,
        "seed": SEED,
        "output_dir": folder,
    }
    if job.adapter:
        flags |= {
            "use_peft": True,
            "lora_config.r": job.rank,
            "lora_config.lora_alpha": LORA_ALPHA * job.rank // LORA_RANK,
            "lora_config.lora_dropout": LORA_DROPOUT,
            "lora_config.target_modules": ",".join(job.target_modules),
        }
    if job.checkpointing:
        flags["fsdp_config.fsdp_activation_checkpointing"] = True
    if job.quantization:
        flags["quantization"] = job.quantization
    if job.init_lora_weights:
        flags["lora_config.init_lora_weights"] = job.init_lora_weights
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    return [sys.executable, "-m", "llama_recipes.finetuning", *arguments]


def run(bench: Bench, job: Job, *, model: str | None = None, folder: Path | None = None) -> Run:
    """model: what the user calls it; the exported folder where not given."""
    folder = folder or bench.new_path("ours")
    metrics = folder / "metrics.jsonl"
    ended = bench.spawn(
        command(job, model=model or str(bench.model), folder=folder), name="ours", watch=metrics
    )
    steps = read_metrics(metrics)
    return Run(
        tokens=[step["tokens"] for step in steps],
        seconds=[step["step_seconds"] for step in steps],
        peak_gib=ended.peak_gib,
        first_step_seconds=ended.first_seconds,
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Its steps, with `tokens` of each step alone: in the file they are those of all so far."""
    with path.open(encoding="utf-8") as lines:
        steps = [entry for entry in map(json.loads, lines) if "loss" in entry]
    before = 0
    for step in steps:
        step["tokens"], before = step["tokens"] - before, step["tokens"]
    return steps
