"""A count of floating-point operations as a table: a line for each kind of module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from llama_recipes.monitoring.flops import OUTSIDE, PASSES, Count, Pass

_ITSELF = "itself"
"""The line for what a module computes beside its parts, as attention does scores beside q_proj."""

_UNITS = (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6))

Path = tuple[str, ...]
Flops = Counter[tuple[Path, Pass]]


def flop_table(count: Count) -> str:
    """Forward, backward and recomputed; a module's line holds what is in it.

    share: of the first two together. The unit stands first: the largest of which there are ten.
    """
    own = _by_kind(count)
    whole: Flops = Counter()
    first: dict[Path, int] = {}  # in the order in which they were computed
    for number, ((path, kind), flops) in enumerate(own.items()):
        for length in range(1, len(path) + 1):
            whole[path[:length], kind] += flops
            first.setdefault(path[:length], number)
    ordered = sorted(first, key=lambda path: [first[path[: i + 1]] for i in range(len(path))])
    parents = {path[:-1] for path in first}

    unit, size = next((u for u in _UNITS if count.model >= 10 * u[1]), _UNITS[-1])

    def line(label: str, flops: Flops, path: Path) -> tuple[str, ...]:
        share = (flops[path, "forward"] + flops[path, "backward"]) / count.model
        return (label, *(f"{flops[path, kind] / size:,.3f}" for kind in PASSES), f"{share:.1%}")

    lines = [(unit, *PASSES, "share")]
    for path in ordered:
        lines.append(line("  " * (len(path) - 1) + path[-1], whole, path))
        if path in parents and any(own[path, kind] for kind in PASSES):
            lines.append(line("  " * len(path) + _ITSELF, own, path))
    lines.append(line("all", Counter({((), kind): count.of(kind) for kind in PASSES}), ()))
    return _aligned(lines)


def tflop_by_module(count: Count) -> dict[str, dict[str, float]]:
    """What each kind of module computes itself, in TFLOP by pass: `Llama.layers.mlp.up_proj`."""
    found: dict[str, dict[str, float]] = {}
    for (path, kind), flops in _by_kind(count).items():
        found.setdefault(".".join(path), dict.fromkeys(PASSES, 0.0))[kind] += flops / 1e12
    return found


def _aligned(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join((label.ljust(widths[0]), *map(str.rjust, cells, widths[1:])))
        for label, *cells in lines
    )


def _by_kind(count: Count) -> Flops:
    """All layers together: `model.layers.3.mlp` is Llama, layers, mlp."""
    flops: Flops = Counter()
    for (name, kind), number in count.flops.items():
        name = re.sub(r"\.\d+\b", "", name).removeprefix("model").removeprefix(".")
        inside = ("Llama", *name.split(".")) if name else ("Llama",)
        flops[(OUTSIDE,) if name == OUTSIDE else inside, kind] += number
    return flops
