"""From the command to the first optimizer step, with everything cached that can be."""

from __future__ import annotations

from typing import Any

from benchmarks import ours
from benchmarks.bench import Bench
from benchmarks.inventory import MODEL


def measure(bench: Bench) -> dict[str, Any]:
    """Seconds of LoRA with one document a step, on the model that the package ships."""
    file = bench.rows_file(bench.rows("train")[: bench.scale.documents])
    job = ours.Job(file=file, adapter=True, steps=1, rows=1)
    ours.run(bench, job, model=MODEL)
    seconds = [
        ours.run(bench, job, model=MODEL).first_step_seconds for _ in range(bench.scale.rounds)
    ]
    bench.say(f"start: {', '.join(f'{s:.1f}' for s in seconds if s)} s")
    return {"precision": bench.precision, "seconds": seconds}
