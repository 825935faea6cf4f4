"""Whether a token costs the same in long rows as in short, and in large data sets as in small."""

from __future__ import annotations

from typing import Any

from benchmarks import ours
from benchmarks.bench import Bench
from benchmarks.documents import numbered
from benchmarks.run import Run

LONGEST_TEXT = 1_000
"""Characters of question and answer, so that no document is longer than the shortest row."""


def contexts(bench: Bench) -> dict[str, Any]:
    """LoRA on short documents packed into rows of several lengths, as many tokens a step."""
    scale = bench.scale
    file = bench.rows_file(_short_rows(bench)[: scale.documents])
    jobs = {
        context: ours.Job(
            file=file,
            adapter=True,
            steps=scale.warmup + scale.steps,
            rows=scale.step_tokens // context,
            context=context,
            strategy="packing",
        )
        for context in scale.contexts
    }
    for job in jobs.values():  # each length is a preparation of its own in our cache
        ours.run(bench, job)
    rounds = []
    for number in range(scale.rounds):
        results = {context: ours.run(bench, job) for context, job in jobs.items()}
        rounds.append({str(context): run.as_json() for context, run in results.items()})
        _say(bench, f"contexts: round {number + 1} of {scale.rounds}", results)
    return {"precision": bench.precision, "warmup": scale.warmup, "rounds": rounds}


def sizes(bench: Bench) -> dict[str, Any]:
    """LoRA on data sets of several sizes, none of which our cache has seen."""
    scale = bench.scale
    rows = _short_rows(bench)
    rounds = []
    for number in range(scale.rounds):
        results = {}
        for size in scale.sizes:
            file = bench.rows_file(list(numbered(rows, size, mark=f"{number}.{size}.")))
            job = ours.Job(
                file=file,
                adapter=True,
                steps=scale.warmup + scale.steps,
                rows=max(1, scale.step_tokens // 1024),
                strategy="packing",
            )
            results[size] = ours.run(bench, job)
        rounds.append({str(size): run.as_json() for size, run in results.items()})
        _say(bench, f"data sets: round {number + 1} of {scale.rounds}", results)
    return {"precision": bench.precision, "warmup": scale.warmup, "rounds": rounds}


def _short_rows(bench: Bench) -> list[dict[str, Any]]:
    return [
        row
        for row in bench.rows("train")
        if sum(len(message["content"]) for message in row["messages"]) <= LONGEST_TEXT
    ]


def _say(bench: Bench, what: str, results: dict[int, Run]) -> None:
    rates = (f"{key} {run.rate(bench.scale.warmup):.0f}" for key, run in results.items())
    bench.say(f"{what}: {', '.join(rates)} tokens/s")
