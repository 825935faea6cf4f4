"""Tokens per second, peak memory and the use of the machine: ours and TRL's, in turns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import ours, trl_sft
from benchmarks.bench import Bench
from benchmarks.contenders import DEFAULT, Contender, searched
from benchmarks.flops import Shape, Work, full_flops, lora_flops
from benchmarks.inventory import Step
from benchmarks.run import Run


@dataclass(frozen=True)
class Contest:
    """What both sides have to do. plan: our steps, which TRL follows where it groups by length."""

    bench: Bench
    our_job: ours.Job
    their_job: trl_sft.Job
    plan: list[Step]

    def ours(self) -> Run:
        return ours.run(self.bench, self.our_job)

    def theirs(self, contender: Contender) -> Run:
        # At random, it draws from all documents.
        all_rows = replace(self.their_job, file=str(self.our_job.file))
        return trl_sft.run(self.bench, self.their_job if contender.grouped else all_rows, contender)

    def say(self, text: str) -> None:
        self.bench.say(f"{'LoRA' if self.our_job.adapter else 'full'}: {text}")


def measure(bench: Bench, *, adapter: bool) -> dict[str, Any]:
    """LoRA, or full fine-tuning without `adapter`."""
    scale = bench.scale
    file = bench.rows_file(bench.rows("train")[: scale.documents])
    contest = _contest(
        bench,
        file,
        adapter=adapter,
        steps=scale.warmup + scale.steps,
        rows=scale.micro_batch,
        accumulation=scale.accumulation,
        bf16=bench.machine["bf16"],
    )
    contest.ours()  # unmeasured: what is compiled or cached once is there afterwards
    found = searched(adapter=adapter, bf16=bench.machine["bf16"])[: scale.searched]
    search = {}
    for contender in found:
        search[contender] = contest.theirs(contender)
        contest.say(f"TRL, {contender.name}: {search[contender].rate(scale.warmup):.0f} tokens/s")
    fastest = max(found, key=lambda contender: search[contender].rate(scale.warmup))

    work = sum((step.work for step in contest.plan[scale.warmup :]), Work(0, 0, 0))
    shape = Shape.from_hf(bench.model_config)
    flops = lora_flops(shape, work, rank=ours.LORA_RANK) if adapter else full_flops(shape, work)
    measured = {
        "precision": bench.precision,
        "warmup": scale.warmup,
        "documents_per_step": scale.micro_batch * scale.accumulation,
        "search": {contender.name: run.as_json() for contender, run in search.items()},
        "fastest": fastest.name,
        "rounds": [_round(contest, fastest, work) for _ in range(scale.rounds)],
        "work": asdict(work),
        "flops": asdict(flops),
    }
    if adapter and not bench.machine["bf16"]:
        measured["bf16_default"] = _bf16_default(bench, file)
    return measured


def _contest(
    bench: Bench,
    file: Path,
    *,
    adapter: bool,
    steps: int,
    rows: int,
    accumulation: int,
    bf16: bool,
) -> Contest:
    plan = bench.plan(file, micro_batch=rows, accumulation=accumulation)[:steps]
    our_job = ours.Job(file, adapter, steps=steps, rows=rows, accumulation=accumulation)
    their_job = trl_sft.Job(
        file=str(in_order(bench, file, plan)),
        adapter=adapter,
        steps=steps,
        rows=rows,
        accumulation=accumulation,
        bf16=bf16,
    )
    return Contest(bench, our_job, their_job, plan)


def _round(contest: Contest, fastest: Contender, work: Work) -> dict[str, Any]:
    """This machine's matrix rate, ours, TRL's default and its fastest, one after the other."""
    bench = contest.bench
    matrix = bench.own("matrix_rate", *dict.fromkeys(("fp32", bench.precision)))
    results = {"ours": contest.ours(), "default": contest.theirs(DEFAULT)}
    results["fastest"] = results["default"] if fastest == DEFAULT else contest.theirs(fastest)
    warmup = bench.scale.warmup
    assert sum(results["ours"].tokens[warmup:]) == work.tokens, "the FLOPs are of other documents"
    said = ", ".join(f"{name} {run.rate(warmup):.0f}" for name, run in results.items())
    contest.say(f"{said} tokens/s")
    return {"matrix_gflops": matrix} | {name: run.as_json() for name, run in results.items()}


def in_order(bench: Bench, file: Path, steps: list[Step]) -> Path:
    """The rows of some steps of ours, one step after the other."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    ordered = bench.new_path("ordered").with_suffix(".jsonl")
    ordered.write_text("".join(lines[row] for step in steps for row in step.rows), encoding="utf-8")
    return ordered


def _bf16_default(bench: Bench, file: Path) -> dict[str, Any]:
    """TRL as it comes, in bf16, on a processor that has to emulate it: a step takes minutes.

    Once, with one step of two documents after one of two.
    """
    contest = _contest(bench, file, adapter=True, steps=2, rows=2, accumulation=1, bf16=True)
    results = {"ours": contest.ours(), "default": contest.theirs(replace(DEFAULT, grouped=True))}
    contest.say(f"TRL, default in bf16: {results['default'].rate(1):.1f} tokens/s")
    return {"warmup": 1} | {name: run.as_json() for name, run in results.items()}
