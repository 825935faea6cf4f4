"""Preparing many documents, `python -m benchmarks.preparation JSON`: its time and its memory."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.bench import CONTEXT, Bench
from benchmarks.documents import short, write_rows


def measure(bench: Bench) -> dict[str, Any]:
    """Generated rows of text until the first epoch's batches are planned."""
    found = []
    for count in bench.scale.prepared:
        file = write_rows(bench.new_path("short").with_suffix(".jsonl"), short(count))
        result = bench.own(
            "preparation", json.dumps({"model": str(bench.model), "file": str(file)})
        )
        found.append({"documents": count, **result})
        file.unlink()
        bench.say(
            f"preparation: {count:,} documents in {result['seconds']:.0f} s,"
            f" {result['peak_gib'] - result['baseline_gib']:.2f} GiB"
        )
    return {"runs": found}


def prepare(model: Path, file: Path) -> dict[str, Any]:
    """Read, tokenise, store, and plan the packing of an epoch, as a run does.

    baseline_gib: the highest memory of this process before, with all that it imports.
    peak_gib: the same after; worker_gib: of the largest of the processes that helped it.
    """
    import torch  # noqa: F401 - part of what a run holds before it reads data

    from llama_recipes.configs.datasets import FileDataset
    from llama_recipes.data.loader import Loader
    from llama_recipes.data.prepare import Preparation
    from llama_recipes.data.splits import open_splits
    from llama_recipes.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)
    baseline = _peak_gib(resource.RUSAGE_SELF)
    started = time.perf_counter()
    store = open_splits(
        FileDataset(train_file=str(file)),
        tokenizer,
        Preparation(CONTEXT, "end", train_on_prompt=False),
        validate=False,
        seed=0,
        notify=lambda _: None,
    ).train
    stored = time.perf_counter()
    loader = Loader(
        store,
        strategy="packing",
        batch_size=4,
        context_length=CONTEXT,
        pad_id=0,
        vocab_size=tokenizer.size,
        seed=0,
    )
    batches = len(loader.plan(0))
    ended = time.perf_counter()
    return {
        "tokens": int(store.lengths.sum()),
        "batches": batches,
        "seconds": ended - started,
        "plan_seconds": ended - stored,
        "baseline_gib": baseline,
        "peak_gib": _peak_gib(resource.RUSAGE_SELF),
        "worker_gib": _peak_gib(resource.RUSAGE_CHILDREN),
    }


def _peak_gib(who: int) -> float:
    return resource.getrusage(who).ru_maxrss * 1024 / 2**30


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(prepare(Path(asked["model"]), Path(asked["file"]))))
