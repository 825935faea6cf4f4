"""What works on several processes with what: a table of which every cell is a run.

docs/distributed.md shows it, made anew with `PYTHONPATH=tests python -m support.combinations`;
tests/distributed/test_combinations.py runs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llama_recipes.configs.fsdp import ShardingStrategy
from support.pages import ROOT, with_part
from support.side_by_side import BF16, FP16, FP32, MOMENTS, Bound, flags_of_size

PAGE = ROOT / "docs" / "distributed.md"
STRATEGIES = tuple(str(strategy) for strategy in ShardingStrategy)
HYBRID = str(ShardingStrategy.HYBRID_SHARD)
FULL = str(ShardingStrategy.FULL_SHARD)


@dataclass(frozen=True)
class Row:
    """flags: of the run on one process too. sharded: of that on several alone. sizes: how many
    processes, beside HYBRID_SHARD, which needs four. refused: strategy → what the refusal says.
    at_once: `make test` runs it with every strategy on two processes, and with two on four."""

    name: str
    flags: tuple[str, ...] = ()
    bound: Bound = FP32
    sharded: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (2,)
    refused: dict[str, str] = field(default_factory=dict, hash=False)
    at_once: bool = False


@dataclass(frozen=True)
class Cell:
    row: Row
    strategy: str
    size: int

    @property
    def refusal(self) -> str:
        return self.row.refused.get(self.strategy, "")

    @property
    def is_long(self) -> bool:
        """Whether it is left to `make test-faults`: processes on two cores take their time."""
        if (self.size, self.strategy) == (2, FULL):
            return False
        return not self.row.at_once or (self.size == 4 and self.strategy not in (FULL, HYBRID))

    def __str__(self) -> str:
        return f"{self.row.name.replace('`', '')}, {self.strategy}, {self.size}"

    def flags(self, inputs: Path, output: Path, *, alone: bool = False) -> list[str]:
        sharded = (f"--sharding_strategy={self.strategy}", *self.row.sharded)
        size = 1 if alone else self.size
        return flags_of_size(size, inputs, output, ("--num_epochs=1", *self.row.flags), sharded)


EXACT = ("--no_mixed_precision",)
LORA = ("--use_peft", "--lora_config.lora_dropout=0")
BITS_4 = (*LORA, "--quantization=4bit")
ANYPRECISION = "--fsdp_config.optimizer=anyprecision"
NO_ADAPTER = dict.fromkeys(
    STRATEGIES,
    "--quantization needs --use_peft: quantised weights cannot be trained, an adapter on them can.",
)
GROUPS = {
    "NO_SHARD": "--hsdp and --sharding_strategy NO_SHARD exclude each other: the first shards"
    " within groups, the second nowhere; leave one of them out."
}

ROWS = (
    Row("all weights", EXACT, sizes=(2, 4), at_once=True),
    Row(
        "all weights, `--hsdp`",
        EXACT,
        sharded=("--hsdp", "--sharding_group_size=2"),
        sizes=(4,),
        refused=GROUPS,
        at_once=True,
    ),
    Row("all weights, nothing recomputed", EXACT, sharded=("--no_fsdp_activation_checkpointing",)),
    Row(
        "all weights, `--fsdp_cpu_offload`, which does nothing on a processor",
        EXACT,
        sharded=("--fsdp_cpu_offload",),
    ),
    Row("all weights, `--save_optimizer`", (*EXACT, "--save_optimizer")),
    Row("all weights, `--freeze_layers`", (*EXACT, "--freeze_layers", "--num_freeze_layers=1")),
    Row("all weights, mixed bf16, the default", (), BF16, at_once=True),
    Row("all weights, `--use_fp16`", ("--use_fp16",), FP16),
    Row("all weights, `--pure_bf16`", ("--pure_bf16",), BF16),
    Row("all weights, anyprecision", (*EXACT, ANYPRECISION), MOMENTS),
    Row(
        "all weights, anyprecision with Kahan summation, `--pure_bf16`",
        ("--pure_bf16", ANYPRECISION, "--use_kahan_summation"),
        BF16,
    ),
    Row("all weights in 8 bits", ("--quantization=8bit",), refused=NO_ADAPTER),
    Row("all weights in 4 bits", ("--quantization=4bit",), refused=NO_ADAPTER),
    Row("LoRA", (*EXACT, *LORA), at_once=True),
    Row("LoRA, mixed bf16, the default", LORA, BF16),
    Row("LoRA with a trained embedding", (*EXACT, *LORA, "--modules_to_save=embed_tokens")),
    Row(
        "llama_adapter",
        (*EXACT, "--use_peft", "--peft_method=llama_adapter", "--adapter_layers=2"),
    ),
    Row("prefix", (*EXACT, "--use_peft", "--peft_method=prefix")),
    Row("LoRA on 8 bits", (*EXACT, *LORA, "--quantization=8bit")),
    Row("LoRA on 4 bits", (*EXACT, *BITS_4), sizes=(2, 4), at_once=True),
    Row("LoRA on 4 bits, double quantisation", (*EXACT, *BITS_4, "--use_double_quant")),
    Row("LoRA on 4 bits, mixed bf16, the default", BITS_4, BF16),
)

CELLS = tuple(
    Cell(row, strategy, size)
    for row in ROWS
    for strategy in STRATEGIES
    for size in ((4,) if strategy == HYBRID else row.sizes)
)


def table() -> str:
    """Rows and strategies, and below them what a refusal says and what the bounds are."""
    reasons = list(dict.fromkeys(cell.refusal for cell in CELLS if cell.refusal))
    head = ["", *(f"`{strategy}`" for strategy in STRATEGIES), "bound"]
    lines = [head, ["---"] * len(head)]
    for row in ROWS:
        cells = [_shown(row, strategy, reasons) for strategy in STRATEGIES]
        refused = all(strategy in row.refused for strategy in STRATEGIES)
        lines.append([row.name, *cells, "" if refused else row.bound.name])
    parts = ["\n".join(f"| {' | '.join(line)} |" for line in lines), ""]
    parts += [f"- refused ({number}): {reason}" for number, reason in enumerate(reasons, 1)]
    parts += ["", "| bound | losses, norms | weights | because of |", "|---|--:|--:|---|"]
    parts += [
        f"| {bound.name} | {bound.losses:.1g} | {bound.weights:.1g} | {bound.why} |"
        for bound in (FP32, MOMENTS, FP16, BF16)
    ]
    return "\n".join(parts)


def _shown(row: Row, strategy: str, reasons: list[str]) -> str:
    if strategy in row.refused:
        return f"refused ({reasons.index(row.refused[strategy]) + 1})"
    cells = [cell for cell in CELLS if cell.row == row and cell.strategy == strategy]
    return ", ".join(f"*{cell.size}*" if cell.is_long else str(cell.size) for cell in cells)


def filled(page: str) -> str:
    """The page with its table made anew."""
    return with_part(page, "combinations", table())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
