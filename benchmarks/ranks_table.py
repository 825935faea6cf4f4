"""The table of several processes on one machine."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import ratios, spread
from benchmarks.ranks import SIZES
from benchmarks.row import Section, number

_GIB = 2**30
_TITLES = {"lora": "LoRA", "full": "Full"}


def lines(section: Section) -> Iterator[str]:
    yield (
        f"Several processes on this one machine (FULL_SHARD over gloo, {section['precision']}; the"
        " same steps; each process has its part of the cores):"
    )
    yield ""
    yield (
        "| | tokens/s ÷ one process's | lowest to highest | peak memory of each, GiB |"
        " received by each in a step, GiB | ÷ least for its passes |"
    )
    yield "|---|--:|--:|--:|--:|--:|"
    for kind, title in _TITLES.items():
        for size in SIZES:
            yield _line(section, kind, title, size)


def _line(section: Section, kind: str, title: str, size: int) -> str:
    runs = [found[f"{kind}, {size}"] for found in section["rounds"]]
    alone = [found[f"{kind}, 1"]["rate"] for found in section["rounds"]]
    speed = ratios([run["rate"] for run in runs], alone)
    peaks = spread([max(run["peak_gib"]) for run in runs])
    received = sum(runs[0]["received"].values()) / section["steps"] / _GIB
    cells = [
        f"{title}, {size} process{'es' if size > 1 else ''}",
        f"{number(speed.median)}×",
        "" if size == 1 else f"{number(speed.low)} to {number(speed.high)}",
        number(peaks.median),
        number(received) if size > 1 else "",
        f"{number(_over_least(section, runs[0], size))}×" if size > 1 else "",
    ]
    return f"| {' | '.join(cells)} |"


def _over_least(section: Section, run: dict[str, dict[str, int]], size: int) -> float:
    """Gathered ÷ what whole passes take: in each, layers twice and the rest once."""
    weights = section["weights"]
    one_pass: float = (2 * weights["layers"] + weights["rest"]) * (size - 1) / size
    gathered: int = run["received"]["all_gather_single"]
    return gathered / (max(1, round(gathered / one_pass)) * one_pass)
