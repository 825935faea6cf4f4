"""Peak memory of training all weights, LoRA and LoRA on 4 bits, with and without checkpointing.

Both sides make two steps of one row each, the very same tokens: the second step is the first that
has an optimizer's state from its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import ours, trl_sft
from benchmarks.bench import Bench
from benchmarks.contenders import GROUPED, GROUPED_WITHOUT_CHECKPOINTING
from benchmarks.measure import OutOfMemoryError
from benchmarks.run import Run

STEPS = 2
ROUNDS = 2
"""At most: what else the machine does changes a speed, and no memory."""


@dataclass(frozen=True)
class Kind:
    name: str
    adapter: bool
    four_bit: bool = False


KINDS = (
    Kind("full", adapter=False),
    Kind("lora", adapter=True),
    Kind("qlora", adapter=True, four_bit=True),
)


def measure(bench: Bench) -> dict[str, Any]:
    file = bench.rows_file(bench.rows("train")[: bench.scale.documents])
    held = {kind.name: _held(bench, file, kind) for kind in KINDS}
    contests = []
    for context in bench.scale.memory_contexts:
        packed, work = _packed(bench, file, context)
        for kind in KINDS:
            for checkpointing in (False, True):
                found = [
                    _round(
                        bench,
                        _our_job(file, kind, context, checkpointing=checkpointing),
                        _their_job(bench, packed, kind, context),
                        work["tokens"],
                    )
                    for _ in range(min(ROUNDS, bench.scale.rounds))
                ]
                contests.append(
                    {
                        "kind": kind.name,
                        "checkpointing": checkpointing,
                        "context": context,
                        **work,
                        "rounds": found,
                    }
                )
    return {
        "precision": bench.precision,
        "bitsandbytes": version("bitsandbytes"),
        "held": held,
        "contests": contests,
    }


def _packed(bench: Bench, file: Path, context: int) -> tuple[Path, dict[str, Any]]:
    """The rows that both take, as TRL reads them, and how many tokens each has."""
    packed = bench.new_path("packed").with_suffix(".jsonl")
    job = {
        "model": str(bench.model),
        "file": str(file),
        "context": context,
        "count": STEPS,
        "write_to": str(packed),
    }
    return packed, bench.own("packed", json.dumps(job))


def _our_job(file: Path, kind: Kind, context: int, *, checkpointing: bool) -> ours.Job:
    return ours.Job(
        file=file,
        adapter=kind.adapter,
        steps=STEPS,
        rows=1,
        context=context,
        strategy="packing",
        checkpointing=checkpointing,
        quantization="4bit" if kind.four_bit else "",
    )


def _their_job(bench: Bench, packed: Path, kind: Kind, context: int) -> trl_sft.Job:
    return trl_sft.Job(
        file=str(packed),
        packed=True,
        adapter=kind.adapter,
        four_bit=kind.four_bit,
        steps=STEPS,
        rows=1,
        accumulation=1,
        bf16=bench.machine["bf16"],
        context=context,
    )


def _round(
    bench: Bench, our_job: ours.Job, their_job: trl_sft.Job, tokens: list[int]
) -> dict[str, Any]:
    contender = GROUPED if our_job.checkpointing else GROUPED_WITHOUT_CHECKPOINTING
    runs: dict[str, Callable[[], Run]] = {
        "ours": lambda: ours.run(bench, our_job),
        "theirs": lambda: trl_sft.run(bench, their_job, contender),
    }
    found = {}
    for who, run in runs.items():
        found[who] = _tried(run)
        assert found[who].get("tokens", tokens) == tokens, f"{who} trained on other tokens"
    said = ", ".join(
        f"{who} {'more than ' if is_bound(run) else ''}{run['peak_gib']:.2f} GiB"
        for who, run in found.items()
    )
    name = "full" if not our_job.adapter else "QLoRA" if their_job.four_bit else "LoRA"
    how = ", checkpointing" if our_job.checkpointing else ""
    bench.say(f"memory: {name}, {our_job.context:,} tokens{how}: {said}")
    return found


def _tried(run: Callable[[], Run]) -> dict[str, Any]:
    """What there is too little memory for is a result: that it wants more than it had by then."""
    try:
        return run().as_json()
    except OutOfMemoryError as error:
        return {"peak_gib": error.peak_gib}


def is_bound(run: dict[str, Any]) -> bool:
    """Whether a run came to no end, so that its memory is only known to be more."""
    return "tokens" not in run


def _held(bench: Bench, file: Path, kind: Kind) -> dict[str, Any]:
    """Of both sides, before the first step."""
    job = _our_job(file, kind, max(bench.scale.memory_contexts), checkpointing=False)
    folder = bench.new_path("held")
    _, _, _, *flags = ours.command(job, model=str(bench.model), folder=folder)
    return {
        who: bench.own(
            "held", json.dumps({"ours": who == "ours", "four_bit": kind.four_bit, "flags": flags})
        )
        for who in ("ours", "theirs")
    }
