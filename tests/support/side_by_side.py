"""A run on several processes next to the same run on one: its inputs, its flags, and how far apart
the two may be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.quantised import WIDE
from support.tiny_folder import jsonl, sums, tiny_folder

MICRO_BATCHES = 4
"""Of a step, over all processes."""
LR = 1e-2


@dataclass(frozen=True)
class Bound:
    """losses: relative, of losses and gradient norms. weights: root mean square of the differences
    of all that is saved, as a share of the learning rate: what a step of Adam moves a weight by."""

    name: str
    losses: float
    weights: float
    why: str


FP32 = Bound("fp32", 2e-6, 1e-4, "sums in another order")
MOMENTS = Bound(
    "moments in bf16", 2e-5, 1e-3, "such a sum seldom moves a moment to the next bf16 number"
)
FP16 = Bound(
    "fp16", 2 * 2**-10, 1e-2, "two units in the last place, 2⁻¹⁰, of what a micro-batch gives"
)
BF16 = Bound(
    "bf16",
    2 * 2**-8,
    1e-1,
    "two units in the last place, 2⁻⁸; Adam makes whole steps of gradients that are rounding alone",
)


def make_inputs(folder: Path) -> Path:
    """Odd numbers of rows: parts of unequal size, and empty ones, on every tensor; an epoch whose
    last step has fewer micro-batches than processes."""
    tiny_folder(folder / "model", **WIDE)
    jsonl(folder / "train.jsonl", sums(37))
    jsonl(folder / "validation.jsonl", sums(47)[37:])
    return folder


def flags_of_size(
    size: int, inputs: Path, output: Path, flags: Sequence[str], sharded: Sequence[str] = ()
) -> list[str]:
    """Of the run with `flags` on `size` processes; `sharded` counts where there are several."""
    found = [
        *(f"--model_name={inputs / 'model'}", "--dataset=file_dataset", "--report_samples=0"),
        f"--train_file={inputs / 'train.jsonl'}",
        f"--validation_file={inputs / 'validation.jsonl'}",
        *("--context_length=64", "--batch_size_training=1", f"--lr={LR}"),
        *(f"--gradient_accumulation_steps={MICRO_BATCHES // size}", f"--output_dir={output}"),
        *flags,
    ]
    several = ["--enable_fsdp", f"--dist_checkpoint_root_folder={output}-sharded", *sharded]
    return found + several if size > 1 else found


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the result, and the optimizer's state where it is kept."""
    files = folder.glob("*.safetensors")
    return {key: value for path in files for key, value in load_file(path).items()}


def check_same(found: Path, expected: Path, bound: Bound) -> None:
    """Raises AssertionError where the runs in two folders are further apart than `bound`."""
    ours, theirs = metrics(found), metrics(expected)
    assert len(ours) == len(theirs) > 3
    assert any("eval_loss" in line for line in theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name in ("loss", "grad_norm", "eval_loss"):
            if name in other:
                assert mine[name] == pytest.approx(other[name], rel=bound.losses), name
        for name in ("step", "epoch", "lr", "tokens", "supervised_tokens"):
            assert mine.get(name) == other.get(name)
    weights, others = saved(found), saved(expected)
    assert weights.keys() == others.keys() != set()
    assert {key: value.shape for key, value in weights.items()} == {
        key: value.shape for key, value in others.items()
    }
    apart = torch.cat([(weights[key].float() - others[key].float()).flatten() for key in others])
    assert apart.square().mean().sqrt().item() <= bound.weights * LR
