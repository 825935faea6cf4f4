"""One long document a step: where TRL's gradient checkpointing keeps less than we do."""

from __future__ import annotations

from typing import Any

from benchmarks import ours, trl_sft
from benchmarks.bench import Bench
from benchmarks.contenders import DEFAULT

CONTEXT = 4_096
TEXT = 11_000
"""Characters of a document: between 3,000 and 4,096 tokens of GSM8K."""


def measure(bench: Bench) -> dict[str, Any]:
    """LoRA, once on each side: a warm-up step, and one that counts."""
    warmup, steps = 1, 2
    file = bench.rows_file(_long_rows(bench, count=steps))
    common: dict[str, Any] = {"adapter": True, "steps": steps, "rows": 1, "context": CONTEXT}
    our_job = ours.Job(file=file, **common)
    their_job = trl_sft.Job(file=str(file), accumulation=1, bf16=bench.machine["bf16"], **common)
    found = {"ours": ours.run(bench, our_job), "default": trl_sft.run(bench, their_job, DEFAULT)}
    for who, run in found.items():
        bench.say(f"long: {who} {run.rate(warmup):.0f} tokens/s, {run.peak_gib:.2f} GiB")
    return {
        "precision": bench.precision,
        "warmup": warmup,
        "rounds": [{who: run.as_json() for who, run in found.items()}],
    }


def _long_rows(bench: Bench, *, count: int) -> list[dict[str, Any]]:
    """Questions and answers one after the other, as one question and one answer."""
    rows: list[dict[str, Any]] = []
    source = iter(bench.rows("train"))
    for _ in range(count):
        questions, answers = "", ""
        while len(questions) + len(answers) < TEXT:
            question, answer = (message["content"] for message in next(source)["messages"])
            questions, answers = f"{questions}{question}\n", f"{answers}{answer}\n"
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": questions},
                    {"role": "assistant", "content": answers},
                ]
            }
        )
    return rows
