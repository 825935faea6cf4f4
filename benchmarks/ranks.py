"""One, two and four processes on one machine: speed, memory of each, and bytes between them."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from typing import Any

from benchmarks import ours
from benchmarks.bench import Bench

SIZES = (1, 2, 4)
_MICRO_BATCHES = 4
"""Of a step, over all processes."""


def measure(bench: Bench) -> dict[str, Any]:
    """LoRA and full fine-tuning with FULL_SHARD: the same steps, shared among more processes."""
    scale = bench.scale
    file = bench.rows_file(bench.rows("train")[: scale.documents])
    rounds = []
    for number in range(min(scale.rounds, 3)):
        found: dict[str, dict[str, Any]] = {}
        for kind in ("lora", "full"):
            job = ours.Job(
                file=file,
                adapter=kind == "lora",
                steps=scale.warmup + scale.steps,
                rows=1,
                context=512,
                strategy="packing",
            )
            for size in SIZES:
                found[f"{kind}, {size}"] = _run(bench, job, size)
        rounds.append(found)
        rates = (f"{name}: {run['rate']:.0f}" for name, run in found.items())
        bench.say(f"processes: round {number + 1}: tokens/s {', '.join(rates)}")
    return {
        "precision": bench.precision,
        "steps": scale.warmup + scale.steps,
        "weights": _weight_bytes(bench),
        "rounds": rounds,
    }


def _run(bench: Bench, job: ours.Job, size: int) -> dict[str, Any]:
    folder = bench.new_path("ranks")
    folder.mkdir()
    job = replace(job, accumulation=_MICRO_BATCHES // size)
    flags = ours.command(job, model=str(bench.model), folder=folder / "run")[3:]
    if size > 1:
        flags += ["--enable_fsdp", "--no_fsdp_activation_checkpointing"]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={size}"]
    alone = [sys.executable, *(launch if size > 1 else [])]
    bench.spawn([*alone, "-m", "benchmarks.traffic", str(folder), *flags], name="ranks")
    steps = ours.read_metrics(folder / "run" / "metrics.jsonl")[bench.scale.warmup :]
    ranks = [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]
    return {
        "rate": sum(s["tokens"] for s in steps) / sum(s["step_seconds"] for s in steps),
        "peak_gib": [rank["peak_gib"] for rank in ranks],
        "received": ranks[0]["received"],
    }


def _weight_bytes(bench: Bench) -> dict[str, int]:
    """Of all decoder layers and of the rest, in fp32: what FULL_SHARD gathers twice, and once."""
    from llama_recipes.model.source import open_model

    found = {"layers": 0, "rest": 0}
    for key, shape in open_model(str(bench.model)).tensors.shapes.items():
        found["layers" if ".layers." in key else "rest"] += 4 * math.prod(shape)
    return found
